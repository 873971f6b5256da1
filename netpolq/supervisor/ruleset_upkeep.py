"""Keeps the ruleset in the kernel as it should be: installs it, looks at it, and puts back what other processes have changed.

It is looked at as soon as the kernel tells of a change by another process, and once a second. A process that keeps changing it is not
raced against: after `REPAIR_BURST` repairs there is one a second, and the agent is not ready.
"""

import asyncio
import logging
import time

from collections.abc import Callable

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.logs import TokenBucket

CHECK_INTERVAL_S = 1.0
REPAIR_BURST = 30
"""Repairs at once. One takes some 20 ms, so half a second of work at most."""

REPAIRS_PER_S = 1.0
CALM_S = 5.0
"""Without a repair, after which a process that kept changing the table counts as gone."""

_MIN_PAUSE_S = 0.01
"""Between two looks at the table, whatever others do to it."""

_MAX_CHECK_SHARE = 0.05
"""Of the time, for looks that nothing gave a reason for. A table with 100,000 isolated addresses is looked at less than once a second."""

log = logging.getLogger("enforcer")


class RulesetUpkeep:
    """Carries sets into the kernel and repairs the table. `on_installed` is called when it was installed or repaired.

    `repairs`: how often something was found that had to be put back. `contention`: what keeps changing the table, or None.
    """

    def __init__(
        self, ruleset: Ruleset, *, on_installed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ruleset = ruleset
        self._on_installed = on_installed
        self._clock = clock
        self._budget = TokenBucket(REPAIRS_PER_S, REPAIR_BURST, clock)
        self._is_installed = False
        self._looked_s = self._repaired_s = clock()
        self._look_took_s = 0.0
        self.repairs = 0
        self.contention: str | None = None

    @property
    def due_in_s(self) -> float:
        """Seconds until the next look, if nothing happens before."""
        interval_s = max(CHECK_INTERVAL_S, self._look_took_s / _MAX_CHECK_SHARE)
        return max(0.0, self._looked_s + interval_s - self._clock())

    async def bring_about(self, sets: IsolatedSets) -> None:
        """Have these sets and the whole ruleset in force. Raises `NetpolqError`; the next call then installs everything."""
        if not self._is_installed:
            await self._ruleset.install(sets)
            self._done()
            return
        self._is_installed = False
        if self._ruleset.may_have_changed or not self.due_in_s:
            await self._look(sets)
        try:
            await self._ruleset.update(sets)
        except RulesetError:
            # Most likely because another process has taken out what should be removed: then it is named and repaired as ever.
            if not await self._look(sets):
                raise
        self._is_installed = True

    async def _look(self, sets: IsolatedSets) -> bool:
        """Whether something differed and has been repaired, so that these sets are in force."""
        await asyncio.sleep(max(0.0, self._looked_s + _MIN_PAUSE_S - self._clock()))
        started_s = self._clock()
        difference = await self._ruleset.difference()
        self._looked_s = self._clock()
        self._look_took_s = self._looked_s - started_s
        if difference is None:
            if self._looked_s - self._repaired_s > CALM_S:
                self.contention = None
            return False
        await self._wait_for_turn(difference)
        self.repairs += 1
        log.warning("the ruleset is repaired: %s", difference)
        await self._ruleset.restore(sets)
        self._done()
        return True

    async def _wait_for_turn(self, difference: str) -> None:
        """Repair at once, unless there were too many repairs lately."""
        while not self._budget.take():
            if self.contention is None:
                log.error("the ruleset is changed again and again and is repaired once a second from now on: %s", difference)
            self.contention = difference
            await asyncio.sleep(1 / REPAIRS_PER_S / 4)

    def _done(self) -> None:
        self._is_installed = True
        self._repaired_s = self._looked_s = self._clock()
        self._on_installed()
