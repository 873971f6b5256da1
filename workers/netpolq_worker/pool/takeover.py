"""The takeover of one agent by another, as the pool takes part in it. The protocol is in `netpolq.ipc.takeover`."""

import logging
import socket
import time

from pathlib import Path
from typing import Protocol

from netpolq.errors import AlreadyRunningError
from netpolq.ipc.takeover import (
    KEY,
    LEAVE,
    LEFT,
    REFUSED,
    STAND_DOWN,
    STANDING_DOWN,
    TakeoverConnection,
    claim,
    is_key,
    make_key,
    read_key,
    running_agent,
    write_key,
)
from netpolq_worker.pool.event_loop import EventLoop

_MAX_OTHERS = 8
"""Connections at the same time, so that they cannot use up our descriptors: so many that have shown the key, and so many that have not."""

_KEY_LIMIT_S = 5.0
"""Until a connection must have shown the key. An agent that takes over shows it at once."""

_CHECK_S = 1.0

_PATIENCE_S = 0.5
_POLL_S = 0.05

log = logging.getLogger("takeover")


class TakeoverCallbacks(Protocol):
    """Whose place it is or is to be: the pool."""

    def on_stood_down(self) -> None:
        """Nobody else changes the ruleset. May be told more than once."""
        ...

    def on_alone(self) -> None:
        """The agent whose place we took has left."""
        ...

    def stand_down(self) -> None:
        """Another wants to put its rules in place: stop changing them, then call `AgentLock.has_stood_down`."""
        ...

    def leave(self) -> None:
        """The rules of another are in place: drain and end."""
        ...

    def resume(self) -> None:
        """The other has ended before its rules were in place: go on as before."""
        ...

    def lose(self, reason: str) -> None:
        """The place cannot be had: end."""
        ...


class AgentLock:
    """The place, held by us or by somebody from whom we are to take it over."""

    def __init__(self, callbacks: TakeoverCallbacks, events: EventLoop, queues: range, key_path: Path, *, takeover: bool) -> None:
        """Take the place, or speak to who holds it. `key_path`: where its key is kept. Raises `AlreadyRunningError`."""
        self._callbacks = callbacks
        self._events = events
        self._queues = queues
        self._key_path = key_path
        self._key = ""
        self._others: list[TakeoverConnection] = []
        self._strangers: dict[TakeoverConnection, float] = {}
        """Connections that have not shown the key, the oldest first, and until when they must have (monotonic seconds)."""
        self._is_deaf = False
        self._key_is_missing = False
        self._check_due = 0.0
        self._successor: TakeoverConnection | None = None
        self._is_lost = False
        self._claim, self._holder = _claim_or_holder()
        if self._holder is not None and not takeover:
            raise AlreadyRunningError(
                f"an agent already serves this network namespace (pid {self._holder.pid}); stop it first, or take over with --takeover"
            )
        if self._holder is not None:
            self._check(self._holder)

    def _check(self, holder: TakeoverConnection) -> None:
        try:
            taken = holder.hear_queues()
        except EOFError:
            raise AlreadyRunningError(
                f"the agent of this network namespace (pid {holder.pid}) does not let itself be taken over"
            ) from None
        numbers = f"{taken.start}:{taken.stop - 1}"
        if set(taken) & set(self._queues):
            raise AlreadyRunningError(
                f"the agent to take over from (pid {holder.pid}) serves queues {numbers}; other ones are needed"
            )
        holder.say(KEY, read_key(self._key_path))
        log.info("taking over from pid %d, which serves queues %s", holder.pid, numbers)

    def open(self) -> None:
        """Begin to listen."""
        if self._claim is not None:
            self._key = make_key()
            self._check_due = 0.0
            try:
                write_key(self._key_path, self._key)
            except OSError as error:
                log.error("%s: %s; no agent can take over from this one", self._key_path, error.strerror)
                self._key_is_missing = True
            self._events.watch(self._claim, self._accept)
        if self._holder is not None:
            self._events.watch(self._holder, self._on_holder)

    # --- taking the place ---------------------------------------------------------------------------------------------------------

    def ask_to_stand_down(self) -> None:
        """Have the holder let go of the ruleset, if it is somebody else."""
        if self._holder is None:
            self._callbacks.on_stood_down()
        else:
            self._holder.say(STAND_DOWN, read_key(self._key_path))

    def ask_to_leave(self) -> None:
        """Have the holder leave, if it is somebody else."""
        if self._holder is not None:
            self._holder.say(LEAVE)

    def _on_holder(self) -> None:
        if self._holder is None:
            return
        try:
            word, _more = self._holder.hear()
        except EOFError:
            word = LEFT
        if word == STANDING_DOWN:
            self._callbacks.on_stood_down()
        elif word == REFUSED:
            self._lose(f"pid {self._holder.pid} does not let itself be taken over: --run-dir must be that of the running agent")
        elif word == LEFT:
            self._on_left(self._holder)

    def _on_left(self, holder: TakeoverConnection) -> None:
        self._events.unwatch(holder)
        holder.close()
        self._holder = None
        self._claim = holder.handed_on or claim()
        if self._claim is None and (pid := running_agent()) is not None:
            self._lose(f"another agent (pid {pid}) has taken the place meanwhile")
            return
        if self._claim is None:
            _complain_of_stranger()
        log.info("pid %d has left its place to us", holder.pid)
        self.open()
        self._callbacks.on_stood_down()
        self._callbacks.on_alone()

    def _lose(self, reason: str) -> None:
        self._is_lost = True
        self._callbacks.lose(reason)

    # --- giving it away -----------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._claim is None:
            return
        try:
            end, _address = self._claim.accept()
        except (BlockingIOError, ConnectionError):  # gone again already
            return
        except OSError as error:
            # It goes on being readable: without a pause the pool would do nothing but ask for a descriptor that it does not get.
            log.error("a connection of another agent cannot be accepted: %s; trying again in a second", error.strerror)
            self._events.unwatch(self._claim)
            self._is_deaf = True
            return
        end.setblocking(False)
        other = TakeoverConnection(end)
        if not other.is_trusted:
            log.warning("pid %d is not listened to: it is run by another user", other.pid)
            other.close()
            return
        if len(self._strangers) >= _MAX_OTHERS:
            self._drop(next(iter(self._strangers)), "there are too many")
        other.say_queues(self._queues)
        self._others.append(other)
        self._strangers[other] = time.monotonic() + _KEY_LIMIT_S
        self._events.watch(other, lambda: self._on_other(other))

    def _drop(self, other: TakeoverConnection, reason: str) -> None:
        log.warning("the connection of pid %d is closed: %s", other.pid, reason)
        self._forget(other)

    def _forget(self, other: TakeoverConnection) -> None:
        self._events.unwatch(other)
        other.close()
        self._others.remove(other)
        self._strangers.pop(other, None)

    @property
    def due(self) -> float:
        """When `look_after` is to be called, in monotonic seconds."""
        return min(self._check_due, *self._strangers.values()) if self._strangers else self._check_due

    def look_after(self, now: float) -> None:
        """Close connections that do not show the key; listen again after a pause; bring the key back if another program removed it."""
        for other in [other for other, due in self._strangers.items() if now >= due]:
            self._drop(other, f"it has not shown the key within {_KEY_LIMIT_S:.0f} s")
        if now < self._check_due:
            return
        self._check_due = now + _CHECK_S
        if self._is_deaf and self._claim is not None:
            self._is_deaf = False
            self._events.watch(self._claim, self._accept)
        if self._key and self._claim is not None and self._successor is None and read_key(self._key_path) != self._key:
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
        log.warning("%s was missing and is there again", self._key_path)

    def _on_other(self, other: TakeoverConnection) -> None:
        try:
            word, more = other.hear()
        except EOFError:
            self._forget(other)
            if other is self._successor:
                log.warning("pid %d has ended before it could take over; going on", other.pid)
                self._successor = None
                self._callbacks.resume()
            return
        if word == KEY and is_key(self._key, more):
            if len(self._others) - len(self._strangers) >= _MAX_OTHERS:
                self._drop(other, "there are too many")
            else:
                self._strangers.pop(other, None)
        elif word in {KEY, STAND_DOWN} and not is_key(self._key, more):
            log.warning("pid %d is not let take over: it cannot have read %s", other.pid, self._key_path)
            other.say(REFUSED)
        elif word == STAND_DOWN and self._successor in {None, other}:
            self._strangers.pop(other, None)
            if self._successor is None:
                log.info("pid %d takes over: the ruleset is left to it", other.pid)
            self._successor = other
            self._callbacks.stand_down()
        elif word == LEAVE and other is self._successor:
            log.info("pid %d has taken over", other.pid)
            self._callbacks.leave()

    @property
    def is_given_up(self) -> bool:
        """Whether another is about to take it."""
        return self._successor is not None

    @property
    def owned_by_peer(self) -> bool:
        """Whether another has it, or is about to."""
        return self._successor is not None or self._holder is not None or self._is_lost

    def has_stood_down(self) -> None:
        """Say that we change the ruleset no more."""
        if self._successor is not None:
            self._successor.say(STANDING_DOWN)

    def close(self) -> None:
        """Free the place, or hand it on to a successor."""
        if self._successor is not None:
            self._successor.say(LEFT, handing_on=self._claim)
        for source in (self._claim, self._holder):
            if source is not None:
                self._events.unwatch(source)
                source.close()
        self._claim = None
        for other in self._others:
            self._events.unwatch(other)
            other.close()
        self._others.clear()
        self._strangers.clear()


def _claim_or_holder() -> tuple[socket.socket | None, TakeoverConnection | None]:
    """The place, or who holds it. Neither, if that is no agent."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = claim()
        holder = None if found is not None else TakeoverConnection.with_running_agent()
        if found is not None or holder is not None:
            return found, holder
        if time.monotonic() > deadline:
            _complain_of_stranger()
            return None, None
        time.sleep(_POLL_S)  # it may begin or end at this moment


def _complain_of_stranger() -> None:
    log.error(
        "the socket of the one agent of this network namespace is held by somebody who is none: a second agent will not be refused, "
        "and none can take over"
    )
