"""The agent lock: one agent serves a network namespace, and another takes over from it. The protocol is `netpolq.ipc.takeover.protocol`.

This module is the side that takes over: it carries out the effects of `netpolq.ipc.takeover.machines.Replacement`.
`netpolq_worker.pool.takeover_listener` is the side of the running agent.
"""

import logging
import os
import socket
import time

from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from netpolq.errors import AlreadyRunningError
from netpolq.ipc.agent_settings import waiting_queue_of
from netpolq.ipc.takeover.connection import TakeoverConnection, acquire, adopt
from netpolq.ipc.takeover.key import read_key
from netpolq.ipc.takeover.machines import Replacement, ReplacementEffects
from netpolq.ipc.takeover.messages import (
    AdoptLock,
    AgentEvent,
    Close,
    CloseDescriptor,
    Ended,
    Failure,
    GiveUp,
    LocalProtocolError,
    Message,
    Received,
    RemoteProtocolError,
    ReplacementEvent,
    ReplacementTask,
    Send,
    Word,
    format_queues,
)
from netpolq.ipc.takeover.protocol import ReplacementState
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.takeover_listener import TakeoverCallbacks, TakeoverListener

_FAILURES: Mapping[Failure, str] = {
    Failure.UNSUPPORTED: "the agent of this network namespace (pid {pid}) does not support takeover: stop it first",
    Failure.QUEUES_IN_USE: "the agent to take over from (pid {pid}) serves queues {queues}: choose others with --nfqueue-id",
    Failure.REFUSED: "pid {pid} rejected the takeover: --run-dir must be that of the running agent",
    Failure.OTHER_AGENT: "another agent (pid {pid}) has become the agent of this network namespace meanwhile",
    Failure.PROTOCOL: "pid {pid} does not follow the takeover protocol: stop it first",
}

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
        self._machine = Replacement(queues, time.monotonic())
        self._socket: socket.socket | None = None
        self._holder: TakeoverConnection | None = None
        self._holder_pid = 0
        self._connect(takeover=takeover)

    def _connect(self, *, takeover: bool) -> None:
        """Wait until this process holds the lock, or knows the queues of its holder."""
        while self._machine.state is ReplacementState.STARTING:
            time.sleep(self._wait_s)
            self._perform(self._machine.handle_timer(time.monotonic()))
        if self._holder is None:
            if self._socket is None:
                _log_foreign_holder()
            return
        if not takeover:
            self._handle(ReplacementEvent.STOPPING)
            raise AlreadyRunningError(
                f"an agent already serves this network namespace (pid {self._holder_pid}); "
                "stop it first, or take over with --takeover"
            )
        while self._machine.state is ReplacementState.GREETING:
            self._holder.set_timeout(self._wait_s)
            self._perform(self._receive(self._holder))
        self._holder.set_timeout(0.0)
        log.info("taking over from pid %d, which serves queues %s", self._holder_pid, format_queues(self._machine.taken))

    @property
    def _wait_s(self) -> float:
        return max(self._machine.due - time.monotonic(), 0.0)

    def open(self) -> None:
        """Start to listen: for agents that take over, or to the holder."""
        if self._socket is not None:
            self._listener.open(self._socket)
        if self._holder is not None:
            self._events.watch(self._holder, self._on_readable)

    # --- taking over --------------------------------------------------------------------------------------------------------------

    def request_stand_down(self) -> None:
        """Ask the holder to stop changing the ruleset, if another agent holds the lock."""
        self._handle(ReplacementEvent.SYNCED)

    def request_leave(self) -> None:
        """Ask the holder to leave, if another agent holds the lock."""
        self._handle(ReplacementEvent.INSTALLED)

    def _on_readable(self) -> None:
        if self._holder is not None:
            self._carry_out(self._receive(self._holder))

    def _receive(self, holder: TakeoverConnection) -> ReplacementEffects:
        """Wait for a message until the timeout of the connection, and return the effects of it, or of the end of the wait."""
        try:
            message, descriptor = holder.receive()
        except TimeoutError:
            return self._machine.handle_timer(time.monotonic())
        except EOFError:
            return self._machine.handle(Ended(), time.monotonic())
        return self._machine.handle(Received(message, descriptor=descriptor), time.monotonic())

    def _handle(self, event: ReplacementEvent) -> None:
        try:
            self._carry_out(self._machine.handle(event, time.monotonic()))
        except LocalProtocolError as error:
            log.error("error in the takeover: %s", error)

    # --- effects ------------------------------------------------------------------------------------------------------------------

    def _carry_out(self, effects: ReplacementEffects) -> None:
        try:
            self._perform(effects)
        except AlreadyRunningError as error:
            self._callbacks.on_lock_lost(str(error))

    def _perform(self, effects: ReplacementEffects) -> None:
        """Carry out effects. Raises `AlreadyRunningError` if this process must give up."""
        for effect in effects:
            match effect:
                case Send(word):
                    self._send(word)
                case Close():
                    self._close()
                case AdoptLock(descriptor):
                    self._socket = adopt(descriptor)
                    self._report(ReplacementEvent.NAME_TAKEN if self._socket is None else ReplacementEvent.LOCK_ACQUIRED)
                case CloseDescriptor(descriptor):
                    os.close(descriptor)
                case GiveUp(failure):
                    text = _FAILURES[failure]
                    raise AlreadyRunningError(text.format(pid=self._holder_pid, queues=format_queues(self._machine.taken)))
                case RemoteProtocolError(_peer, word, state):
                    log.warning("pid %d has sent %r while this agent is %s", self._holder_pid, str(word), state)
                case ReplacementTask():
                    self._do(effect)
                case _:
                    assert_never(effect)

    def _do(self, task: ReplacementTask) -> None:
        match task:
            case ReplacementTask.ACQUIRE_LOCK:
                self._acquire()
            case ReplacementTask.SERVE:
                if self._socket is None:
                    _log_foreign_holder()
                log.info("pid %d has left; this process is the agent now", self._holder_pid)
                self.open()
            case ReplacementTask.REPORT_STOOD_DOWN:
                self._callbacks.on_stood_down()
            case ReplacementTask.REPORT_PEER_GONE:
                self._callbacks.on_peer_gone()
            case _:
                assert_never(task)

    def _acquire(self) -> None:
        self._socket = acquire()
        self._holder = None if self._socket is not None else TakeoverConnection.with_running_agent(max_descriptors=1)
        if self._holder is not None:
            self._holder_pid = self._holder.pid
            self._report(ReplacementEvent.AGENT_FOUND)
        else:
            self._report(ReplacementEvent.NAME_TAKEN if self._socket is None else ReplacementEvent.LOCK_ACQUIRED)

    def _report(self, event: ReplacementEvent) -> None:
        self._perform(self._machine.handle(event, time.monotonic()))

    def _send(self, word: Word) -> None:
        if self._holder is not None:
            self._holder.send(Message(word, format_queues(self._queues) if word is Word.LEAVE else read_key(self._key_path)))

    def _close(self) -> None:
        if self._holder is not None:
            self._events.unwatch(self._holder)
            self._holder.close()
        self._holder = None

    # --- being taken over from ----------------------------------------------------------------------------------------------------

    @property
    def has_successor(self) -> bool:
        """Whether another agent is taking over from this one, or has."""
        return self._listener.has_successor

    @property
    def successor_waiting_queue(self) -> int | None:
        """The waiting queue of the agent that has taken over from this one; None without one, or if it has none."""
        return waiting_queue_of(self._listener.successor_queues)

    @property
    def owned_by_peer(self) -> bool:
        """Whether another agent holds the lock, or is about to."""
        return self.has_successor or self._machine.state is not ReplacementState.SERVING

    def on_supervisor_exit(self) -> None:
        """The supervisor has exited, or none runs when it is to stand down."""
        self._listener.handle(AgentEvent.SUPERVISOR_EXITED)

    @property
    def due(self) -> float:
        """When to call `maintain`, in monotonic seconds."""
        return min(self._listener.due, self._machine.due)

    def maintain(self, now: float) -> None:
        """See `TakeoverListener.maintain`."""
        self._listener.maintain(now)
        self._carry_out(self._machine.handle_timer(now))

    # --- the end ------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin the end of this process: calls `TakeoverCallbacks.drain`."""
        self._listener.handle(AgentEvent.STOPPING)

    def close(self) -> None:
        """Release the lock, or hand it to the successor. The workers must have exited."""
        self._listener.handle(AgentEvent.DRAINED)
        self._handle(ReplacementEvent.STOPPING)


def _log_foreign_holder() -> None:
    log.error(
        "a program that is not an agent holds the socket of the agent lock of this network namespace: a second agent will not be "
        "rejected, and no agent can take over"
    )
