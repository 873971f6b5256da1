"""Protection between the start of the agent and its first policies in force: kept snapshot, hold, and removal of the hold.

In fail-closed mode, and without rules of an earlier agent, the agent enforces the kept snapshot if that is one of this boot. Otherwise it
drops the traffic of the node's pods (`netpolq.hold`). In either mode the agent removes a hold, of whatever origin, when its rules are in
force: the kernel has the sets, workers use the same version, and the verdict cache has no older verdict.
"""

import asyncio
import logging
import time

from pathlib import Path
from typing import NamedTuple

from netpolq.dataplane.hold_table import HoldTable
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.errors import NetpolqError, SnapshotError
from netpolq.hold import cni
from netpolq.hold.ranges import PodRange, collapse, listed
from netpolq.hold.ruleset import TABLE
from netpolq.ipc.run_dir import SNAPSHOT_FILE
from netpolq.settings import Settings
from netpolq.snapshot import memfd
from netpolq.snapshot.reader import SnapshotReader
from netpolq.sources.source import Source
from netpolq.supervisor.enforcer import Enforcer
from netpolq.supervisor.progress import Progress

_CHECK_INTERVAL_S = 1.0

log = logging.getLogger("hold")


class _Kept(NamedTuple):
    """Version and sets of the kept snapshot. `is_of_this_boot`: if False, its pods have other addresses by now."""

    version: int
    sets: IsolatedSets
    is_of_this_boot: bool


class Hold:
    """Holds the node's pods until policies are in force, then removes the hold.

    `problem`: one sentence on why the hold keeps the agent from being ready; None if no pod is held and none must be.
    """

    def __init__(self, *, settings: Settings, ruleset: Ruleset, enforcer: Enforcer, progress: Progress) -> None:
        self._settings = settings
        self._ruleset = ruleset
        self._enforcer = enforcer
        self._progress = progress
        self._source: Source | None = None
        self._table = HoldTable()
        self._enough_version = 1
        self._must_hold = False
        self._held: tuple[PodRange, ...] = ()
        self.problem: str | None = None

    async def begin(self, pool_version: int) -> None:
        """Install the hold or enforce the kept snapshot, if the mode asks for it and the pod ranges are known.

        `pool_version`: version of the snapshot that workers use already, 0 without one.
        """
        self._enough_version = pool_version + 1
        try:
            if await self._table.is_present():
                self._set_problem(
                    logging.INFO, f"traffic of pods is dropped by the table inet {TABLE} until policies are in force"
                )
            if self._settings.fail_open or await self._ruleset.has_rules():
                return
            self._must_hold = True
            kept = await asyncio.to_thread(_read_kept, self._settings.run_dir / SNAPSHOT_FILE) if pool_version else None
            if kept is not None:
                log.info("enforcing by the kept snapshot %d until the first sync", kept.version)
                self._enforcer.begin_with(kept.version, kept.sets)
            if kept is not None and kept.is_of_this_boot:
                self._enough_version = kept.version
                self._must_hold = False
        except NetpolqError as error:
            self._set_problem(logging.ERROR, f"nothing is held before the first sync: {error}")
        await self._keep_held()

    async def _keep_held(self) -> None:
        """Install or complete the hold: at the start, when another program changes the table, and when ranges become known."""
        if not self._must_hold:
            return
        try:
            in_kernel = await self._table.ranges() if await self._table.is_present() else None
            # A table without ranges has another form than this agent's, unless this agent installed it: leave it.
            if in_kernel or in_kernel is None or self._held:
                await self._hold(in_kernel)
        except NetpolqError as error:
            self._set_problem(logging.ERROR, f"nothing is held before the first sync: {error}")

    async def _hold(self, in_kernel: tuple[PodRange, ...] | None) -> None:
        """Hold all known ranges and those of the table in the kernel (`in_kernel`; None: no table).

        Ranges are only added: pods of a range that is no longer configured may still exist.
        """
        found, problems = await asyncio.to_thread(self._find_ranges)
        ranges = collapse((*self._held, *(in_kernel or ()), *found))
        if ranges and ranges == in_kernel:
            self._held = ranges
            return
        if not ranges:
            reason = f" ({'; '.join(problems)})" if problems else ""
            self._set_problem(
                logging.ERROR,
                f"nothing is held before the first sync, and pods are unprotected: no pod range is known{reason}; set --pod-cidrs",
            )
            return
        for problem in problems:
            log.warning("%s; not part of the hold", problem)
        if in_kernel is None:
            await self._table.install(ranges, ct_label=self._settings.ct_label)
        else:
            await self._table.change_ranges(ranges)
        self._held = ranges
        self._set_problem(
            logging.WARNING, f"traffic of pods in {listed(ranges)} is dropped until the first policies are in force"
        )

    def _find_ranges(self) -> tuple[tuple[PodRange, ...], list[str]]:
        """The pod ranges known at present, and problems, each a sentence.

        Ranges of the setting if it has any; otherwise those of the CNI configuration and of the Node.
        """
        settings = self._settings
        if settings.pod_cidrs:
            return settings.pod_cidrs, []
        found = cni.Found() if settings.cni_conf_dir is None else cni.read(settings.cni_conf_dir)
        if self._source is not None and self._source.kind == "cluster":
            found.ranges += self._source.pod_ranges
            if not found.ranges:
                found.problems.append(_no_range_of_the_node(self._source.node_exists, settings.hostname))
        return tuple(found.ranges), found.problems

    def _set_problem(self, level: int, problem: str) -> None:
        if problem != self.problem:
            log.log(level, "%s", problem)
        self.problem = problem

    async def run(self, source: Source) -> None:
        """Keep the hold until policies are in force; then remove it, and any later one. Runs until cancelled.

        `source`: may have pod ranges before its first sync.
        """
        self._source = source
        while True:
            try:
                async with asyncio.timeout(_CHECK_INTERVAL_S):
                    await self._progress.until(lambda rollout: rollout.in_force_version >= self._enough_version)
                    break
            except TimeoutError:
                await self._keep_held()
        while True:
            try:
                if await self._table.is_present() and await self._table.remove():
                    log.info("policies are in force: the table inet %s is removed", TABLE)
                self.problem = None
            except NetpolqError as error:
                self._set_problem(logging.ERROR, f"cannot remove the hold: {error}")
            await asyncio.sleep(_CHECK_INTERVAL_S)


def _no_range_of_the_node(exists: bool | None, name: str) -> str:
    return f'the Node "{name}" {"names no podCIDRs" if exists else "is not known yet"}'


def _read_kept(path: Path) -> _Kept | None:
    """The kept snapshot; None, with a log line, if it is unusable."""
    try:
        view = SnapshotReader(memfd.load(path))
    except (OSError, SnapshotError) as error:
        log.warning("the kept snapshot cannot be used before the first sync: %s", error)
        return None
    endpoints = list(view.endpoints())
    sets = IsolatedSets(
        ingress=frozenset(address for address, _egress, ingress in endpoints if ingress),
        egress=frozenset(address for address, egress, _ingress in endpoints if egress),
    )
    return _Kept(view.version, sets, _boot_time_s() < view.created_ns / 1e9 <= time.time())


def _boot_time_s() -> float:
    """Boot time in seconds since the epoch; the present time if unknown. Source: proc_stat(5), `btime`."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
    except (OSError, StopIteration, ValueError):
        return time.time()
