"""The running agent's side of a takeover: the sockets, the key file, and what the pool does for a successor.

Carries out the effects of `netpolq.ipc.takeover.machines.RunningAgent`; the other side is in `netpolq_worker.pool.takeover`.
"""

import logging
import os
import socket
import time

from pathlib import Path
from typing import Protocol, assert_never

from netpolq.ipc.takeover.connection import TakeoverConnection
from netpolq.ipc.takeover.key import make_key, read_key, write_key
from netpolq.ipc.takeover.machines import AgentEffects, RunningAgent
from netpolq.ipc.takeover.messages import (
    AgentEvent,
    AgentTask,
    Close,
    CloseDescriptor,
    Connected,
    Drain,
    Ended,
    HandOnLock,
    LocalProtocolError,
    Message,
    PeerId,
    Received,
    RemoteProtocolError,
    Send,
    Word,
    format_queues,
)
from netpolq.ipc.takeover.protocol import AgentState
from netpolq_worker.pool.event_loop import EventLoop

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
        """A successor is about to install its rules: stop changing them, then call `AgentLock.on_supervisor_exit`."""
        ...

    def kill_supervisor(self) -> None:
        """The supervisor takes too long to stand down."""
        ...

    def resume(self) -> None:
        """The successor has ended before its rules were in place: go on as before."""
        ...

    def leave(self) -> None:
        """The rules of the successor are in place: end, by way of `AgentLock.stop`."""
        ...

    def drain(self, after_s: float) -> None:
        """Let the workers evaluate the packets in their queues and exit, after this delay."""
        ...

    def on_lock_lost(self, reason: str) -> None:
        """This process cannot become the agent: end."""
        ...


class TakeoverListener:
    """The connections of other agents to this one."""

    def __init__(self, callbacks: TakeoverCallbacks, events: EventLoop, queues: range, key_path: Path) -> None:
        """`queues`: the queues that this agent serves. `key_path`: the file for its takeover key."""
        self._callbacks = callbacks
        self._events = events
        self._queues = queues
        self._key_path = key_path
        self._machine = RunningAgent()
        self._socket: socket.socket | None = None
        self._peers: dict[PeerId, TakeoverConnection] = {}
        self._connections = 0
        self._successor_pid = 0
        self._is_paused = False
        self._key_is_missing = False
        self._check_due = 0.0

    @property
    def has_successor(self) -> bool:
        """Whether another agent is taking over, or has."""
        return self._machine.successor is not None

    @property
    def successor_queues(self) -> range:
        """The queues of the agent that has taken over; empty if it did not tell them."""
        return self._machine.successor_queues

    def open(self, listening: socket.socket) -> None:
        """Accept connections at the socket of the agent lock, with a new key."""
        self._socket = listening
        self._machine.key = make_key()
        self._check_due = 0.0
        self._write_key()
        self._events.watch(listening, self._accept)

    def handle(self, event: AgentEvent | Connected | Received | Ended) -> None:
        """Pass an event to the state machine, and carry out its effects."""
        try:
            self._perform(self._machine.handle(event, time.monotonic()))
        except LocalProtocolError as error:
            log.error("error in the takeover: %s", error)

    # --- effects ------------------------------------------------------------------------------------------------------------------

    def _perform(self, effects: AgentEffects) -> None:
        for effect in effects:
            match effect:
                case Send(word, peer):
                    self._send(word, self._peers[peer])
                case HandOnLock(peer):
                    self._peers[peer].send(Message(Word.LEFT), lock=self._socket)
                case Close(peer, reason):
                    self._close(self._peers.pop(peer), reason)
                case CloseDescriptor(descriptor):
                    os.close(descriptor)
                case Drain(after_s):
                    self._callbacks.drain(after_s)
                case RemoteProtocolError(peer, word, state):
                    log.warning("pid %d has sent %r while this agent is %s", self._peers[peer].pid, str(word), state)
                case AgentTask():
                    self._do(effect)
                case _:
                    assert_never(effect)

    def _do(self, task: AgentTask) -> None:
        match task:
            case AgentTask.STOP_SUPERVISOR:
                if self._machine.successor is not None:
                    self._successor_pid = self._peers[self._machine.successor].pid
                log.info("pid %d takes over: standing down", self._successor_pid)
                self._callbacks.stand_down()
            case AgentTask.KILL_SUPERVISOR:
                self._callbacks.kill_supervisor()
            case AgentTask.RESUME_SUPERVISOR:
                log.warning("pid %d has ended before it could take over; going on", self._successor_pid)
                self._callbacks.resume()
            case AgentTask.LEAVE:
                log.info("pid %d has taken over", self._successor_pid)
                self._callbacks.leave()
            case AgentTask.RELEASE_LOCK:
                self._release()
            case _:
                assert_never(task)

    def _send(self, word: Word, peer: TakeoverConnection) -> None:
        if word is Word.REFUSED:
            log.warning("takeover request from pid %d rejected: it does not have the key in %s", peer.pid, self._key_path)
        peer.send(Message(word, format_queues(self._queues) if word is Word.QUEUES else ""))

    def _close(self, peer: TakeoverConnection, reason: str) -> None:
        if reason:
            log.warning("closing the takeover connection of pid %d: %s", peer.pid, reason)
        self._events.unwatch(peer)
        peer.close()

    def _release(self) -> None:
        if self._socket is not None:
            self._events.unwatch(self._socket)
            self._socket.close()
        self._socket = None

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
        connection = TakeoverConnection(end)
        connection.set_timeout(0.0)
        if not connection.is_trusted:
            log.warning("closing the takeover connection of pid %d: another user runs it", connection.pid)
            connection.close()
            return
        self._connections += 1
        peer = PeerId(self._connections)
        self._peers[peer] = connection
        self._events.watch(connection, lambda: self._on_readable(peer))
        self.handle(Connected(peer))

    def _on_readable(self, peer: PeerId) -> None:
        if peer not in self._peers:  # closed since the event loop has found it readable
            return
        try:
            message, descriptor = self._peers[peer].receive()
        except TimeoutError:
            return
        except EOFError:
            self.handle(Ended(peer))
        else:
            self.handle(Received(message, peer, descriptor))

    # --- maintenance --------------------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When to call `maintain`, in monotonic seconds."""
        return min(self._check_due, self._machine.due)

    def maintain(self, now: float) -> None:
        """Do what is due, accept again after a pause, restore the key file if it was removed."""
        self._perform(self._machine.handle_timer(now))
        if now < self._check_due:
            return
        self._check_due = now + _CHECK_S
        if self._is_paused and self._socket is not None:
            self._is_paused = False
            self._events.watch(self._socket, self._accept)
        is_serving = self._socket is not None and self._machine.state is AgentState.SERVING
        if is_serving and read_key(self._key_path) != self._machine.key and self._write_key():
            log.warning("%s was missing and has been restored", self._key_path)

    def _write_key(self) -> bool:
        """Write the key file. Returns whether it is there; logs the first of several failures."""
        try:
            self._key_path.parent.mkdir(mode=0o700, exist_ok=True)
            write_key(self._key_path, self._machine.key)
        except OSError as error:
            if not self._key_is_missing:
                log.error("%s: %s; no agent can take over from this one", self._key_path, error.strerror)
            self._key_is_missing = True
            return False
        self._key_is_missing = False
        return True
