"""Upkeep of the ruleset in the kernel: installs it, checks it, and repairs changes by other processes.

A check follows each notification of a change by another process, and runs once a second. Against a process that keeps changing the
ruleset, repairs are limited: after `REPAIR_BURST` repairs there is one a second, and the agent is not ready.
"""

import asyncio
import logging
import time

from collections.abc import Callable

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.kernel_errors import RulesetError
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.ipc.channel import Channel, RulesetInstalled
from netpolq.logs import TokenBucket
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import RulesetReinstalled

CHECK_INTERVAL_S = 1.0
REPAIR_BURST = 30
"""Maximum burst of repairs. One takes about 20 ms, so a burst is about half a second of work."""

REPAIRS_PER_S = 1.0
CALM_S = 5.0
"""Time without a repair after which the contention counts as over."""

_MIN_PAUSE_S = 0.01
"""Minimum pause between two checks of the table."""

_MAX_CHECK_SHARE = 0.05
"""Maximum share of the time for periodic checks. A table with 100,000 isolated addresses is checked less than once a second."""

log = logging.getLogger("enforcer")


class RulesetUpkeep:
    """Carries sets into the kernel and repairs the table. Tells the rollout and the pool of each installation and repair.

    `repairs`: number of completed repairs. `contention`: the last difference while another process keeps changing the table, or None.
    """

    def __init__(
        self, ruleset: Ruleset, progress: Progress, channel: Channel, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ruleset = ruleset
        self._progress = progress
        self._channel = channel
        self._clock = clock
        self._budget = TokenBucket(REPAIRS_PER_S, REPAIR_BURST, clock)
        self._is_installed = False
        self._checked_s = self._repaired_s = clock()
        self._check_took_s = 0.0
        self.repairs = 0
        self.contention: str | None = None

    @property
    def due_in_s(self) -> float:
        """Seconds until the next periodic check."""
        interval_s = max(CHECK_INTERVAL_S, self._check_took_s / _MAX_CHECK_SHARE)
        return max(0.0, self._checked_s + interval_s - self._clock())

    async def bring_about(self, sets: IsolatedSets) -> None:
        """Bring these sets and the whole ruleset into the kernel. Raises `NetpolqError`; the next call then installs everything."""
        if not self._is_installed:
            await self._ruleset.install(sets)
            self._done()
            return
        self._is_installed = False
        if self._ruleset.may_have_changed or not self.due_in_s:
            await self._check(sets)
        try:
            await self._ruleset.update(sets)
        except RulesetError:
            # Most likely another process has removed an element that this update removes too: the check then repairs it.
            if not await self._check(sets):
                raise
        self._is_installed = True

    async def _check(self, sets: IsolatedSets) -> bool:
        """Check and repair the table. Returns whether a repair has brought these sets into force."""
        await asyncio.sleep(max(0.0, self._checked_s + _MIN_PAUSE_S - self._clock()))
        started_s = self._clock()
        difference = await self._ruleset.difference()
        self._checked_s = self._clock()
        self._check_took_s = self._checked_s - started_s
        if difference is None:
            if self._checked_s - self._repaired_s > CALM_S:
                self.contention = None
            return False
        await self._wait_for_turn(difference)
        log.warning("the ruleset is repaired: %s", difference)
        await self._ruleset.restore(sets)
        self.repairs += 1
        self._done()
        return True

    async def _wait_for_turn(self, difference: str) -> None:
        """Wait until the rate limit allows a repair."""
        while not self._budget.take():
            if self.contention is None:
                log.error("another program keeps changing the ruleset; from now on it is repaired once a second: %s", difference)
            self.contention = difference
            await asyncio.sleep(1 / REPAIRS_PER_S / 4)

    def _done(self) -> None:
        self._is_installed = True
        self._repaired_s = self._checked_s = self._clock()
        self._progress.send(RulesetReinstalled())
        self._channel.send(RulesetInstalled())  # in a takeover, the other agent may leave
