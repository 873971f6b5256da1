"""The composition root: the only place where source, store, compiler, publisher, ruleset and endpoints meet."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time

from collections.abc import Collection, Mapping
from importlib.metadata import version

import psutil
import uvloop

from prometheus_client import CollectorRegistry, Histogram

from netpolq import logs
from netpolq.channel import Channel, Hints
from netpolq.dataplane import queuestats
from netpolq.dataplane.apply import Ruleset, probe
from netpolq.dataplane.kernel import ConntrackUsage, conntrack_usage, dns_in_prerouting, unfiltered_bridges
from netpolq.dataplane.ruleset import UNJUDGED, RulesetConfig
from netpolq.errors import ExitCode, NetpolqError
from netpolq.model import Rejection, Update
from netpolq.run_dir import IMAGE, STATUS_SOCKET, metrics_dir
from netpolq.settings import Settings
from netpolq.sources.base import Source
from netpolq.sources.manifests import ManifestFolder
from netpolq.store import Store
from netpolq.supervisor.enforcer import Enforcer
from netpolq.supervisor.exposition import QueueCollector, WorkerCollector, expose
from netpolq.supervisor.http import StatusSocket, serve_metrics
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.state_metrics import CacheCounts, Reading, StateCollector, verdict_cache_readings
from netpolq.supervisor.status import (
    DataplaneStatus,
    SourceStatus,
    Status,
    StrictModeStatus,
    VerdictCacheStatus,
    WorkerStatus,
    encode,
)
from netpolq.supervisor.strict import StrictMode
from netpolq.supervisor.verdict_cache import VerdictCache

_LATE_S = 1.0
_REFRESH_S = 1.0
_NEARLY_FULL = 0.95
_STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

log = logging.getLogger("supervisor")


def main(settings: Settings) -> int:
    """Run the supervisor on the channel that is its standard input. Returns the exit code."""
    logs.configure(settings.logging_format, settings.verbosity)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The pool decides when to leave; the end of the channel says so.
        signal.signal(number, signal.SIG_IGN)
    try:
        channel = Channel(socket.socket(fileno=os.dup(sys.stdin.fileno())))
    except OSError:
        sys.stderr.write("netpolq: error: `netpolq supervise` is started by `netpolq run` and by nothing else\n")
        return ExitCode.USAGE
    failures: list[BaseException] = []
    try:
        uvloop.run(Supervisor(settings, channel).run())
    except* NetpolqError as group:
        failures += _leaves(group)
    for failure in failures:
        sys.stderr.write(f"netpolq: error: {failure}\n")
    return next((failure.exit_code for failure in failures if isinstance(failure, NetpolqError)), ExitCode.OK)


def make_source(settings: Settings) -> Source:
    """The source that the settings name: a folder, or the cluster."""
    if settings.manifests is not None:
        return ManifestFolder(settings.manifests)
    # Only now, because the kubernetes package takes a second and tens of megabytes that a folder does not need.
    from netpolq.sources.cluster.source import ClusterSource  # noqa: PLC0415

    return ClusterSource(settings.kubeconfig)


def _leaves(error: BaseException) -> list[BaseException]:
    """The single errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


class Supervisor:
    """Everything the supervisor holds, wired together."""

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._settings = settings
        self._store = Store()
        self._pool_gone = asyncio.Event()
        self._publisher = Publisher(
            channel,
            settings.run_dir / IMAGE,
            on_progress=self._on_progress,
            on_hints=self._on_hints,
            on_publish=self._on_publish,
            on_alone=self._on_alone,
            on_end=self._pool_gone.set,
        )
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "netpolq_policy_programming_seconds",
            "Seconds from the notice of a change until every worker and the kernel enforce it",
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._compile_time = Histogram(
            "netpolq_compile_seconds",
            "Seconds to compile what changed, for each publish",
            buckets=_STEP_BUCKETS_S,
            registry=self._registry,
        )
        self._publish_time = Histogram(
            "netpolq_publish_seconds",
            "Seconds to copy a snapshot and hand it on",
            buckets=_STEP_BUCKETS_S,
            registry=self._registry,
        )
        self._strict_time = Histogram(
            "netpolq_strict_pass_seconds",
            "Seconds to go through established connections after a change",
            buckets=_STEP_BUCKETS_S,
            registry=self._registry,
        )
        self._queue_nums = range(settings.queue_first, settings.queue_first + settings.queue_count)
        self._enforcer: Enforcer | None = None
        self._verdict_cache: VerdictCache | None = None
        self._strict_mode: StrictMode | None = None
        self._source: Source | None = None
        self._form = settings.dataplane
        self._counters: Mapping[str, int] = {}
        self._bridges: tuple[str, ...] = ()
        self._conntrack: ConntrackUsage | None = None
        self._status_socket = StatusSocket(
            settings.run_dir / STATUS_SOCKET, settings.queue_first, status=lambda: encode(self.status())
        )
        self._claiming: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the pool is gone. Raises `NetpolqError` when that cannot even begin."""
        settings = self._settings
        self._publisher.attach(asyncio.get_running_loop())
        await self._publisher.welcomed.wait()
        self._form = await probe(settings.dataplane)
        self._log_flags_without_effect()
        ruleset = Ruleset(self._ruleset_config())
        if settings.verdict_cache:
            self._verdict_cache = VerdictCache(
                ruleset, size=settings.verdict_cache_size, ttl_s=settings.verdict_cache_ttl_s, on_clean=self._on_progress
            )
        if settings.strict_mode:
            self._strict_mode = StrictMode(ct_mark_bit=settings.ct_mark_bit, on_pass=self._strict_time.observe)
        self._enforcer = Enforcer(
            store=self._store,
            publisher=self._publisher,
            ruleset=ruleset,
            verdict_cache=self._verdict_cache,
            strict_mode=self._strict_mode,
            hostname=settings.hostname,
            with_pod_names=settings.verbosity >= logs.PACKET_LOG_VERBOSITY,
            on_in_force=self._latency.observe,
            on_compiled=self._compile_time.observe,
            on_published=self._publish_time.observe,
        )
        self._source = source = make_source(settings)
        self._registry.register(WorkerCollector(metrics_dir(settings.run_dir, settings.queue_first)))
        self._registry.register(QueueCollector(queuestats.read, self._queue_nums))
        self._registry.register(StateCollector(self._readings))
        await self._status_socket.open()
        metrics = await serve_metrics(
            settings.metrics_host,
            settings.metrics_port,
            expose=lambda: expose(self._registry),
            not_ready=self.not_ready,
        )
        log.info("serving queues %s, queue form %s, source %s", settings.queues, self._form, source.kind)
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(self._enforcer.run()),
                    tasks.create_task(source.run(self._deliver)),
                    tasks.create_task(self._refresh(ruleset)),
                ]
                await self._pool_gone.wait()
                for task in working:
                    task.cancel()
        finally:
            await self._publisher.leave()
            await metrics.cleanup()
            await self._status_socket.cleanup()

    def _ruleset_config(self) -> RulesetConfig:
        settings = self._settings
        return RulesetConfig(
            queue_first=settings.queue_first,
            queue_count=settings.queue_count,
            fanout=settings.fanout,
            fail_open=settings.fail_open,
            mark_mask=settings.mark_mask,
            ct_mark_bit=settings.ct_mark_bit,
            node_egress=settings.node_egress,
            dns_in_prerouting=dns_in_prerouting(settings.netfilter_bug_1766_fix),
            form=self._form,
            verdict_cache=settings.verdict_cache,
        )

    def _log_flags_without_effect(self) -> None:
        log.info("pod addresses come from the pods' status alone, never from the container runtime: --disable-nri has no effect")

    def _on_progress(self) -> None:
        if self._enforcer is not None:
            self._enforcer.settle()

    def _on_hints(self, hints: Hints) -> None:
        if self._verdict_cache is not None:
            self._verdict_cache.hinted(hints)

    def _on_publish(self, version: int, changed: Collection[bytes] | None, descriptor: int) -> None:
        if self._verdict_cache is not None:
            self._verdict_cache.published(version, changed)
        if self._strict_mode is not None:
            self._strict_mode.published(version, changed, descriptor)

    def _on_alone(self) -> None:
        if self._strict_mode is not None:
            self._strict_mode.suspect_all()  # until now the other has accepted connections by what it knew
        self._claiming = asyncio.create_task(self._claim_status_socket())

    async def _claim_status_socket(self) -> None:
        try:
            await self._status_socket.claim()  # the other's supervisor may have been started again meanwhile, and have taken it
        except OSError as error:
            log.error("the status socket cannot be made: %s", error.strerror)

    def _deliver(self, update: Update) -> None:
        known = set(self._store.rejections)
        for rejection in update.rejections:
            if rejection not in known:
                log.error("rejected: %s", rejection)
        changed = self._store.apply(update)
        if changed and self._enforcer is not None:
            self._enforcer.notice(update.observed_ns)

    async def _refresh(self, ruleset: Ruleset) -> None:
        """Look at what nobody tells: the ruleset's counters, the bridges, and how full the connection table is."""
        while True:
            try:
                self._counters = await ruleset.counters()
            except NetpolqError as error:
                log.warning("%s", error)
            bridges = await asyncio.to_thread(unfiltered_bridges)
            if bridges != self._bridges and bridges:
                log.warning("%s", _bridge_warning(bridges))
            self._bridges = bridges
            before, self._conntrack = self._conntrack, await asyncio.to_thread(conntrack_usage)
            if _is_nearly_full(self._conntrack) and not _is_nearly_full(before):
                log.warning("%s", _conntrack_warning(self._conntrack))
            await asyncio.sleep(_REFRESH_S)

    # --- what is told -------------------------------------------------------------------------------------------------------------

    def not_ready(self) -> list[str]:
        """Why the agent is not ready; empty when it is."""
        reasons = []
        if not self._store.synced or not self._publisher.published:
            reasons.append("the first sync is not published yet")
        elif self._enforcer is None or not self._enforcer.in_force_version:
            reasons.append("the first snapshot is not in force yet")
        down = [slot for slot, report in sorted(self._publisher.workers.items()) if report.pid == 0]
        if down or len(self._publisher.workers) < len(self._queue_nums):
            reasons.append(f"workers are not running: {down or 'none has reported yet'}")
        late = self._publisher.late_workers(_LATE_S)
        if late:
            reasons.append(f"workers {late} are more than {_LATE_S:.0f} s behind snapshot {self._publisher.version}")
        if self._enforcer is not None and self._enforcer.ruleset_problem is not None:
            reasons.append(self._enforcer.ruleset_problem)
        if self._verdict_cache is not None and self._verdict_cache.problem is not None:
            reasons.append(f"the verdict cache cannot be changed: {self._verdict_cache.problem}")
        if self._strict_mode is not None and self._strict_mode.problem is not None:
            reasons.append(f"established connections cannot be judged: {self._strict_mode.problem}")
        if self._bridges:
            reasons.append(_bridge_warning(self._bridges))
        return reasons

    def status(self) -> Status:
        """The status document."""
        settings, store, publisher, source = self._settings, self._store, self._publisher, self._source
        reasons = self.not_ready()
        enforcer = self._enforcer
        return Status(
            version=version("netpolq"),
            snapshot_version=publisher.version,
            in_force_version=enforcer.in_force_version if enforcer is not None else 0,
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
                    rss_bytes=_rss_bytes(report.pid),
                )
                for _slot, report in sorted(publisher.workers.items())
            ],
            source=SourceStatus(
                kind=source.kind if source is not None else "",
                location=source.location if source is not None else "",
                synced=store.synced,
                age_s=self._source_age_s(),
                problems=source.problems if source is not None else [],
                objects=self._object_counts(),
                ignored=dict(store.ignored),
            ),
            rejected=self._rejections(),
            dataplane=DataplaneStatus(
                form=self._form.value,
                queues=str(settings.queues),
                fail_open=settings.fail_open,
                isolated_ingress=len(enforcer.sets.ingress) if enforcer is not None else 0,
                isolated_egress=len(enforcer.sets.egress) if enforcer is not None else 0,
                unjudged_packets=self._counters.get(UNJUDGED, 0),
            ),
            verdict_cache=self._verdict_cache_status(),
            strict_mode=self._strict_mode_status(),
            programming_latency_s=enforcer.last_latency_s if enforcer is not None else None,
            supervisor_restarts=publisher.supervisor_restarts,
        )

    def _verdict_cache_status(self) -> VerdictCacheStatus:
        cache, settings = self._verdict_cache, self._settings
        return VerdictCacheStatus(
            enabled=cache is not None,
            entries=cache.entries if cache is not None else 0,
            size=settings.verdict_cache_size,
            ttl_s=settings.verdict_cache_ttl_s,
            hits=CacheCounts.of(self._counters).hits,
        )

    def _strict_mode_status(self) -> StrictModeStatus:
        strict = self._strict_mode
        if strict is None:
            return StrictModeStatus(enabled=False, done_version=0, examined=0, denied=0)
        return StrictModeStatus(enabled=True, done_version=strict.done_version, examined=strict.examined, denied=strict.denied)

    def _source_age_s(self) -> float | None:
        contact_ns = self._source.contact_ns if self._source is not None else None
        return None if contact_ns is None else (time.monotonic_ns() - contact_ns) / 1e9

    def _rejections(self) -> list[Rejection]:
        return [*self._store.rejections, *(self._enforcer.rejections if self._enforcer is not None else ())]

    def _object_counts(self) -> dict[str, int]:
        store = self._store
        return {"namespaces": len(store.namespaces), "pods": len(store.pods), "policies": len(store.policies)}

    def _readings(self) -> list[Reading]:
        publisher, enforcer = self._publisher, self._enforcer
        workers = [report for _slot, report in sorted(publisher.workers.items())]
        single = Reading.single
        readings = [
            single("netpolq_snapshot_version", "Version of the newest snapshot", publisher.version),
            single("netpolq_snapshot_bytes", "Size of the newest snapshot", publisher.image_bytes),
            single("netpolq_snapshots_published_total", "Snapshots published by this supervisor", publisher.published),
            single("netpolq_snapshots_refused_total", "Snapshots a worker could not use", publisher.refusals),
            single("netpolq_workers_up", "Workers that are running", sum(report.pid != 0 for report in workers)),
            single("netpolq_workers_wanted", "Workers that should be running", len(self._queue_nums)),
            single("netpolq_ready", "1 while /readyz answers 200", 0 if self.not_ready() else 1),
            single("netpolq_supervisor_restarts_total", "Supervisors that were started again", publisher.supervisor_restarts),
            single("netpolq_unjudged_packets_total", "Packets that met nobody to judge them", self._counters.get(UNJUDGED, 0)),
            single("netpolq_rejected_objects", "Objects and files that could not be used as written", len(self._rejections())),
            Reading(
                "netpolq_worker_restarts_total",
                "Successors of workers that ended",
                ("slot",),
                tuple(((str(report.slot),), report.restarts) for report in workers),
            ),
            Reading(
                "netpolq_worker_snapshot_version",
                "Snapshot that a worker judges by",
                ("slot",),
                tuple(((str(report.slot),), report.acked_version) for report in workers),
            ),
            Reading(
                "netpolq_objects",
                "Objects in the store",
                ("kind",),
                tuple(((kind,), count) for kind, count in sorted(self._object_counts().items())),
            ),
            Reading(
                "netpolq_resident_memory_bytes",
                "Resident memory of a process",
                ("process",),
                (
                    (("supervisor",), _rss_bytes(os.getpid())),
                    (("pool",), _rss_bytes(os.getppid())),
                    *(((f"worker-{report.slot}",), _rss_bytes(report.pid)) for report in workers),
                ),
            ),
        ]
        if (age_s := self._source_age_s()) is not None:
            readings.append(
                single("netpolq_source_age_seconds", "Seconds since what is known was last known to be the present state", age_s)
            )
        if enforcer is not None:
            counts = (("egress", enforcer.sets.egress), ("ingress", enforcer.sets.ingress))
            readings.append(
                Reading(
                    "netpolq_isolated_addresses",
                    "Addresses of local pods that some policy isolates",
                    ("direction",),
                    tuple(((direction,), len(addresses)) for direction, addresses in counts),
                )
            )
        if (usage := self._conntrack) is not None:
            readings += [
                single("netpolq_conntrack_entries", "Connections in the kernel's table", usage.entries),
                single("netpolq_conntrack_limit", "Connections that fit into it", usage.limit),
                single("netpolq_conntrack_dropped_total", "Packets the kernel dropped for lack of room in it", usage.dropped),
            ]
        if (strict := self._strict_mode) is not None:
            readings += [
                single(
                    "netpolq_established_examined_total",
                    "Established connections that were judged again after a change",
                    strict.examined,
                ),
                single("netpolq_established_denied_total", "Those of them that are denied since", strict.denied),
            ]
        if self._verdict_cache is not None:
            readings += verdict_cache_readings(self._verdict_cache, self._counters)
        return readings


def _bridge_warning(bridges: tuple[str, ...]) -> str:
    return (
        f"traffic between ports of bridge {', '.join(bridges)} does not pass the IP hooks and is not judged: "
        "load br_netfilter and set net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
    )


def _is_nearly_full(usage: ConntrackUsage | None) -> bool:
    return usage is not None and usage.entries >= _NEARLY_FULL * usage.limit


def _conntrack_warning(usage: ConntrackUsage | None) -> str:
    entries, limit = (usage.entries, usage.limit) if usage is not None else (0, 0)
    return (
        f"the connection table holds {entries} of {limit} connections: once it is full, the kernel drops the first packets of new ones "
        "before they are judged; raise net.netfilter.nf_conntrack_max"
    )


def _rss_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
