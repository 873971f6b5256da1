"""The present rollout, which all parts of the supervisor share: it takes their events, and wakes those that wait for a change."""

import asyncio
import logging
import time

from collections.abc import Callable

from netpolq.logs import DETAIL
from netpolq.supervisor.rollout import Rollout
from netpolq.supervisor.rollout_events import Event, InForce
from netpolq.supervisor.timings import Timings

log = logging.getLogger("enforcer")


class Progress:
    """Holds the `rollout`. `clock_ns`: nanoseconds, monotonic."""

    def __init__(self, rollout: Rollout, timings: Timings, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.rollout = rollout
        self._timings = timings
        self._clock_ns = clock_ns
        self._subscribers: set[asyncio.Event] = set()

    @property
    def behind_s(self) -> float:
        """Seconds since the notice of the oldest change that is not in force; 0 if all are."""
        return self.rollout.behind_s(self._clock_ns())

    def send(self, event: Event) -> None:
        """Apply an event."""
        before = self.rollout
        self.rollout, effects = before.after(event, self._clock_ns())
        for effect in effects:
            self._note(effect)
        if self.rollout != before:
            for subscriber in self._subscribers:
                subscriber.set()

    def _note(self, effect: InForce) -> None:
        if effect.latency_s is None:
            return
        self._timings.programming.observe(effect.latency_s)
        summary = effect.summary or "nothing changed"
        log.log(DETAIL, "snapshot %d is in force after %.1f ms: %s", effect.version, effect.latency_s * 1e3, summary)

    def subscribe(self) -> asyncio.Event:
        """An event that is set at each change of the rollout from now on. The subscriber clears it, and may set it too."""
        subscriber = asyncio.Event()
        self._subscribers.add(subscriber)
        return subscriber

    async def until(self, holds: Callable[[Rollout], bool]) -> None:
        """Wait until a condition holds."""
        changed = self.subscribe()
        try:
            while not holds(self.rollout):
                changed.clear()
                await changed.wait()
        finally:
            self._subscribers.discard(changed)
