"""Enforcement of the store: compiles changes, publishes snapshots, and brings their sets of isolated pods into the kernel.

A version is then in force when workers and verdict cache have followed: see `netpolq.supervisor.rollout`.
"""

import asyncio
import gc
import logging
import time

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.pod_interfaces import pod_interfaces
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.dataplane.unknown_chains import has_unknown
from netpolq.enums import Direction
from netpolq.errors import NetpolqError
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout import Rollout
from netpolq.supervisor.rollout_events import CompileStarted, SetsInstalled
from netpolq.supervisor.ruleset_upkeep import CHECK_INTERVAL_S, RulesetUpkeep
from netpolq.supervisor.timings import Timings

PUBLISH_INTERVAL_S = 0.02
"""Minimum interval between two snapshots: one snapshot carries all changes of a burst. A change that a packet waits for is published
earlier, see `pause`."""

_FIRST_SNAPSHOT_LIMIT_S = 2.0

log = logging.getLogger("enforcer")


class Enforcer:
    """Carries changes of the store to the workers and the kernel.

    `sets`: those of the last version. `ruleset_problem`: why the kernel has not the sets, or None.
    """

    def __init__(
        self,
        *,
        compiler: Compiler,
        progress: Progress,
        publisher: Publisher,
        ruleset: Ruleset,
        upkeep: RulesetUpkeep,
        bridge_guard: BridgeGuard,
        timings: Timings,
    ) -> None:
        self._progress = progress
        self._publisher = publisher
        self._ruleset = ruleset
        self._upkeep = upkeep
        self._bridge_guard = bridge_guard
        self._timings = timings
        self._compiler = compiler
        self._builder = SnapshotBuilder()
        self._always_rejects = ruleset.config.rejects
        self._sets_changed = asyncio.Event()
        self._sets_version = 0
        self._ruleset_version = 0
        self.sets = IsolatedSets(ingress=frozenset(), egress=frozenset())
        self._known_installed: frozenset[bytes] = frozenset()
        self.ruleset_problem: str | None = "the ruleset is not installed yet"

    def begin_with(self, kept_version: int, sets: IsolatedSets) -> None:
        """Enforce the kept snapshot, which workers use already, until the first publish. Call it before `run`."""
        self._sets_version = kept_version
        self.sets = sets
        self._sets_changed.set()

    def install_again(self) -> None:
        """Bring the ruleset into the kernel again: its configuration has changed."""
        self._sets_changed.set()

    async def run(self) -> None:
        """Enforce until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_changes())
            tasks.create_task(self._keep_ruleset())
            tasks.create_task(self._complete_known())

    async def _publish_changes(self) -> None:
        compiler = self._compiler
        is_first = True
        while True:
            await self._progress.until(lambda rollout: rollout.noticed_ns is not None)
            await self._publisher.room()
            if is_first:
                # Most objects of the first sync, and most of those compiled from it, live as long as the process. Each full garbage
                # collection over them would block the event loop for a third of a second.
                gc.freeze()
            self._progress.send(CompileStarted())
            started = time.perf_counter()
            for delta in compiler.steps():
                self._builder.apply(delta)
                await asyncio.sleep(0)
            compiled = time.perf_counter()
            self._timings.compile.observe(compiled - started)
            try:
                changed = compiler.take_changed()
                version = self._publisher.publish(self._builder, changed, renamed=compiler.renamed, former=compiler.former)
            except ConnectionError as error:
                log.error("%s; trying again", error)
                await asyncio.sleep(CHECK_INTERVAL_S)
                continue
            if version != self._sets_version:
                self._timings.publish.observe(time.perf_counter() - compiled)
                log.debug(
                    "snapshot %d compiled in %.1f ms, published in %.1f ms, %d bytes",
                    version,
                    (compiled - started) * 1e3,
                    (time.perf_counter() - compiled) * 1e3,
                    self._publisher.snapshot_bytes,
                )
            self._sets_version = version
            rejects = self._always_rejects or self._builder.has_rejections
            if rejects is not self._ruleset.config.rejects:
                self._ruleset.reconfigure(replace(self._ruleset.config, rejects=rejects))
            self.sets = IsolatedSets(
                ingress=compiler.isolated[Direction.INGRESS] | compiler.audited[Direction.INGRESS],
                egress=compiler.isolated[Direction.EGRESS] | compiler.audited[Direction.EGRESS],
                local=compiler.local,
                known=compiler.known,
                asking=compiler.asking,
            )
            self._sets_changed.set()
            if is_first:
                gc.freeze()
                is_first = False
            await pause(self._progress, time.perf_counter() - started)

    async def _keep_ruleset(self) -> None:
        await self._sets_changed.wait()
        await self._await_workers(lambda rollout: rollout.acknowledged_version >= self._sets_version)
        await self._publisher.stand_down()
        await self._await_workers(_has_all_names)
        self._ruleset.watch(self._sets_changed.set)
        while True:
            self._sets_changed.clear()
            started_s = time.monotonic()
            version = self._sets_version
            try:
                sets = await with_interfaces(self._known_to_workers(version))
                self._bridge_guard.want(sets.interfaces)
                await self._upkeep.bring_about(sets)
            except NetpolqError as error:
                if self.ruleset_problem is None:
                    log.warning("%s; the whole ruleset is installed again", error)
                    self.ruleset_problem = str(error)
                    continue
                if self.ruleset_problem != str(error):
                    log.error("%s; trying again", error)
                self.ruleset_problem = str(error)
                await asyncio.sleep(CHECK_INTERVAL_S)
                continue
            self.ruleset_problem = None
            self._known_installed = sets.known
            if version != self._ruleset_version:
                log.debug("the kernel isolates the pods of snapshot %d", version)
            self._ruleset_version = version
            self._progress.send(SetsInstalled(version))
            await asyncio.sleep(
                started_s + PUBLISH_INTERVAL_S - time.monotonic()
            )  # awaited versions change no sets, and may be many
            with suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.due_in_s):
                    await self._sets_changed.wait()

    def _known_to_workers(self, version: int) -> IsolatedSets:
        """The sets of a version, without known addresses that some worker may not know yet.

        Such a worker would evaluate a packet of a new pod as one of an outsider. While the kernel does not know the address, the worker is
        told to let the packet wait. Isolation and all that is no longer known go into the kernel at once.
        """
        if not has_unknown(self._ruleset.config) or self._progress.rollout.acknowledged_version >= version:
            return self.sets
        return replace(self.sets, known=self.sets.known & self._known_installed)

    async def _complete_known(self) -> None:
        """Let the kernel know the rest of the known addresses when all workers know them."""
        while True:
            await self._progress.until(
                lambda rollout: (
                    self._known_installed is not self.sets.known and rollout.acknowledged_version >= self._ruleset_version > 0
                )
            )
            self._sets_changed.set()
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def _await_workers(self, holds: Callable[[Rollout], bool]) -> None:
        """Wait until workers can evaluate packets, but at most `_FIRST_SNAPSHOT_LIMIT_S`, before the ruleset queues any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SNAPSHOT_LIMIT_S):
                await self._progress.until(holds)


async def pause(progress: Progress, took_s: float) -> None:
    """Wait before the next snapshot, at most `PUBLISH_INTERVAL_S`. `took_s`: the time for the last one.

    If a packet waits for the next one: until every worker uses the last one, and at least as long as that took. So half of the time is left
    for everything else in a cluster with large snapshots.
    """
    version = progress.rollout.version
    with suppress(TimeoutError):
        async with asyncio.timeout(PUBLISH_INTERVAL_S):
            await asyncio.sleep(took_s)
            await progress.until(lambda rollout: rollout.is_awaited and rollout.acknowledged_version >= version)


def _has_all_names(rollout: Rollout) -> bool:
    """Whether workers know the names that another agent has left in a takeover."""
    return not rollout.is_awaited and rollout.compiling_ns is None and rollout.acknowledged_version >= rollout.version


async def with_interfaces(sets: IsolatedSets) -> IsolatedSets:
    """The same sets, with the interfaces that lead to the pods at present."""
    if not sets.local:
        return sets
    return replace(sets, interfaces=await asyncio.to_thread(pod_interfaces, sets.local, sets.ingress, sets.egress))
