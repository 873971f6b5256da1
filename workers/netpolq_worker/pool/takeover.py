"""The agent lock: one agent serves a network namespace, and another takes over from it. The protocol is in `netpolq.ipc.takeover`.

This module is the side that takes over; `netpolq_worker.pool.takeover_listener` is the side of the running agent.
"""

import logging
import socket
import time

from pathlib import Path

from netpolq.errors import AlreadyRunningError
from netpolq.ipc.takeover import (
    KEY,
    LEAVE,
    LEFT,
    REFUSED,
    STAND_DOWN,
    STANDING_DOWN,
    TakeoverConnection,
    acquire,
    read_key,
    running_agent,
)
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.takeover_listener import TakeoverCallbacks, TakeoverListener

_ACQUIRE_LIMIT_S = 0.5
_POLL_S = 0.05

log = logging.getLogger("takeover")


class AgentLock:
    """The lock that makes this process the agent of its network namespace, or the connection to the agent that holds it."""

    def __init__(self, callbacks: TakeoverCallbacks, events: EventLoop, queues: range, key_path: Path, *, takeover: bool) -> None:
        """Acquire the lock, or connect to its holder. `key_path`: the file with the holder's key. Raises `AlreadyRunningError`."""
        self._callbacks = callbacks
        self._events = events
        self._queues = queues
        self._key_path = key_path
        self._listener = TakeoverListener(callbacks, events, queues, key_path)
        self._is_lost = False
        self._socket, self._holder = _acquire_or_connect()
        if self._holder is not None and not takeover:
            raise AlreadyRunningError(
                f"an agent already serves this network namespace (pid {self._holder.pid}); stop it first, or take over with --takeover"
            )
        if self._holder is not None:
            self._introduce(self._holder)

    def _introduce(self, holder: TakeoverConnection) -> None:
        try:
            taken = holder.receive_queues()
        except EOFError:
            raise AlreadyRunningError(
                f"the agent of this network namespace (pid {holder.pid}) does not support takeover: stop it first"
            ) from None
        numbers = f"{taken.start}:{taken.stop - 1}"
        if set(taken) & set(self._queues):
            raise AlreadyRunningError(
                f"the agent to take over from (pid {holder.pid}) serves queues {numbers}: choose others with --nfqueue-id"
            )
        holder.send(KEY, read_key(self._key_path))
        log.info("taking over from pid %d, which serves queues %s", holder.pid, numbers)

    def open(self) -> None:
        """Start to listen: for agents that take over, or to the holder."""
        if self._socket is not None:
            self._listener.open(self._socket)
        if self._holder is not None:
            self._events.watch(self._holder, self._on_holder_readable)

    # --- taking over --------------------------------------------------------------------------------------------------------------

    def request_stand_down(self) -> None:
        """Ask the holder to stop changing the ruleset, if another agent holds the lock."""
        if self._holder is None:
            self._callbacks.on_stood_down()
        else:
            self._holder.send(STAND_DOWN, read_key(self._key_path))

    def request_leave(self) -> None:
        """Ask the holder to leave, if another agent holds the lock."""
        if self._holder is not None:
            self._holder.send(LEAVE)

    def _on_holder_readable(self) -> None:
        if self._holder is None:
            return
        try:
            command, _argument = self._holder.receive()
        except EOFError:
            command = LEFT
        if command == STANDING_DOWN:
            self._callbacks.on_stood_down()
        elif command == REFUSED:
            self._lose(f"pid {self._holder.pid} rejected the takeover: --run-dir must be that of the running agent")
        elif command == LEFT:
            self._on_left(self._holder)

    def _on_left(self, holder: TakeoverConnection) -> None:
        self._events.unwatch(holder)
        holder.close()
        self._holder = None
        self._socket = holder.handed_on or acquire()
        if self._socket is None and (pid := running_agent()) is not None:
            self._lose(f"another agent (pid {pid}) has become the agent of this network namespace meanwhile")
            return
        if self._socket is None:
            _log_foreign_holder()
        log.info("pid %d has left; this process is the agent now", holder.pid)
        self.open()
        self._callbacks.on_stood_down()
        self._callbacks.on_peer_gone()

    def _lose(self, reason: str) -> None:
        self._is_lost = True
        self._callbacks.on_lock_lost(reason)

    # --- being taken over from ----------------------------------------------------------------------------------------------------

    @property
    def has_successor(self) -> bool:
        """Whether another agent is taking over from this one."""
        return self._listener.successor is not None

    @property
    def owned_by_peer(self) -> bool:
        """Whether another agent holds the lock, or is about to."""
        return self.has_successor or self._holder is not None or self._is_lost

    def send_stood_down(self) -> None:
        """Tell the successor that this agent no longer changes the ruleset."""
        self._listener.send_stood_down()

    @property
    def due(self) -> float:
        """When to call `maintain`, in monotonic seconds."""
        return self._listener.due

    def maintain(self, now: float) -> None:
        """See `TakeoverListener.maintain`."""
        self._listener.maintain(now)

    def close(self) -> None:
        """Release the lock, or hand it to the successor."""
        self._listener.close()
        self._socket = None
        if self._holder is not None:
            self._events.unwatch(self._holder)
            self._holder.close()


def _acquire_or_connect() -> tuple[socket.socket | None, TakeoverConnection | None]:
    """The lock's socket, or a connection to the agent that holds the lock; neither, if another program holds it."""
    deadline = time.monotonic() + _ACQUIRE_LIMIT_S
    while True:
        acquired = acquire()
        holder = None if acquired is not None else TakeoverConnection.with_running_agent()
        if acquired is not None or holder is not None:
            return acquired, holder
        if time.monotonic() > deadline:
            _log_foreign_holder()
            return None, None
        time.sleep(_POLL_S)  # the holder may be starting or ending


def _log_foreign_holder() -> None:
    log.error(
        "a program that is not an agent holds the socket of the agent lock of this network namespace: a second agent will not be "
        "rejected, and no agent can take over"
    )
