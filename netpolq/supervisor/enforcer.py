"""Enforcement of the store: compiles changes, publishes snapshots, and brings their sets of isolated pods into the kernel.

A version is then in force when workers and verdict cache have followed: see `netpolq.supervisor.rollout`.
"""

import asyncio
import gc
import logging
import time

from contextlib import suppress
from dataclasses import replace

from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.pod_interfaces import pod_interfaces
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.enums import Direction
from netpolq.errors import NetpolqError
from netpolq.hold.ranges import PodRange
from netpolq.model import Pod
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.store import Store
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout_events import CompileStarted, SetsInstalled
from netpolq.supervisor.ruleset_upkeep import CHECK_INTERVAL_S, RulesetUpkeep
from netpolq.supervisor.timings import Timings

PUBLISH_INTERVAL_S = 0.02
"""Minimum interval between two snapshots: one snapshot carries all changes of a burst."""

_FIRST_SNAPSHOT_LIMIT_S = 2.0

log = logging.getLogger("enforcer")


class Enforcer:
    """Carries changes of the store to the workers and the kernel.

    `sets`: those of the last version. `ruleset_problem`: why the kernel has not the sets, or None.
    """

    def __init__(
        self,
        *,
        store: Store,
        progress: Progress,
        publisher: Publisher,
        ruleset: Ruleset,
        upkeep: RulesetUpkeep,
        bridge_guard: BridgeGuard,
        timings: Timings,
        hostname: str,
        known_ranges: tuple[PodRange, ...],
        with_pod_names: bool,
    ) -> None:
        self._progress = progress
        self._publisher = publisher
        self._ruleset = ruleset
        self._upkeep = upkeep
        self._bridge_guard = bridge_guard
        self._timings = timings
        self._hostname = hostname
        self._compiler = Compiler(store, is_local=self._is_local, known_ranges=known_ranges, with_pod_names=with_pod_names)
        self._builder = SnapshotBuilder()
        self._sets_changed = asyncio.Event()
        self._sets_version = 0
        self._ruleset_version = 0
        self.sets = IsolatedSets(ingress=frozenset(), egress=frozenset())
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
            self.sets = IsolatedSets(
                ingress=compiler.isolated[Direction.INGRESS],
                egress=compiler.isolated[Direction.EGRESS],
                local=compiler.local,
                known=compiler.known,
                asking=compiler.asking,
            )
            self._sets_changed.set()
            if is_first:
                gc.freeze()
                is_first = False
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    def _is_local(self, pod: Pod) -> bool:
        # A manifest without a node counts as local: a set entry for an address on another node has no effect.
        return pod.node_name in {"", self._hostname}

    async def _keep_ruleset(self) -> None:
        await self._sets_changed.wait()
        await self._await_first_snapshot()
        await self._publisher.stand_down()
        self._ruleset.watch(self._sets_changed.set)
        while True:
            self._sets_changed.clear()
            version = self._sets_version
            try:
                sets = await with_interfaces(self.sets)
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
            if version != self._ruleset_version:
                log.debug("the kernel isolates the pods of snapshot %d", version)
            self._ruleset_version = version
            self._progress.send(SetsInstalled(version))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.due_in_s):
                    await self._sets_changed.wait()

    async def _await_first_snapshot(self) -> None:
        """Wait until workers can evaluate packets, but at most `_FIRST_SNAPSHOT_LIMIT_S`, before the ruleset queues any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SNAPSHOT_LIMIT_S):
                await self._progress.until(lambda rollout: rollout.acknowledged_version >= self._sets_version)


async def with_interfaces(sets: IsolatedSets) -> IsolatedSets:
    """The same sets, with the interfaces that lead to the pods at present."""
    if not sets.local:
        return sets
    return replace(sets, interfaces=await asyncio.to_thread(pod_interfaces, sets.local, sets.ingress, sets.egress))
