"""Verdict cache in the kernel: repeated decisions of workers, for which the kernel then queues no packet.

Workers send hints about such decisions. This module is the only writer of the maps. **A decision must not outlive the snapshot it was
made by.** So a single task works sequentially:
- It writes only hints of the newest published snapshot. Hints of older ones are refused.
- When every worker uses a version, it removes the decisions that this version may change. Only then is the version clean: no older
  decision can be written afterwards. A version that is not clean is not in force (`netpolq.supervisor.rollout`).
"""

import asyncio
import logging
import time

from collections import Counter
from contextlib import suppress

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.verdict_maps import MAX_DECISIONS
from netpolq.enums import Verdict
from netpolq.errors import NetpolqError
from netpolq.ipc.channel import CachedVerdict, Hints, unpack_hints
from netpolq.supervisor.kernel_flow_counts import KernelFlowCounts
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import CacheClean, CacheLost, Scope
from netpolq.supervisor.verdict_cache_ledger import VerdictLedger

_MAX_WAITING_HINTS = 8192
_READ_INTERVAL_S = 10.0
"""How often the counters of the decisions are read."""
_RETRY_S = 1.0

log = logging.getLogger("verdict-cache")


class VerdictCache:
    """Feeds and clears the maps.

    `size`: decisions kept at most; `ttl_s`: for how long each. `problem`: why the maps cannot be changed at present, or None.
    `with_drops`: keep denials, too; without, every first packet that is denied reaches a worker, which logs it. `flow_counts` None: what
    the kernel answers is not counted by connection.
    `refused`: refused hints by reason. `flushes`: how often both maps were emptied. `forgotten`: decisions removed one by one after
    a change. `remembered`: decisions written.
    """

    def __init__(
        self,
        ruleset: Ruleset,
        progress: Progress,
        *,
        size: int,
        ttl_s: int,
        with_drops: bool = True,
        flow_counts: KernelFlowCounts | None = None,
    ) -> None:
        self._ruleset = ruleset
        self._flow_counts = flow_counts
        self._read_interval_s = min(_READ_INTERVAL_S, ttl_s / 4)
        self._progress = progress
        self._ttl_ms = ttl_s * 1000
        self._with_drops = with_drops
        self._ledger = VerdictLedger(size, ttl_s * 1_000_000_000)
        self._waiting: list[CachedVerdict] = []
        self._waiting_version = 0
        self._work = progress.subscribe()
        self.size = size
        self.problem: str | None = None
        self.refused: Counter[str] = Counter({"old-version": 0, "full": 0, "busy": 0})
        self.flushes = 0
        self.forgotten = 0
        self.remembered = 0

    @property
    def entries(self) -> int:
        """Decisions the kernel may hold."""
        return len(self._ledger)

    def hinted(self, message: Hints) -> None:
        """Accept the hints of a worker. Raises `ValueError` for a message that cannot be read."""
        self._refuse_older()
        hints = [hint for hint in unpack_hints(message) if self._with_drops or hint.verdict is Verdict.ACCEPT]
        rollout = self._progress.rollout
        if message.version != rollout.version or not rollout.is_installed:
            self.refused["old-version"] += len(hints)
        elif len(self._waiting) + len(hints) > _MAX_WAITING_HINTS:
            self.refused["busy"] += len(hints)
        else:
            self._waiting += hints
            self._work.set()

    def _refuse_older(self) -> None:
        """Refuse the hints that have waited for longer than their snapshot was the newest one."""
        if self._waiting_version != self._progress.rollout.version:
            self._waiting_version = self._progress.rollout.version
            self.refused["old-version"] += len(self._waiting)
            self._waiting.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        read_due_s = time.monotonic() + self._read_interval_s
        while True:
            with suppress(TimeoutError):
                wait_s = None if self._flow_counts is None else max(read_due_s - time.monotonic(), 0.0)
                async with asyncio.timeout(wait_s):
                    await self._work.wait()
            self._work.clear()
            self._refuse_older()
            try:
                if self._flow_counts is not None and time.monotonic() >= read_due_s:
                    read_due_s = time.monotonic() + self._read_interval_s
                    await self._count_flows(self._flow_counts)
                if (scope := self._progress.rollout.to_clean) is not None:
                    await self._clean(scope)
                await self._remember_what_waits()
                self.problem = None
            except NetpolqError as error:
                self._progress.send(CacheLost())  # the write may have happened or not
                if self.problem != str(error):
                    log.error("%s; trying again", error)
                self.problem = str(error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()

    async def _count_flows(self, flow_counts: KernelFlowCounts) -> None:
        """Count what the kernel has answered. The decisions that would time out before the next reading are removed here instead, so that
        no count is lost with them.
        """
        self._ledger.expire(time.monotonic_ns())
        if not len(self._ledger):
            return
        flow_counts.counted(await self._ruleset.verdict_counts())
        # As long again as an interval, in case the next reading is late.
        ending = self._ledger.ending_before(time.monotonic_ns() + int(2 * self._read_interval_s * 1e9))
        for start in range(0, len(ending), MAX_DECISIONS):
            await self._forget(ending[start : start + MAX_DECISIONS])

    async def _forget(self, entries: list[CachedVerdict]) -> None:
        if await self._ruleset.forget_verdicts(entries):
            self._ledger.remove(entries)
            self.forgotten += len(entries)
            if self._flow_counts is not None:
                self._flow_counts.forgot(entries)
        else:
            self._emptied()

    async def _clean(self, scope: Scope) -> None:
        self._ledger.expire(time.monotonic_ns())
        if scope.is_doubtful or (scope.changed is None and len(self._ledger)):
            await self._ruleset.forget_verdicts(None)
            self._emptied()
        elif affected := self._ledger.about(scope.changed or ()):
            await self._forget(affected)
        self._progress.send(CacheClean(scope.version, scope.doubts))

    def _emptied(self) -> None:
        self._ledger.clear()
        self.flushes += 1
        if self._flow_counts is not None:
            self._flow_counts.forgot(None)

    async def _remember_what_waits(self) -> None:
        """Write the hints that wait, unless there is something to clean: that takes precedence."""
        while self._waiting and self._progress.rollout.to_clean is None:
            batch, self._waiting = self._waiting[:MAX_DECISIONS], self._waiting[MAX_DECISIONS:]
            self._ledger.expire(time.monotonic_ns())
            admitted, full = self._ledger.admit(batch)
            self.refused["full"] += full
            if admitted:
                if self._flow_counts is not None:
                    self._flow_counts.remembered(admitted)
                await self._ruleset.remember_verdicts(admitted, self._ttl_ms)
                self._ledger.given(admitted, time.monotonic_ns())
                self.remembered += len(admitted)
            self._refuse_older()
