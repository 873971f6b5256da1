"""A worker before it has a queue. All is ready that can be: memory, counters, confinement, the newest snapshot.

A process that is forked when it is needed takes some milliseconds until it serves, because it shares every page with the pool and has to
copy those it writes to. A spare has that behind it.
"""

import logging
import select
import time

from dataclasses import dataclass

from netpolq.ipc.channel import Channel, Drain, Heartbeat, Logging, Publish, Serve
from netpolq.logs import set_verbosity
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.loop import Worker
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Queue
from netpolq_worker.worker.snapshot_loader import SnapshotLoader

_BEAT_S = 0.5

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What every worker is told when it is forked. `seat`: whose counters it goes on with, in `memory` (a descriptor).

    `snapshot_version` 0: there is no snapshot yet; otherwise `snapshot_descriptor` holds it, inherited.
    `logging`: what is logged at first. `hints`: tell which decisions are asked for again.
    """

    seat: int
    memory: int
    fail_open: bool
    mark_mask: int
    hints: bool
    logging: Logging
    snapshot_version: int
    snapshot_descriptor: int


class StandbyWorker:
    """Holds all queues until it is told which one to serve."""

    def __init__(self, settings: WorkerSettings, queues: tuple[Queue, ...], channel: Channel) -> None:
        self._settings = settings
        self._queues = queues
        self._channel = channel
        self._logging = settings.logging
        self._flow_cache = FlowCache(with_hints=settings.hints)
        self._metrics = WorkerMetrics(settings.seat, settings.memory)
        self._loader = SnapshotLoader(self._flow_cache, channel)
        for queue in queues:
            queue.open_statistics()
        if settings.snapshot_version:
            self._loader.load(settings.snapshot_version, None, settings.snapshot_descriptor)

    def wait(self) -> Worker | None:
        """Keep up with snapshots until there is a queue to serve. Returns None when the pool has no use for it any more.

        What was published before is read before: so no successor judges by a snapshot that is older than its predecessor's.
        """
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        beat_due = 0.0
        read_version = self._settings.snapshot_version
        while True:
            now = time.monotonic()
            if now >= beat_due:  # by the clock, because snapshots may come without a pause
                self._channel.send(Heartbeat(read_version))
                beat_due = now + _BEAT_S
            try:
                received = self._channel.receive()
            except EOFError:
                return None
            except ValueError as error:
                log.error("spare worker: message ignored: %s", error)
                continue
            match received:
                case None:
                    poller.poll((beat_due - now) * 1000)
                case Publish(version, changed), descriptor:
                    if not self._loader.load(version, changed, descriptor):
                        log.error("standby worker: snapshot %d cannot be used; another process takes its place", version)
                        return None  # it must not serve by an older one
                    read_version, beat_due = version, 0.0  # the pool sends no more than a few that are not read
                case Logging() as wanted, _:
                    self._logging = wanted
                    set_verbosity(wanted.verbosity)
                case Serve() as order, _:
                    return self._serve(order)
                case Drain(), _:
                    return None
                case message, _:
                    log.error("spare worker: unexpected message %r", message)

    def _serve(self, order: Serve) -> Worker:
        queue = self._queues[order.slot]
        for other in self._queues:
            if other is not queue:
                other.let_go()
        self._loader.serve(order.slot)
        return Worker(
            order,
            queue,
            self._channel,
            self._loader,
            self._flow_cache,
            self._metrics,
            fail_open=self._settings.fail_open,
            mark_mask=self._settings.mark_mask,
            logging_settings=self._logging,
        )
