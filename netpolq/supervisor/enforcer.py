"""Enforcement of the store: compiles changes, publishes snapshots, updates the ruleset, and tracks the version in force.

A version is **in force** when every worker uses it, the kernel has its sets of isolated pods, and the verdict cache in the kernel has no
verdict that differs from it.
"""

import asyncio
import gc
import logging
import time

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.pod_interfaces import pod_interfaces
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.enums import Direction
from netpolq.errors import NetpolqError
from netpolq.logs import DETAIL
from netpolq.model import Pod
from netpolq.policy.compiler import Compiler
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.store import Store
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.established import StrictMode
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.ruleset_upkeep import CHECK_INTERVAL_S, RulesetUpkeep

PUBLISH_INTERVAL_S = 0.02
"""Minimum interval between two snapshots: one snapshot carries all changes of a burst."""

_FIRST_SNAPSHOT_LIMIT_S = 2.0

log = logging.getLogger("enforcer")


class Enforcer:
    """Carries changes of the store to the workers and the kernel.

    `on_in_force` is called with the seconds from notice to enforcement, `on_compiled` and `on_published` with the seconds of the two
    steps. `changes`: changes of the store, for the log.
    """

    def __init__(
        self,
        *,
        store: Store,
        publisher: Publisher,
        ruleset: Ruleset,
        verdict_cache: VerdictCache | None,
        strict_mode: StrictMode | None,
        hostname: str,
        with_pod_names: bool,
        changes: Changes,
        on_in_force: Callable[[float], None],
        on_compiled: Callable[[float], None],
        on_published: Callable[[float], None],
    ) -> None:
        self._publisher = publisher
        self._ruleset = ruleset
        self._verdict_cache = verdict_cache
        self._strict_mode = strict_mode
        self._hostname = hostname
        self._compiler = Compiler(store, is_local=self._is_local, with_pod_names=with_pod_names)
        self._builder = SnapshotBuilder()
        self._changes = changes
        self._on_in_force = on_in_force
        self._on_compiled = on_compiled
        self._on_published = on_published
        self._store_changed = asyncio.Event()
        self._sets_changed = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._reached = asyncio.Event()
        self._noticed_ns: int | None = None
        self._pending: deque[tuple[int, int, str]] = deque()
        self._sets_version = 0
        self.upkeep = RulesetUpkeep(ruleset, on_installed=self._on_installed)
        self.bridge_guard = BridgeGuard()
        self._ruleset_version = 0
        self.sets = IsolatedSets(ingress=frozenset(), egress=frozenset())
        self.ruleset_problem: str | None = "the ruleset is not installed yet"
        self.in_force_version = 0
        self.last_latency_s: float | None = None

    def notice(self, observed_ns: int) -> None:
        """Schedule a compilation of the changed store. `observed_ns` (monotonic): time at which the source saw the change."""
        self._noticed_ns = observed_ns if self._noticed_ns is None else min(self._noticed_ns, observed_ns)
        self._store_changed.set()

    @property
    def behind_s(self) -> float:
        """Seconds since the oldest change that is not in force yet was noticed; 0 if all are."""
        noticed = [noticed_ns for _version, noticed_ns, _changed in self._pending]
        if self._noticed_ns is not None:
            noticed.append(self._noticed_ns)
        return (time.monotonic_ns() - min(noticed)) / 1e9 if noticed else 0.0

    def begin_with(self, kept_version: int, sets: IsolatedSets) -> None:
        """Enforce the kept snapshot, which workers use already, until the first publish. Call it before `run`."""
        self._sets_version = kept_version
        self.sets = sets
        self._sets_changed.set()

    async def wait_in_force(self, version: int) -> None:
        """Wait until this version or a later one is in force. Only one task may wait."""
        while self.in_force_version < version:
            self._reached.clear()
            await self._reached.wait()

    async def run(self) -> None:
        """Enforce until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_changes())
            tasks.create_task(self._keep_ruleset())
            tasks.create_task(self.bridge_guard.run())
            if self._verdict_cache is not None:
                tasks.create_task(self._verdict_cache.run())
            if self._strict_mode is not None:
                tasks.create_task(self._strict_mode.run())

    async def _publish_changes(self) -> None:
        compiler = self._compiler
        is_first = True
        while True:
            await self._store_changed.wait()
            await self._publisher.room()
            self._store_changed.clear()
            if is_first:
                # Most objects of the first sync, and most of those compiled from it, live as long as the process. Each full garbage
                # collection over them would block the event loop for a third of a second.
                gc.freeze()
            noticed_ns, self._noticed_ns = self._noticed_ns or time.monotonic_ns(), None
            started = time.perf_counter()
            for delta in compiler.steps():
                self._builder.apply(delta)
                await asyncio.sleep(0)
            compiled = time.perf_counter()
            self._on_compiled(compiled - started)
            try:
                version = self._publisher.publish(self._builder, compiler.take_changed())
            except ConnectionError as error:
                log.error("%s; trying again", error)
                self.notice(noticed_ns)
                await asyncio.sleep(CHECK_INTERVAL_S)
                continue
            if version != self._sets_version:
                self._on_published(time.perf_counter() - compiled)
                log.debug(
                    "snapshot %d compiled in %.1f ms, published in %.1f ms, %d bytes",
                    version,
                    (compiled - started) * 1e3,
                    (time.perf_counter() - compiled) * 1e3,
                    self._publisher.image_bytes,
                )
            self._pending.append((version, noticed_ns, self._changes.take()))
            self._sets_version = version
            self.sets = IsolatedSets(
                ingress=compiler.isolated[Direction.INGRESS], egress=compiler.isolated[Direction.EGRESS], local=compiler.local
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
                self.bridge_guard.want(sets.interfaces)
                await self.upkeep.bring_about(sets)
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
            self.update_in_force()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.upkeep.due_in_s):
                    await self._sets_changed.wait()

    def _on_installed(self) -> None:
        self._publisher.send_ruleset_installed()
        if self._verdict_cache is not None:
            self._verdict_cache.ruleset_installed()
        if self._strict_mode is not None:
            self._strict_mode.suspect_all()  # a foreign ruleset change may have admitted connections

    async def _await_first_snapshot(self) -> None:
        """Wait until workers can evaluate packets, but at most `_FIRST_SNAPSHOT_LIMIT_S`, before the ruleset queues any."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SNAPSHOT_LIMIT_S):
                await self._acknowledged.wait()

    def update_in_force(self) -> None:
        """Update the version in force. Called when a worker reports and when the ruleset has changed."""
        if 0 < self._sets_version <= self._publisher.acknowledged_version:
            self._acknowledged.set()
        # The version in force never decreases while a worker is replaced: the replacement starts with the newest snapshot.
        reached = min(self._publisher.acknowledged_version, self._ruleset_version)
        if self._verdict_cache is not None:
            self._verdict_cache.acknowledged(self._publisher.acknowledged_version)
            reached = min(reached, self._verdict_cache.clean_version)
        if reached > self.in_force_version:
            self.in_force_version = reached
            self._reached.set()
        if self._strict_mode is not None:
            self._strict_mode.in_force(self.in_force_version)
        while self._pending and self._pending[0][0] <= self.in_force_version:
            version, noticed_ns, changed = self._pending.popleft()
            self.last_latency_s = (time.monotonic_ns() - noticed_ns) / 1e9
            self._on_in_force(self.last_latency_s)
            latency_ms = self.last_latency_s * 1e3
            log.log(DETAIL, "snapshot %d is in force after %.1f ms: %s", version, latency_ms, changed or "nothing changed")


async def with_interfaces(sets: IsolatedSets) -> IsolatedSets:
    """The same sets, with the interfaces that lead to the pods at present."""
    if not sets.local:
        return sets
    return replace(sets, interfaces=await asyncio.to_thread(pod_interfaces, sets.local, sets.ingress, sets.egress))
