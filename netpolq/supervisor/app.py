"""Composition root of the supervisor: the only module that wires source, store, compiler, publisher, ruleset and HTTP servers."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time

from collections.abc import Collection

import uvloop

from prometheus_client import CollectorRegistry

from netpolq import logs
from netpolq.dataplane.install import Ruleset, probe
from netpolq.errors import ExitCode, NetpolqError
from netpolq.ipc.channel import Channel, Failure, Hints, Logging
from netpolq.ipc.run_dir import IMAGE, STATUS_SOCKET
from netpolq.model import Update
from netpolq.netlink import queue_table
from netpolq.settings import Settings
from netpolq.store import Store
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.enforcer import Enforcer
from netpolq.supervisor.established import StrictMode
from netpolq.supervisor.from_settings import log_start, make_source, ruleset_config
from netpolq.supervisor.hold import Hold
from netpolq.supervisor.host_monitor import HostMonitor
from netpolq.supervisor.http import StatusSocket, serve_metrics
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.log_level import Verbosity
from netpolq.supervisor.metrics.exposition import QueueCollector, WorkerCollector, expose
from netpolq.supervisor.metrics.state import StateCollector, readings
from netpolq.supervisor.metrics.timings import Timings
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.readiness import Readiness
from netpolq.supervisor.readiness_log import ReadyLog
from netpolq.supervisor.rejection_log import log_rejections
from netpolq.supervisor.status import encode

log = logging.getLogger("supervisor")


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
        uvloop.run(Supervisor(settings, channel).run())
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


class Supervisor:
    """All parts of the supervisor, and the callbacks between them."""

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
            on_peer_gone=self._on_peer_gone,
            on_refusal=self._on_refusal,
            on_end=self._pool_gone.set,
        )
        self._registry = CollectorRegistry()
        self._timings = Timings(self._registry)
        self._changes = Changes()
        self._verbosity = Verbosity(settings.verbosity, self._send_verbosity)
        self._enforcer: Enforcer | None = None
        self._verdict_cache: VerdictCache | None = None
        self._strict_mode: StrictMode | None = None
        self._status_socket: StatusSocket | None = None
        self._binding: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the pool closes the channel. Raises `NetpolqError` when the start fails."""
        settings = self._settings
        self._publisher.attach(asyncio.get_running_loop())
        beating = asyncio.create_task(self._publisher.send_heartbeats())
        await self._publisher.welcomed.wait()
        form = await probe(settings.dataplane)
        ruleset = Ruleset(ruleset_config(settings, form))
        if settings.verdict_cache:
            self._verdict_cache = VerdictCache(
                ruleset,
                size=settings.verdict_cache_size,
                ttl_s=settings.verdict_cache_ttl_s,
                on_clean=self._on_progress,
                with_drops=not settings.log_denied,
            )
        if settings.strict_mode:
            self._strict_mode = StrictMode(ct_label=settings.ct_label, on_pass=self._timings.strict_pass.observe)
        self._enforcer = enforcer = Enforcer(
            store=self._store,
            publisher=self._publisher,
            ruleset=ruleset,
            verdict_cache=self._verdict_cache,
            strict_mode=self._strict_mode,
            hostname=settings.hostname,
            with_pod_names=settings.pod_names,
            changes=self._changes,
            on_in_force=self._timings.programming.observe,
            on_compiled=self._timings.compile.observe,
            on_published=self._timings.publish.observe,
        )
        hold = Hold(settings=settings, ruleset=ruleset, enforcer=enforcer)
        await hold.begin(self._publisher.version)
        source = make_source(settings)
        host_monitor = HostMonitor(settings.ct_label)
        readiness = Readiness(
            settings=settings,
            form=form,
            store=self._store,
            source=source,
            publisher=self._publisher,
            enforcer=enforcer,
            hold=hold,
            host_monitor=host_monitor,
            verdict_cache=self._verdict_cache,
            strict_mode=self._strict_mode,
        )
        self._registry.register(
            WorkerCollector(
                lambda: dict(self._publisher.memories),
                kernel_counts=lambda: host_monitor.cache_counts if settings.verdict_cache else None,
            )
        )
        self._registry.register(QueueCollector(queue_table.read, settings.queues.numbers))
        self._registry.register(StateCollector(lambda: readings(readiness)))
        self._status_socket = status_socket = StatusSocket(
            settings.run_dir / STATUS_SOCKET,
            settings.queue_first,
            status=lambda: encode(readiness.status()),
            verbosity=self._verbosity,
        )
        await status_socket.open()
        metrics = await serve_metrics(
            settings.metrics_bind_address.host,
            settings.metrics_bind_address.port,
            expose=lambda: expose(self._registry),
            not_ready=readiness.not_ready,
        )
        log_start(settings, form, source)
        try:
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(enforcer.run()),
                    tasks.create_task(hold.run(source)),
                    tasks.create_task(source.run(self._deliver)),
                    tasks.create_task(host_monitor.watch(ruleset, enforcer.bridge_guard)),
                    tasks.create_task(status_socket.look_after()),
                    tasks.create_task(ReadyLog(readiness.not_ready).watch()),
                ]
                await self._pool_gone.wait()
                for task in working:
                    task.cancel()
        finally:
            beating.cancel()
            await self._publisher.leave()
            await metrics.cleanup()
            await status_socket.cleanup()

    def _send_verbosity(self, verbosity: int) -> bool:
        return self._publisher.send_logging(Logging(verbosity, self._settings.log_denied))

    def _on_progress(self) -> None:
        if self._enforcer is not None:
            self._enforcer.update_in_force()

    def _on_hints(self, hints: Hints) -> None:
        if self._verdict_cache is not None:
            self._verdict_cache.hinted(hints)

    def _on_publish(self, version: int, changed: Collection[bytes] | None, descriptor: int) -> None:
        if self._verdict_cache is not None:
            self._verdict_cache.published(version, changed)
        if self._strict_mode is not None:
            self._strict_mode.published(version, changed, descriptor)

    def _on_refusal(self) -> None:
        if self._enforcer is not None:
            self._enforcer.notice(time.monotonic_ns())

    def _on_peer_gone(self) -> None:
        if self._strict_mode is not None:
            self._strict_mode.suspect_all()  # until now the other agent accepted connections by its own snapshot
        if self._status_socket is not None:
            self._binding = asyncio.create_task(self._bind_status_socket(self._status_socket))

    async def _bind_status_socket(self, status_socket: StatusSocket) -> None:
        try:
            await status_socket.bind()  # the supervisor of the other agent may have restarted and replaced the socket
        except OSError as error:
            log.error("cannot create the status socket: %s", error.strerror)

    def _deliver(self, update: Update) -> None:
        log_rejections(self._store.rejections, update.rejections)
        if log.isEnabledFor(logs.DETAIL):
            self._changes.note(update, self._store)
        log.debug("update of the source: %d upserted, %d deleted", len(update.upserted), len(update.deleted))
        changed = self._store.apply(update)
        if changed and self._enforcer is not None:
            self._enforcer.notice(update.observed_ns)
