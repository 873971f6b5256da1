"""Metrics of the supervisor's state, read at each scrape."""

import os
import platform

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from netpolq.dataplane.bridge_guard import TAGGED
from netpolq.dataplane.ruleset import SPOOFED, UNJUDGED, CacheCounts
from netpolq.events.part import DenialEvents
from netpolq.flows.export.part import FlowExport
from netpolq.flows.traffic_reader import TrafficReader
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.metrics.deprecated_names import with_former_names
from netpolq.supervisor.readiness import Readiness, rss_bytes
from netpolq.supervisor.resolvers import TrustedResolvers


class Reading(NamedTuple):
    """Values of one metric: (labels, value) pairs, all with the same label names in the same order."""

    name: str
    documentation: str
    label_names: tuple[str, ...]
    values: tuple[tuple[tuple[str, ...], float], ...]

    @classmethod
    def single(cls, name: str, documentation: str, value: float) -> "Reading":
        """A metric without labels."""
        return cls(name, documentation, (), (((), value),))


def readings(readiness: Readiness) -> list[Reading]:
    """Present values of all metrics."""
    pool, publisher, enforcer = readiness.pool, readiness.publisher, readiness.enforcer
    counters = readiness.host_monitor.counters
    workers = [report for _slot, report in sorted(pool.workers.items())]
    waiting = [] if pool.waiting is None else [("waiting", pool.waiting)]
    slots = [*((str(report.slot), report) for report in workers), *waiting]
    single = Reading.single
    found = [
        build_info(),
        single("netpolq_snapshot_version", "Version of the newest snapshot", readiness.progress.rollout.version),
        single("netpolq_snapshot_bytes", "Size of the newest snapshot", publisher.snapshot_bytes),
        single("netpolq_snapshots_published_total", "Snapshots published by this supervisor", publisher.published),
        single("netpolq_snapshots_refused_total", "Snapshots a worker could not use", pool.refusals),
        single("netpolq_workers_up", "Workers that are running", sum(report.pid != 0 for report in workers)),
        single("netpolq_workers_wanted", "Workers that should be running", readiness.settings.queue_count),
        single(
            "netpolq_waiting_packets",
            "Packets that wait for an unknown address at present",
            0 if pool.waiting is None else pool.waiting.held,
        ),
        single("netpolq_ready", "1 while /readyz answers 200", 0 if readiness.not_ready() else 1),
        single("netpolq_supervisor_restarts_total", "Supervisors that were started again", pool.supervisor_restarts),
        single(
            "netpolq_ruleset_repairs_total",
            "Times that what other processes changed in the table inet netpolq was put back",
            readiness.upkeep.repairs,
        ),
        single(
            "netpolq_rejected_objects", "Objects and files that could not be used as written", len(readiness.store.rejections)
        ),
        Reading(
            "netpolq_worker_restarts_total",
            "Replacements of workers that ended",
            ("slot",),
            tuple(((slot,), report.restarts) for slot, report in slots),
        ),
        Reading(
            "netpolq_worker_snapshot_version",
            "Snapshot that a worker uses",
            ("slot",),
            tuple(((slot,), report.acked_version) for slot, report in slots),
        ),
        Reading(
            "netpolq_objects",
            "Objects in the store",
            ("kind",),
            tuple(((kind,), count) for kind, count in sorted(readiness.object_counts.items())),
        ),
        Reading(
            "netpolq_resident_memory_bytes",
            "Resident memory of a process",
            ("process",),
            (
                (("supervisor",), rss_bytes(os.getpid())),
                (("pool",), rss_bytes(os.getppid())),
                *(((f"worker-{report.slot}",), rss_bytes(report.pid)) for report in workers),
                *(((name,), rss_bytes(report.pid)) for name, report in waiting),
            ),
        ),
    ]
    found += ruleset_readings(counters)
    found.append(
        single(
            "netpolq_label_clashes",
            "Chains of other software that set the agent's bits of connection labels",
            len(readiness.host_monitor.clashing_chains),
        )
    )
    found += names_readings(readiness.names, readiness.resolvers)
    if (age_s := readiness.source_age_s) is not None:
        found.append(single("netpolq_source_age_seconds", "Seconds since the last sync with the source", age_s))
    counts = (("egress", enforcer.sets.egress), ("ingress", enforcer.sets.ingress))
    found.append(
        Reading(
            "netpolq_isolated_addresses",
            "Addresses of local pods that some policy isolates",
            ("direction",),
            tuple(((direction,), len(addresses)) for direction, addresses in counts),
        )
    )
    if (usage := readiness.host_monitor.conntrack) is not None:
        found += [
            single("netpolq_conntrack_entries", "Connections in the kernel's table", usage.entries),
            single("netpolq_conntrack_limit", "Connections that fit into it", usage.limit),
            single("netpolq_conntrack_dropped_total", "Packets the kernel dropped for lack of room in it", usage.dropped),
        ]
    if (strict := readiness.strict_mode) is not None:
        found += [
            single(
                "netpolq_established_examined_total",
                "Established connections that were evaluated again after a change",
                strict.examined,
            ),
            single("netpolq_established_denied_total", "Those of them that are denied since", strict.denied),
        ]
    results = readiness.cni_results
    found += [
        single(
            "netpolq_early_addresses_total",
            "Addresses of pods of this node that were known from CNI results before the API reported them",
            0 if results is None else results.early.total,
        ),
        single(
            "netpolq_unusable_cni_results",
            "Files among the CNI results that are no results",
            0 if results is None else len(results.content.unusable),
        ),
    ]
    if readiness.verdict_cache is not None:
        found += verdict_cache_readings(readiness.verdict_cache, readiness.host_monitor.cache_counts)
    if readiness.flows is not None:
        found += flow_readings(readiness.flows)
    if readiness.traffic_reader is not None:
        found.append(traffic_reading(readiness.traffic_reader))
    if readiness.flow_export is not None:
        found += flow_export_readings(readiness.flow_export)
    if readiness.events is not None:
        found.append(events_reading(readiness.events))
    return found


@cache
def build_info() -> Reading:
    """Versions of what runs, as labels of a constant."""
    return Reading(
        "netpolq_build_info",
        "1; the labels are the versions of the agent, of Python and of the kernel",
        ("version", "python", "kernel"),
        (((version("netpolq"), platform.python_version(), platform.release()), 1),),
    )


def names_readings(names: LearnedNames, resolvers: TrustedResolvers) -> list[Reading]:
    """Values of the learned names."""
    single = Reading.single
    return [
        single(
            "netpolq_learned_addresses", "Addresses of domain names in policies, each counted for each name", len(names.table)
        ),
        Reading(
            "netpolq_learned_addresses_refused_total",
            "Addresses of DNS answers that were not learned",
            ("cause",),
            tuple(((cause.value,), count) for cause, count in sorted(names.table.refused.items())),
        ),
        single(
            "netpolq_trusted_dns_servers", "DNS servers whose answers count for domain names in policies", len(resolvers.trusted)
        ),
    ]


def ruleset_readings(counters: Mapping[str, int]) -> list[Reading]:
    """Values of the ruleset's counters; empty before the first read.

    Not 0: the table outlives agents, and Prometheus would take a counter that drops to 0 and rises again for a new increase.
    """
    if UNJUDGED not in counters:
        return []
    found = [
        Reading.single("netpolq_unjudged_packets_total", "Packets that no worker evaluated", counters[UNJUDGED]),
        Reading.single(
            "netpolq_spoofed_packets_total",
            "Packets of new connections that were dropped because they did not come from where their source address is",
            counters.get(SPOOFED, 0),
        ),
    ]
    if TAGGED in counters:
        found.append(
            Reading.single(
                "netpolq_tagged_frames_total",
                "Frames between ports of a bridge that were dropped because of a VLAN tag that hides them from evaluation",
                counters[TAGGED],
            )
        )
    return found


def verdict_cache_readings(cache: VerdictCache, counts: CacheCounts | None) -> list[Reading]:
    """Values of the verdict cache. `counts`: None before the first read of the kernel's counters."""
    single = Reading.single
    found = [
        single("netpolq_kernel_verdict_cache_entries", "Decisions the kernel holds", cache.entries),
        single("netpolq_kernel_verdict_cache_size", "Decisions the kernel may hold", cache.size),
        single("netpolq_kernel_verdict_cache_remembered_total", "Decisions put into the kernel", cache.remembered),
        single(
            "netpolq_kernel_verdict_cache_forgotten_total", "Decisions taken out one by one because of a change", cache.forgotten
        ),
        single("netpolq_kernel_verdict_cache_flushes_total", "Times that all decisions were taken out", cache.flushes),
        Reading(
            "netpolq_kernel_verdict_cache_refused_hints_total",
            "Decisions that workers wanted kept and that were not",
            ("reason",),
            tuple(((reason,), count) for reason, count in sorted(cache.refused.items())),
        ),
    ]
    if counts is not None:
        found += [
            Reading(
                "netpolq_kernel_verdict_cache_hits_total",
                "First packets that were answered by a decision in the kernel",
                ("verdict",),
                ((("accept",), counts.accepts), (("drop",), counts.drops)),
            ),
            single(
                "netpolq_kernel_verdict_cache_misses_total",
                "First packets that the kernel had to ask a worker about",
                counts.misses,
            ),
        ]
    return found


def flow_readings(flows: FlowIntake) -> list[Reading]:
    """Values of the recorded flows."""
    single = Reading.single
    return [
        single("netpolq_flow_records", "Flow records that the agent has, of at most --flow-records", flows.table.records),
        single(
            "netpolq_flow_records_dropped_total",
            "Flow records that were dropped before their hour was over, to make room",
            flows.table.dropped_early,
        ),
        single("netpolq_flow_unrecorded_connections_total", "Connections that are in no flow record", flows.table.unrecorded),
        single("netpolq_flow_lost_connections_total", "Connections that workers had no room to report", flows.lost),
        single(
            "netpolq_flow_damaged_reads_total",
            "Reads of a worker's recorded connections that failed, and whose connections are in no flow record",
            flows.damaged,
        ),
    ]


def traffic_reading(reader: TrafficReader) -> Reading:
    """What is missing in packets and bytes of flows."""
    return Reading.single(
        "netpolq_flow_traffic_missed_connections_total",
        "Connections that ended without their packets and bytes being counted, because too many ended at once",
        reader.missed,
    )


def flow_export_readings(export: FlowExport) -> list[Reading]:
    """Values of the export of flow records."""
    return [
        Reading(
            "netpolq_flow_export_records_total",
            "Flow records by what became of them: exported; lost, because too many were waiting; rejected by the target",
            ("exporter", "outcome"),
            tuple(
                ((exporter.name, outcome), count)
                for exporter in export.exporters
                for outcome, count in exporter.counts.as_mapping().items()
            ),
        ),
        Reading(
            "netpolq_flow_export_waiting_records",
            "Flow records that are not exported yet",
            ("exporter",),
            tuple(((exporter.name,), exporter.waiting) for exporter in export.exporters),
        ),
    ]


def events_reading(events: DenialEvents) -> Reading:
    """Values of the Events of denied connections."""
    return Reading(
        "netpolq_events_total",
        "Events of denied connections by what became of them: written, updates included; suppressed by the limits; failed writes",
        ("outcome",),
        tuple(((outcome,), count) for outcome, count in events.as_mapping().items()),
    )


class StateCollector(Collector):
    """Exposes readings; names that end in `_total` are counters, all others gauges."""

    def __init__(self, read: Callable[[], list[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """One family for each reading, and one for each former name."""
        return with_former_names(self._families())

    def _families(self) -> Iterator[Metric]:
        for name, documentation, label_names, values in self._read():
            family: CounterMetricFamily | GaugeMetricFamily
            if name.endswith("_total"):
                family = CounterMetricFamily(name, documentation, labels=label_names)
            else:
                family = GaugeMetricFamily(name, documentation, labels=label_names)
            for labels, value in values:
                family.add_metric(labels, value)
            yield family
