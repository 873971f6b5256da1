"""The place of the one agent of a network namespace, and what passes when another takes it; the conversation is in `netpolq.instance`."""

import logging

from typing import Protocol

from netpolq.errors import AlreadyRunningError
from netpolq.instance import LEAVE, LEFT, STAND_DOWN, STANDING_DOWN, Conversation, claim, running_agent
from netpolq_worker.ears import Ears

_MAX_OTHERS = 8
"""Who is spoken to at the same time, so that nobody can use up our descriptors."""

log = logging.getLogger("takeover")


class Tenant(Protocol):
    """Whose place it is or is to be: the pool."""

    def on_stood_down(self) -> None:
        """Nobody else changes the ruleset. May be told more than once."""
        ...

    def on_alone(self) -> None:
        """The agent whose place we took has left."""
        ...

    def stand_down(self) -> None:
        """Another wants to put its rules in place: stop changing them, then call `Place.has_stood_down`."""
        ...

    def leave(self) -> None:
        """The rules of another are in place: drain and end."""
        ...

    def resume(self) -> None:
        """The other has ended before its rules were in place: go on as before."""
        ...


class Place:
    """The place, held by us or by somebody from whom we are to take it over."""

    def __init__(self, tenant: Tenant, ears: Ears, queues: range, *, takeover: bool) -> None:
        """Take the place, or speak to who holds it. Raises `AlreadyRunningError`."""
        self._tenant = tenant
        self._ears = ears
        self._queues = queues
        self._claim = claim()
        self._holder: Conversation | None = None
        self._others: list[Conversation] = []
        self._successor: Conversation | None = None
        if self._claim is None:
            self._holder = Conversation.with_running_agent() if takeover else None
            if self._holder is None:
                raise AlreadyRunningError(
                    f"an agent already serves this network namespace (pid {running_agent()}); stop it first, or take over with --takeover"
                )
            self._check(self._holder)

    def _check(self, holder: Conversation) -> None:
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
        log.info("taking over from pid %d, which serves queues %s", holder.pid, numbers)

    def open(self) -> None:
        """Begin to listen."""
        if self._claim is not None:
            self._ears.watch(self._claim, self._accept)
        if self._holder is not None:
            self._ears.watch(self._holder, self._on_holder)

    # --- taking the place ---------------------------------------------------------------------------------------------------------

    def ask_to_stand_down(self) -> None:
        """Have the holder let go of the ruleset, if it is somebody else."""
        if self._holder is None:
            self._tenant.on_stood_down()
        else:
            self._holder.say(STAND_DOWN)

    def ask_to_leave(self) -> None:
        """Have the holder leave, if it is somebody else."""
        if self._holder is not None:
            self._holder.say(LEAVE)

    def _on_holder(self) -> None:
        if self._holder is None:
            return
        try:
            word = self._holder.hear()
        except EOFError:
            word = LEFT
        if word == STANDING_DOWN:
            self._tenant.on_stood_down()
        elif word == LEFT:
            self._ears.unwatch(self._holder)
            log.info("pid %d has left its place to us", self._holder.pid)
            self._holder.close()
            self._holder = None
            self._claim = claim()
            if self._claim is None:
                log.error("a third agent (pid %s) has taken the place meanwhile", running_agent())
            self.open()
            self._tenant.on_stood_down()
            self._tenant.on_alone()

    # --- giving it away -----------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._claim is None:
            return
        try:
            end, _address = self._claim.accept()
        except OSError:  # gone again already
            return
        end.setblocking(False)
        other = Conversation(end)
        if not other.is_trusted or len(self._others) >= _MAX_OTHERS:
            log.warning("pid %d is not listened to: it is run by another user, or there are too many", other.pid)
            other.close()
            return
        other.say_queues(self._queues)
        self._others.append(other)
        self._ears.watch(other, lambda: self._on_other(other))

    def _on_other(self, other: Conversation) -> None:
        try:
            word = other.hear()
        except EOFError:
            self._ears.unwatch(other)
            other.close()
            self._others.remove(other)
            if other is self._successor:
                log.warning("pid %d has ended before it could take over; going on", other.pid)
                self._successor = None
                self._tenant.resume()
            return
        if word == STAND_DOWN and self._successor in {None, other}:
            if self._successor is None:
                log.info("pid %d takes over: the ruleset is left to it", other.pid)
            self._successor = other
            self._tenant.stand_down()
        elif word == LEAVE and other is self._successor:
            log.info("pid %d has taken over", other.pid)
            self._tenant.leave()

    @property
    def is_given_up(self) -> bool:
        """Whether another is about to take it."""
        return self._successor is not None

    def has_stood_down(self) -> None:
        """Say that we change the ruleset no more."""
        if self._successor is not None:
            self._successor.say(STANDING_DOWN)

    def close(self) -> None:
        """Free the place; a successor learns of it."""
        for source in (self._claim, self._holder):
            if source is not None:
                self._ears.unwatch(source)
                source.close()
        self._claim = self._holder = None
        if self._successor is not None:
            self._successor.say(LEFT)
        for other in self._others:
            self._ears.unwatch(other)
            other.close()
        self._others.clear()
