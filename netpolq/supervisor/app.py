"""Composition root of the supervisor: the only module that constructs its parts and connects them.

    source ──► store intake ──► store ◄── learned names ◄── pool reader
                    ▲             ▲
    CNI results ────┘             │
        ┌───── hold ──────────► enforcer ────────► publisher ◄── strict mode ──► connection labels
        │                         │  │               │  ▲ │
        │        bridge guard ◄───┘  │               │  │ └─► snapshot file
        │                            ▼               ▼  │
        │                      ruleset upkeep ──► channel to the pool
        │                            │               ▲  │
        ▼                            │               │  │
     ruleset in the kernel ◄─────────┘              pool reader
        ▲                                            │
        └───────────────── verdict cache ◄───────────┘

     progress (the rollout) ◄── each of these parts: it tells what it has done, and waits for its turn
     status socket, metrics, readiness log ──► readiness ──► each of these parts
     trusted resolvers ──► channel to the pool, source
     policy status ──► source
     flow export ◄── status socket, metrics
     traffic reader ──► traffic ◄── flow intake
     events ──► store; ◄── status socket, metrics
     report server ──► readiness, flow intake

An arrow is a reference that a constructor gets. No part calls back: it sends an event to `Progress`, and the part that must act on it
waits for that (`subscribe`, `until`).
"""

import asyncio
import os
import signal
import socket
import sys
import time

from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING

import uvloop

from prometheus_client import CollectorRegistry

from netpolq import logs
from netpolq.dataplane.bridge_guard import BridgeGuard
from netpolq.dataplane.install import Ruleset, probe
from netpolq.enums import Dataplane, FlowsMode
from netpolq.errors import ExitCode, NetpolqError
from netpolq.flows.policy_counters import PolicyCounters
from netpolq.ipc import settings_document
from netpolq.ipc.channel import Channel, Failure, Welcome
from netpolq.ipc.run_dir import NAMES_FILE, SNAPSHOT_FILE, STATUS_SOCKET
from netpolq.model import Pod
from netpolq.netlink import queue_table
from netpolq.policy.compiler import Compiler
from netpolq.settings import Settings
from netpolq.sources.source import Source
from netpolq.store import Store
from netpolq.supervisor import flows_report, pods_report
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.enforcer import Enforcer
from netpolq.supervisor.established import StrictMode
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.flows_report import FLOWS_PATH, Losses
from netpolq.supervisor.from_settings import (
    log_start,
    make_cni_results,
    make_events,
    make_flow_export,
    make_report_tls,
    make_source,
    make_traffic_reader,
    ruleset_config,
    write_events,
    write_policy_status,
)
from netpolq.supervisor.hold import Hold
from netpolq.supervisor.host_monitor import HostMonitor
from netpolq.supervisor.http import StatusSocket, Stream, in_thread, serve_metrics
from netpolq.supervisor.kernel_flow_counts import KernelFlowCounts
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.log_level import Verbosity
from netpolq.supervisor.metrics.exposition import PolicyCollector, QueueCollector, WorkerCollector, expose
from netpolq.supervisor.metrics.state import StateCollector, readings
from netpolq.supervisor.names_file import NamesFile
from netpolq.supervisor.names_report import NAMES_PATH
from netpolq.supervisor.objects_report import OBJECTS_PATH, ObjectsReport
from netpolq.supervisor.pods_report import PODS_PATH
from netpolq.supervisor.pool_reader import PoolReader, receive_welcome
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher, send_heartbeats
from netpolq.supervisor.readiness import Readiness
from netpolq.supervisor.readiness_log import ReadyLog
from netpolq.supervisor.resolvers import TrustedResolvers
from netpolq.supervisor.rollout import Rollout
from netpolq.supervisor.rollout_events import Kept
from netpolq.supervisor.ruleset_upkeep import RulesetUpkeep
from netpolq.supervisor.snapshot_file import SnapshotFile
from netpolq.supervisor.status import SETTINGS_PATH, STATUS_PATH, encode
from netpolq.supervisor.store_intake import StoreIntake
from netpolq.supervisor.timings import Timings
from netpolq.supervisor.unknown_addresses import UnknownAddresses

if TYPE_CHECKING:
    from netpolq.supervisor.report_server import ReportServer


def main(settings: Settings) -> int:
    """Run the supervisor on the channel that is its standard input. Returns the exit code."""
    logs.configure(settings.logging_format, settings.verbosity)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The pool decides when the supervisor ends, by closing the channel.
        signal.signal(number, signal.SIG_IGN)
    try:
        channel = Channel(socket.socket(fileno=os.dup(sys.stdin.fileno())))
    except OSError:
        logs.write_error(
            "`netpolq supervise` is an internal command: start the agent with `netpolq run`", settings.logging_format
        )
        return ExitCode.USAGE
    failures: list[BaseException] = []
    try:
        uvloop.run(supervise(settings, channel))
    except* NetpolqError as group:
        failures += _leaves(group)
    if failures and not channel.send(
        Failure("; ".join(dict.fromkeys(map(str, failures))))
    ):  # else the pool writes it as its last line
        for failure in failures:
            logs.write_error(str(failure), settings.logging_format)
    return next((failure.exit_code for failure in failures if isinstance(failure, NetpolqError)), ExitCode.OK)


def _leaves(error: BaseException) -> list[BaseException]:
    """The single errors in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


async def supervise(settings: Settings, channel: Channel) -> None:
    """Serve until the pool closes the channel. Raises `NetpolqError` when the start fails."""
    welcome = await receive_welcome(channel)
    if welcome is None:
        return
    registry = CollectorRegistry()
    timings = Timings(registry)
    rollout = Rollout(
        workers=(0,) * (settings.queue_count + 1),  # and the waiting process
        has_verdict_cache=settings.verdict_cache,
        has_strict_mode=settings.strict_mode,
    )
    progress = Progress(rollout, timings)
    if welcome.version:
        progress.send(Kept(welcome.version))
    beating = asyncio.create_task(send_heartbeats(channel, progress))
    try:
        form = await probe(settings.dataplane)
        await Supervisor(settings, channel, welcome, form, progress, timings).run(registry)
    finally:
        beating.cancel()


class Supervisor:
    """The parts that enforce, and around them, once the source is there, those that report. `form`: of the queue rule."""

    def __init__(
        self, settings: Settings, channel: Channel, welcome: Welcome, form: Dataplane, progress: Progress, timings: Timings
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._form = form
        self._kept_version = welcome.version
        self._progress = progress
        self._store, changes = Store(), Changes()
        self._compiler = compiler = Compiler(
            self._store,
            is_local=_is_local(settings.hostname),
            known_ranges=(*settings.pod_cidrs, *settings.hold_unknown_peers),
            with_pod_names=settings.pod_names,
            deny_with=settings.deny_with,
            enforcement=settings.enforcement,
        )
        self._names = LearnedNames(
            store=self._store,
            compiler=compiler,
            progress=progress,
            channel=channel,
            file=NamesFile(settings.run_dir / NAMES_FILE),
            timings=timings,
            min_ttl_s=settings.dns_min_ttl_s,
            grace_s=settings.dns_grace_s,
        )
        self._resolvers = TrustedResolvers(
            store=self._store, compiler=compiler, progress=progress, channel=channel, configured=settings.dns_servers
        )
        self._intake = StoreIntake(self._store, changes, progress, self._names)
        self._cni_results = make_cni_results(settings, self._store, self._intake.deliver)
        self._flow_export = make_flow_export(settings)
        self._events = make_events(settings, self._store)
        self._report_tls = make_report_tls(settings)
        self._snapshot_file = SnapshotFile(settings.run_dir / SNAPSHOT_FILE)
        self._publisher = Publisher(channel, progress, self._snapshot_file, changes)
        self._ruleset = Ruleset(ruleset_config(settings, form))
        self._upkeep = RulesetUpkeep(self._ruleset, progress, channel)
        self._bridge_guard = BridgeGuard()
        self._strict_mode = None
        if settings.strict_mode:
            self._strict_mode = StrictMode(
                progress, self._publisher, timings, asking=lambda: compiler.asking, ct_label=settings.ct_label
            )
        self._enforcer = Enforcer(
            compiler=compiler,
            progress=progress,
            publisher=self._publisher,
            ruleset=self._ruleset,
            upkeep=self._upkeep,
            bridge_guard=self._bridge_guard,
            timings=timings,
        )
        self._unknown_addresses = UnknownAddresses(settings, self._ruleset, self._enforcer.install_again)
        self._policy_counters = PolicyCounters(settings.policy_metrics)
        self._traffic_reader = make_traffic_reader(settings)
        self._flows = None
        if settings.flows is not FlowsMode.OFF:
            self._flows = FlowIntake(
                self._store,
                self._policy_counters,
                self._flow_export,
                self._events,
                None if self._traffic_reader is None else self._traffic_reader.traffic,
                node=settings.hostname,
                max_records=settings.flow_records,
            )
        self._verdict_cache = None
        if settings.verdict_cache:
            self._verdict_cache = _verdict_cache(settings, self._ruleset, progress, self._publisher, self._flows)
        self._pool = PoolReader(
            channel,
            progress,
            self._publisher,
            self._verdict_cache,
            self._names,
            self._flows,
            welcome,
            worker_count=settings.queue_count,
        )
        self._objects = ObjectsReport(
            store=self._store,
            progress=progress,
            node=settings.hostname,
            deny_with=settings.deny_with,
            enforcement=settings.enforcement,
        )
        self._hold = Hold(settings=settings, ruleset=self._ruleset, enforcer=self._enforcer, progress=progress)
        self._host_monitor = HostMonitor(settings.ct_label)

    async def run(self, registry: CollectorRegistry) -> None:
        """Serve until the pool closes the channel. Raises `NetpolqError` when the start fails."""
        settings = self._settings
        self._names.load()
        self._pool.attach(asyncio.get_running_loop())
        await self._hold.begin(self._kept_version)
        source = make_source(settings)  # after the hold began, because the import of a client takes a second
        readiness = self._readiness(source)
        self._register_metrics(registry, readiness)
        exposed = in_thread(lambda: expose(registry))
        streams: dict[str, Stream] = {FLOWS_PATH: self._answer_flows, OBJECTS_PATH: self._objects.document}
        status_socket = StatusSocket(
            settings.run_dir / STATUS_SOCKET,
            settings.queue_first,
            self._pool.other_agent_left,
            documents={
                STATUS_PATH: lambda: encode(readiness.status()),
                NAMES_PATH: self._names.report,
                PODS_PATH: self._pods,
                SETTINGS_PATH: settings_document.encode(settings).encode,
            },
            streams=streams,
            metrics=exposed,
            verbosity=Verbosity(settings.verbosity, self._channel, log_denied=settings.log_denied),
        )
        await status_socket.open()
        metrics = await serve_metrics(
            settings.metrics_bind_address.host,
            settings.metrics_bind_address.port,
            metrics=exposed,
            not_ready=readiness.not_ready,
        )
        report = self._report_server(readiness, streams)
        if report is not None:
            await report.open()
        log_start(settings, self._form, source)
        try:
            await self._run_until_pool_gone(
                self._enforcer.run(),
                self._names.run(),
                self._resolvers.run(source),
                self._bridge_guard.run(),
                *([] if self._verdict_cache is None else [self._verdict_cache.run()]),
                *([] if self._flows is None else [self._flows.run()]),
                *([] if self._traffic_reader is None else [self._traffic_reader.run()]),
                *([] if self._strict_mode is None else [self._strict_mode.run()]),
                self._hold.run(source),
                self._unknown_addresses.run(source),
                *self._intake_of(source),
                self._host_monitor.watch(self._ruleset, self._bridge_guard),
                status_socket.look_after(),
                ReadyLog(readiness.not_ready).watch(),
                *write_policy_status(settings, source, registry),
                *write_events(settings, self._events),
                *([] if self._flow_export is None else [self._flow_export.run()]),
                *([] if report is None else [report.run()]),
            )
        finally:
            await self._snapshot_file.leave()
            await self._names.leave()
            if report is not None:
                await report.cleanup()
            await metrics.cleanup()
            await status_socket.cleanup()

    def _intake_of(self, source: Source) -> list[Coroutine[None, None, None]]:
        if self._cni_results is None:
            return [source.run(self._intake.deliver)]
        return [source.run(self._cni_results.on_update), self._cni_results.run()]

    def _report_server(self, readiness: Readiness, streams: Mapping[str, Stream]) -> "ReportServer | None":
        address = self._settings.report_bind_address
        if self._report_tls is None or address is None:
            return None
        # Imported here, because without the option nothing of it is needed.
        from netpolq.supervisor.report_server import ReportServer  # noqa: PLC0415

        return ReportServer(
            address,
            self._report_tls,
            self._settings.report_tls_client_name,
            documents={STATUS_PATH: lambda: encode(readiness.status())},
            streams=streams,
        )

    def _readiness(self, source: Source) -> Readiness:
        return Readiness(
            settings=self._settings,
            form=self._form,
            store=self._store,
            source=source,
            progress=self._progress,
            pool=self._pool,
            publisher=self._publisher,
            snapshot_file=self._snapshot_file,
            enforcer=self._enforcer,
            upkeep=self._upkeep,
            bridge_guard=self._bridge_guard,
            hold=self._hold,
            unknown_addresses=self._unknown_addresses,
            host_monitor=self._host_monitor,
            names=self._names,
            resolvers=self._resolvers,
            verdict_cache=self._verdict_cache,
            strict_mode=self._strict_mode,
            cni_results=self._cni_results,
            flows=self._flows,
            traffic_reader=self._traffic_reader,
            flow_export=self._flow_export,
            events=self._events,
            report_tls=self._report_tls,
        )

    def _pods(self) -> bytes:
        """The document of `netpolq pods`."""
        rollout, results = self._progress.rollout, self._cni_results
        early_addresses = (lambda _key: ()) if results is None else results.early.of_pod
        return pods_report.encode(pods_report.report(self._compiler, rollout, early_addresses))

    def _answer_flows(self, query: Sequence[tuple[str, str]]) -> AsyncIterator[bytes]:
        """The answer to `netpolq flows`. Raises `ValueError`."""
        if self._flows is None:
            raise ValueError("flows are off: run the agent with --flows on or --flows denied")
        self._flows.read()
        traffic_missed = 0 if self._traffic_reader is None else self._traffic_reader.missed
        losses = Losses(lost=self._flows.lost, damaged=self._flows.damaged, traffic_missed=traffic_missed)
        return flows_report.answer(self._flows.table, losses, query, time.time())

    def _register_metrics(self, registry: CollectorRegistry, readiness: Readiness) -> None:
        pool, host_monitor, has_verdict_cache = self._pool, self._host_monitor, self._settings.verdict_cache
        registry.register(
            WorkerCollector(
                lambda: dict(pool.memories),
                kernel_counts=lambda: host_monitor.cache_counts if has_verdict_cache else None,
            )
        )
        registry.register(QueueCollector(queue_table.read, self._settings.all_queues))
        registry.register(PolicyCollector(self._policy_counters))
        registry.register(StateCollector(lambda: readings(readiness)))

    async def _run_until_pool_gone(self, *parts: Coroutine[None, None, None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(part) for part in parts]
            await self._pool.pool_gone.wait()
            for task in running:
                task.cancel()


def _is_local(hostname: str) -> Callable[[Pod], bool]:
    # A manifest without a node counts as local: a set entry for an address on another node has no effect.
    return lambda pod: pod.node_name in {"", hostname}


def _verdict_cache(
    settings: Settings, ruleset: Ruleset, progress: Progress, publisher: Publisher, flows: FlowIntake | None
) -> VerdictCache:
    flow_counts = None
    if flows is not None:
        flow_counts = KernelFlowCounts(publisher, flows, denied_only=settings.flows is FlowsMode.DENIED)
    return VerdictCache(
        ruleset,
        progress,
        size=settings.verdict_cache_size,
        ttl_s=settings.verdict_cache_ttl_s,
        with_drops=not settings.log_denied,
        flow_counts=flow_counts,
    )
