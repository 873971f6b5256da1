"""Verdict cache in the kernel: repeated decisions of workers, for which the kernel then queues no packet.

Workers send hints about such decisions. This module is the only writer of the maps. **A decision must not outlive the snapshot it was
made by.** So a single task works sequentially:
- It writes only hints of the newest published snapshot. Hints of older ones are refused.
- When every worker uses a version, it removes the decisions that this version may change. Only then is the version clean: no older
  decision can be written afterwards. A version that is not clean is not in force (`netpolq.supervisor.enforcer`).
"""

import asyncio
import logging
import time

from collections import Counter, deque
from collections.abc import Callable, Collection

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.verdict_maps import MAX_DECISIONS
from netpolq.enums import Verdict
from netpolq.errors import NetpolqError
from netpolq.ipc.channel import Hint, Hints, unpack_hints
from netpolq.supervisor.verdict_cache_ledger import VerdictLedger

_MAX_WAITING_HINTS = 8192
_RETRY_S = 1.0

log = logging.getLogger("verdict-cache")


class VerdictCache:
    """Feeds and clears the maps. `on_clean` is called when a version has become clean.

    `size`: decisions kept at most; `ttl_s`: for how long each. `problem`: why the maps cannot be changed at present, or None.
    `with_drops`: keep denials, too; without, every first packet that is denied reaches a worker, which logs it.
    `refused`: refused hints by reason. `flushes`: how often both maps were emptied. `forgotten`: decisions removed one by one after
    a change. `remembered`: decisions written.
    """

    def __init__(self, ruleset: Ruleset, *, size: int, ttl_s: int, on_clean: Callable[[], None], with_drops: bool = True) -> None:
        self._ruleset = ruleset
        self._ttl_ms = ttl_s * 1000
        self._on_clean = on_clean
        self._with_drops = with_drops
        self._ledger = VerdictLedger(size, ttl_s * 1_000_000_000)
        self._waiting: list[Hint] = []
        self._changes: deque[tuple[int, Collection[bytes] | None]] = deque()
        self._newest_version = 0
        self._acknowledged_version = 0
        self._installed = False
        self._flush_generation = 1  # raised when the content of the maps becomes uncertain, at first by an earlier agent
        self._flushed_generation = 0
        self._work = asyncio.Event()
        self.size = size
        self.clean_version = 0
        self.problem: str | None = None
        self.refused: Counter[str] = Counter({"old-version": 0, "full": 0, "busy": 0})
        self.flushes = 0
        self.forgotten = 0
        self.remembered = 0

    @property
    def entries(self) -> int:
        """Decisions the kernel may hold."""
        return len(self._ledger)

    # --- inputs -------------------------------------------------------------------------------------------------------------------

    def hinted(self, message: Hints) -> None:
        """Accept the hints of a worker. Raises `ValueError` for a message that cannot be read."""
        hints = [hint for hint in unpack_hints(message) if self._with_drops or hint.verdict is Verdict.ACCEPT]
        if message.version != self._newest_version or not self._installed:
            self.refused["old-version"] += len(hints)
        elif len(self._waiting) + len(hints) > _MAX_WAITING_HINTS:
            self.refused["busy"] += len(hints)
        else:
            self._waiting += hints
            self._work.set()

    def published(self, version: int, changed: Collection[bytes] | None) -> None:
        """A new snapshot was sent to the workers. `changed`: addresses whose connections it may evaluate differently; None: all."""
        self.refused["old-version"] += len(self._waiting)
        self._waiting.clear()
        self._newest_version = version
        self._changes.append((version, changed))

    def acknowledged(self, version: int) -> None:
        """Every worker uses this version or a newer one."""
        if version <= self._acknowledged_version:
            return
        self._acknowledged_version = version
        self._ledger.expire(time.monotonic_ns())
        affected = self._affected(version)
        if self._flush_generation == self._flushed_generation and affected is not None and not affected:
            # Nothing to remove: decisions that are being written at present are in the ledger already.
            self._become_clean(version)
        else:
            self._work.set()

    def ruleset_installed(self) -> None:
        """The whole ruleset was installed (again). The content of the maps is uncertain: a write may be under way."""
        self._installed = True
        self._flush_generation += 1
        self._work.set()

    def _affected(self, version: int) -> list[Hint] | None:
        """Decisions that the versions up to this one which are not clean yet may change; None: all of them."""
        addresses: set[bytes] = set()
        for known, changed in self._changes:
            if known <= version:
                if changed is None:
                    return None if len(self._ledger) else []
                addresses.update(changed)
        return self._ledger.about(addresses)

    def _become_clean(self, version: int) -> None:
        while self._changes and self._changes[0][0] <= version:
            self._changes.popleft()
        self.clean_version = max(self.clean_version, version)

    # --- the one task -------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            if not self._installed:
                continue
            try:
                await self._forget_what_changed()
                await self._remember_what_waits()
                self.problem = None
            except NetpolqError as error:
                self._flush_generation += 1  # the write may have happened or not
                if self.problem != str(error):
                    log.error("%s; trying again", error)
                self.problem = str(error)
                await asyncio.sleep(_RETRY_S)
                self._work.set()

    async def _forget_what_changed(self) -> None:
        version, generation = self._acknowledged_version, self._flush_generation
        self._ledger.expire(time.monotonic_ns())
        affected = self._affected(version)
        if generation != self._flushed_generation or affected is None:
            await self._ruleset.forget_verdicts(None)
            self._emptied()
            self._flushed_generation = generation
        elif affected:
            if await self._ruleset.forget_verdicts(affected):
                self._ledger.remove(affected)
                self.forgotten += len(affected)
            else:
                self._emptied()
        if version > self.clean_version:
            self._become_clean(version)
            self._on_clean()

    def _emptied(self) -> None:
        self._ledger.clear()
        self.flushes += 1

    async def _remember_what_waits(self) -> None:
        while self._waiting and self._flush_generation == self._flushed_generation:
            batch, self._waiting = self._waiting[:MAX_DECISIONS], self._waiting[MAX_DECISIONS:]
            self._ledger.expire(time.monotonic_ns())
            admitted, full = self._ledger.admit(batch)
            self.refused["full"] += full
            if admitted:
                await self._ruleset.remember_verdicts(admitted, self._ttl_ms)
                self._ledger.given(admitted, time.monotonic_ns())
                self.remembered += len(admitted)
            if self._changes and self._changes[0][0] <= self._acknowledged_version:
                self._work.set()  # cleaning a version takes precedence over further hints
                return
