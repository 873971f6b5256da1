"""Readiness of the agent, and its status document."""

import time

from dataclasses import dataclass
from importlib.metadata import version

import psutil

from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.ruleset import UNJUDGED
from netpolq.enums import Dataplane
from netpolq.events.part import DenialEvents
from netpolq.flows.export.part import FlowExport
from netpolq.flows.traffic_reader import TrafficReader
from netpolq.settings import Settings
from netpolq.sources.cni_results.watch import CniResults
from netpolq.sources.source import Source
from netpolq.store import Store
from netpolq.supervisor.enforcer import Enforcer
from netpolq.supervisor.established import StrictMode
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.hold import Hold
from netpolq.supervisor.host_monitor import HostMonitor
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.node_name import node_name_problem
from netpolq.supervisor.pool_reader import PoolReader
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.resolvers import TrustedResolvers
from netpolq.supervisor.ruleset_upkeep import RulesetUpkeep
from netpolq.supervisor.snapshot_file import SnapshotFile
from netpolq.supervisor.status import (
    CniResultsStatus,
    DataplaneStatus,
    EventsStatus,
    ExporterStatus,
    FlowsStatus,
    NamesStatus,
    ReportStatus,
    SourceStatus,
    Status,
    StrictModeStatus,
    TrafficStatus,
    VerdictCacheStatus,
    WaitingStatus,
    WorkerStatus,
)
from netpolq.supervisor.unknown_addresses import UnknownAddresses
from netpolq.tls import TlsContext

_LATE_S = 1.0
_MAX_NAMED = 5
"""Maximum number of files that a reason names; the status lists all of them."""
_MAX_BEHIND_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Inputs of readiness and status. `form`: of the queue rule. `verdict_cache`, `strict_mode`, `cni_results`, `flows`, `flow_export`,
    `events`, `report_tls`: None if switched off.
    """

    settings: Settings
    form: Dataplane
    store: Store
    source: Source
    progress: Progress
    pool: PoolReader
    publisher: Publisher
    snapshot_file: SnapshotFile
    enforcer: Enforcer
    upkeep: RulesetUpkeep
    bridge_guard: BridgeGuard
    hold: Hold
    unknown_addresses: UnknownAddresses
    host_monitor: HostMonitor
    names: LearnedNames
    resolvers: TrustedResolvers
    verdict_cache: VerdictCache | None
    strict_mode: StrictMode | None
    cni_results: CniResults | None
    flows: FlowIntake | None
    traffic_reader: TrafficReader | None
    flow_export: FlowExport | None
    events: DenialEvents | None
    report_tls: TlsContext | None

    def not_ready(self) -> list[str]:
        """Reasons why the agent is not ready; empty if it is ready."""
        reasons = []
        rollout = self.progress.rollout
        if not self.store.synced or not self.publisher.published:
            reasons.append("the first sync is not published yet")
        elif not rollout.in_force_version:
            reasons.append("the first snapshot is not in force yet")
        missing = self.pool.missing_workers()
        if missing:
            reasons.append(f"workers are not running: {missing if self.pool.workers else 'none has reported yet'}")
        if self.pool.is_waiting_missing():
            reasons.append("the waiting process is not running")
        late = self.pool.late_workers(_LATE_S)
        if late:
            reasons.append(f"workers {late} are more than {_LATE_S:.0f} s behind snapshot {rollout.version}")
        if self.pool.is_waiting_late(_LATE_S):
            reasons.append(f"the waiting process is more than {_LATE_S:.0f} s behind snapshot {rollout.version}")
        if self.enforcer.ruleset_problem is not None:
            reasons.append(self.enforcer.ruleset_problem)
        if self.upkeep.contention is not None:
            reasons.append(f"another program keeps changing the ruleset: {self.upkeep.contention}")
        behind_s = self.progress.behind_s
        if behind_s > _MAX_BEHIND_S:
            reasons.append(
                f"version {rollout.version} is not in force {behind_s:.0f} s after the change; "
                f"version {rollout.in_force_version} is; waiting for {rollout.waits_for}"
            )
        if self.hold.problem is not None:
            reasons.append(self.hold.problem)
        if self.unknown_addresses.problem is not None:
            reasons.append(self.unknown_addresses.problem)
        if self.verdict_cache is not None and self.verdict_cache.problem is not None:
            reasons.append(f"cannot update the verdict cache: {self.verdict_cache.problem}")
        if self.strict_mode is not None and self.strict_mode.problem is not None:
            reasons.append(f"cannot evaluate established connections: {self.strict_mode.problem}")
        if self.bridge_guard.problem is not None:
            reasons.append(self.bridge_guard.problem)
        if self.host_monitor.problem is not None:
            reasons.append(self.host_monitor.problem)
        node_problem = node_name_problem(self.source, self.store, self.settings.hostname) if self.store.synced else None
        if node_problem is not None:
            reasons.append(node_problem)
        return reasons + self._not_ready_for_manifests()

    def _not_ready_for_manifests(self) -> list[str]:
        """Reasons why a directory of manifests may enforce less than its author intends."""
        reasons = []
        unclear = sorted({rejection.origin for rejection in self.store.rejections if rejection.leaves_open})
        if unclear:
            more = f" and {len(unclear) - _MAX_NAMED} more" if len(unclear) > _MAX_NAMED else ""
            reasons.append(
                f"manifests from which it is not clear which pods they isolate: {', '.join(unclear[:_MAX_NAMED])}{more}"
            )
        return reasons

    def status(self) -> Status:
        """The status document."""
        rollout, enforcer = self.progress.rollout, self.enforcer
        reasons = self.not_ready()
        return Status(
            version=version("netpolq"),
            node=self.settings.hostname,
            snapshot_version=rollout.version,
            in_force_version=rollout.in_force_version,
            ready=not reasons,
            not_ready_reasons=reasons,
            workers=[
                WorkerStatus(
                    slot=report.slot,
                    pid=report.pid,
                    queue_num=report.queue_num,
                    acked_version=report.acked_version,
                    packets=report.packets,
                    restarts=report.restarts,
                    rss_bytes=rss_bytes(report.pid),
                )
                for _slot, report in sorted(self.pool.workers.items())
            ],
            waiting=self._waiting_status(),
            source=SourceStatus(
                kind=self.source.kind,
                location=self.source.location,
                synced=self.store.synced,
                age_s=self.source_age_s,
                problems=self.source.problems,
                objects=self.object_counts,
                ignored=dict(self.store.ignored),
            ),
            cni_results=self._cni_results_status(),
            rejected=list(self.store.rejections),
            dataplane=DataplaneStatus(
                form=self.form.value,
                queues=str(self.settings.queues),
                fail_open=self.settings.fail_open,
                isolated_ingress=len(enforcer.sets.ingress),
                isolated_egress=len(enforcer.sets.egress),
                unjudged_packets=self.host_monitor.counters.get(UNJUDGED, 0),
                hold=self.hold.problem,
            ),
            verdict_cache=self._verdict_cache_status(),
            strict_mode=self._strict_mode_status(),
            domain_names=NamesStatus(
                names=self.names.table.name_count,
                addresses=len(self.names.table),
                refused={cause.value: count for cause, count in self.names.table.refused.items()},
                dns_servers=list(self.resolvers.trusted),
                problem=self.names.file.problem,
            ),
            programming_latency_s=rollout.last_latency_s,
            supervisor_restarts=self.pool.supervisor_restarts,
            run_dir_problem=self.snapshot_file.problem,
            flows=self._flows_status(),
            flow_export=self._flow_export_status(),
            events=self._events_status(),
            report=self._report_status(),
        )

    def _waiting_status(self) -> WaitingStatus | None:
        report = self.pool.waiting
        if report is None:
            return None
        return WaitingStatus(
            pid=report.pid,
            queue_num=report.queue_num,
            acked_version=report.acked_version,
            held=report.held,
            packets=report.packets,
            restarts=report.restarts,
            rss_bytes=rss_bytes(report.pid),
        )

    def _verdict_cache_status(self) -> VerdictCacheStatus:
        cache, counts = self.verdict_cache, self.host_monitor.cache_counts
        return VerdictCacheStatus(
            enabled=cache is not None,
            entries=cache.entries if cache is not None else 0,
            size=self.settings.verdict_cache_size,
            ttl_s=self.settings.verdict_cache_ttl_s,
            hits=counts.hits if counts is not None else 0,
        )

    def _cni_results_status(self) -> CniResultsStatus | None:
        results = self.cni_results
        if results is None:
            return None
        return CniResultsStatus(
            location=results.location,
            folder_exists=results.content.is_present,
            early_addresses=results.early.count,
            unusable_files=len(results.content.unusable),
            example=results.content.example,
            problems=[problem for problem in (results.content.problem, results.problem) if problem is not None],
        )

    def _flows_status(self) -> FlowsStatus | None:
        flows = self.flows
        if flows is None:
            return None
        return FlowsStatus(
            records=flows.table.records,
            max_records=flows.table.max_records,
            unrecorded=flows.table.unrecorded,
            lost=flows.lost,
            dropped_early=flows.table.dropped_early,
            damaged=flows.damaged,
            traffic=self._traffic_status(),
        )

    def _traffic_status(self) -> TrafficStatus | None:
        reader = self.traffic_reader
        if reader is None:
            return None
        return TrafficStatus(counted=reader.is_on, missed=reader.missed, problem=reader.problem)

    def _flow_export_status(self) -> list[ExporterStatus]:
        return [
            ExporterStatus(
                name=exporter.name,
                target=exporter.target,
                waiting=exporter.waiting,
                records=exporter.counts.as_mapping(),
                problem=exporter.problem,
            )
            for exporter in (() if self.flow_export is None else self.flow_export.exporters)
        ]

    def _events_status(self) -> EventsStatus | None:
        if self.events is None:
            return None
        return EventsStatus(waiting=self.events.table.waiting, events=self.events.as_mapping(), problem=self.events.problem)

    def _report_status(self) -> ReportStatus | None:
        if self.report_tls is None:
            return None
        return ReportStatus(address=str(self.settings.report_bind_address), problem=self.report_tls.problem)

    def _strict_mode_status(self) -> StrictModeStatus:
        strict = self.strict_mode
        if strict is None:
            return StrictModeStatus(enabled=False, done_version=0, examined=0, denied=0)
        done_version = self.progress.rollout.examined_version
        return StrictModeStatus(enabled=True, done_version=done_version, examined=strict.examined, denied=strict.denied)

    @property
    def source_age_s(self) -> float | None:
        """Seconds since the last sync with the source, or None before the first."""
        contact_ns = self.source.contact_ns
        return None if contact_ns is None else (time.monotonic_ns() - contact_ns) / 1e9

    @property
    def object_counts(self) -> dict[str, int]:
        """Objects in the store by kind."""
        store = self.store
        return {
            "namespaces": len(store.namespaces),
            "pods": len(store.pods),
            "policies": len(store.policies),
            "cluster_policies": len(store.cluster_policies),
            "nodes": len(store.nodes),
        }


def rss_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 without a process."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
