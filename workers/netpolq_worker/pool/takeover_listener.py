"""The running agent's side of a takeover: accepts connections of other agents, checks their key, and stands down for a successor.

The protocol is in `netpolq.ipc.takeover`; the other side is in `netpolq_worker.pool.takeover`.
"""

import logging
import socket
import time

from pathlib import Path
from typing import Protocol

from netpolq.ipc.takeover import (
    KEY,
    LEAVE,
    LEFT,
    REFUSED,
    STAND_DOWN,
    STANDING_DOWN,
    TakeoverConnection,
    is_key,
    make_key,
    read_key,
    write_key,
)
from netpolq_worker.pool.event_loop import EventLoop

_MAX_PEERS = 8
"""Connections at the same time, so that they cannot use up our descriptors: this many with the key, and this many without."""

_KEY_LIMIT_S = 5.0
"""Until a connection must have shown the key. An agent that takes over shows it at once."""

_CHECK_S = 1.0

log = logging.getLogger("takeover")


class TakeoverCallbacks(Protocol):
    """What the pool does in a takeover, on either side."""

    def on_stood_down(self) -> None:
        """No other agent changes the ruleset. May be called more than once."""
        ...

    def on_peer_gone(self) -> None:
        """The agent that we take over from has left."""
        ...

    def stand_down(self) -> None:
        """A successor is about to install its rules: stop changing them, then call `AgentLock.send_stood_down`."""
        ...

    def leave(self) -> None:
        """The rules of the successor are in place: drain and end."""
        ...

    def resume(self) -> None:
        """The successor has ended before its rules were in place: go on as before."""
        ...

    def on_lock_lost(self, reason: str) -> None:
        """This process cannot become the agent: end."""
        ...


class TakeoverListener:
    """The connections of other agents to this one. `successor`: the one that is taking over."""

    def __init__(self, callbacks: TakeoverCallbacks, events: EventLoop, queues: range, key_path: Path) -> None:
        """`queues`: the queues that this agent serves. `key_path`: the file for its takeover key."""
        self._callbacks = callbacks
        self._events = events
        self._queues = queues
        self._key_path = key_path
        self._key = ""
        self._socket: socket.socket | None = None
        self._peers: list[TakeoverConnection] = []
        self._without_key: dict[TakeoverConnection, float] = {}
        """Connections that have not shown the key, the oldest first, and until when they must (monotonic seconds)."""
        self._is_paused = False
        self._key_is_missing = False
        self._check_due = 0.0
        self.successor: TakeoverConnection | None = None

    def open(self, listening: socket.socket) -> None:
        """Accept connections at the socket of the agent lock, with a new key."""
        self._socket = listening
        self._key = make_key()
        self._check_due = 0.0
        try:
            write_key(self._key_path, self._key)
        except OSError as error:
            log.error("%s: %s; no agent can take over from this one", self._key_path, error.strerror)
            self._key_is_missing = True
        self._events.watch(listening, self._accept)

    def send_stood_down(self) -> None:
        """Tell the successor that this agent no longer changes the ruleset."""
        if self.successor is not None:
            self.successor.send(STANDING_DOWN)

    def close(self) -> None:
        """Close all connections, and the socket. A successor receives the socket."""
        if self.successor is not None:
            self.successor.send(LEFT, handing_on=self._socket)
        if self._socket is not None:
            self._events.unwatch(self._socket)
            self._socket.close()
        self._socket = None
        for peer in self._peers:
            self._events.unwatch(peer)
            peer.close()
        self._peers.clear()
        self._without_key.clear()

    # --- connections --------------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._socket is None:
            return
        try:
            end, _address = self._socket.accept()
        except (BlockingIOError, ConnectionError):  # gone again already
            return
        except OSError as error:
            # The socket stays readable: without a pause the pool would do nothing but ask for a descriptor that it does not get.
            log.error("cannot accept a connection of another agent: %s; trying again in a second", error.strerror)
            self._events.unwatch(self._socket)
            self._is_paused = True
            return
        end.setblocking(False)
        peer = TakeoverConnection(end)
        if not peer.is_trusted:
            log.warning("closing the takeover connection of pid %d: another user runs it", peer.pid)
            peer.close()
            return
        if len(self._without_key) >= _MAX_PEERS:
            self._drop(next(iter(self._without_key)), "too many connections")
        peer.send_queues(self._queues)
        self._peers.append(peer)
        self._without_key[peer] = time.monotonic() + _KEY_LIMIT_S
        self._events.watch(peer, lambda: self._on_readable(peer))

    def _on_readable(self, peer: TakeoverConnection) -> None:
        try:
            command, argument = peer.receive()
        except EOFError:
            self._forget(peer)
            if peer is self.successor:
                log.warning("pid %d has ended before it could take over; going on", peer.pid)
                self.successor = None
                self._callbacks.resume()
            return
        if command == KEY and is_key(self._key, argument):
            if len(self._peers) - len(self._without_key) >= _MAX_PEERS:
                self._drop(peer, "too many connections")
            else:
                self._without_key.pop(peer, None)
        elif command in {KEY, STAND_DOWN} and not is_key(self._key, argument):
            log.warning("takeover request from pid %d rejected: it does not have the key in %s", peer.pid, self._key_path)
            peer.send(REFUSED)
        elif command == STAND_DOWN and self.successor in {None, peer}:
            self._without_key.pop(peer, None)
            if self.successor is None:
                log.info("pid %d takes over: standing down", peer.pid)
            self.successor = peer
            self._callbacks.stand_down()
        elif command == LEAVE and peer is self.successor:
            log.info("pid %d has taken over", peer.pid)
            self._callbacks.leave()

    def _drop(self, peer: TakeoverConnection, reason: str) -> None:
        log.warning("closing the takeover connection of pid %d: %s", peer.pid, reason)
        self._forget(peer)

    def _forget(self, peer: TakeoverConnection) -> None:
        self._events.unwatch(peer)
        peer.close()
        self._peers.remove(peer)
        self._without_key.pop(peer, None)

    # --- maintenance --------------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When to call `maintain`, in monotonic seconds."""
        return min(self._check_due, *self._without_key.values()) if self._without_key else self._check_due

    def maintain(self, now: float) -> None:
        """Close connections that do not show the key in time, accept again after a pause, restore the key file if it was removed."""
        for peer in [peer for peer, due in self._without_key.items() if now >= due]:
            self._drop(peer, f"no key within {_KEY_LIMIT_S:.0f} s")
        if now < self._check_due:
            return
        self._check_due = now + _CHECK_S
        if self._is_paused and self._socket is not None:
            self._is_paused = False
            self._events.watch(self._socket, self._accept)
        if self._key and self._socket is not None and self.successor is None and read_key(self._key_path) != self._key:
            self._restore_key()

    def _restore_key(self) -> None:
        try:
            self._key_path.parent.mkdir(mode=0o700, exist_ok=True)
            write_key(self._key_path, self._key)
        except OSError as error:
            if not self._key_is_missing:
                log.error("%s: %s; no agent can take over from this one", self._key_path, error.strerror)
            self._key_is_missing = True
            return
        self._key_is_missing = False
        log.warning("%s was missing and has been restored", self._key_path)
