"""The standby worker: a worker without a queue, with all else ready: memory, metrics, sandbox, the newest snapshot.

A process that is forked when it is needed takes some milliseconds until it serves, because it shares every page with the pool and copies
those that it writes to. A standby worker has done that.
"""

import logging
import os
import select
import time

from dataclasses import dataclass

from netpolq.ipc.channel import Channel, Drain, Heartbeat, Logging, Publish, Serve
from netpolq.ipc.flow_memory import FlowWriter
from netpolq.logs import set_verbosity
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq_worker.waiting.process import WaitingProcess
from netpolq_worker.waiting.table import HeldTable, map_shared
from netpolq_worker.worker.answer_sockets import AnswerSockets
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.flow_recorder import FlowRecorder
from netpolq_worker.worker.loop import Worker, WorkerParts
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Queue
from netpolq_worker.worker.rejecter import Rejecter
from netpolq_worker.worker.snapshot_loader import SnapshotLoader

_HEARTBEAT_S = 0.5

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker gets when it is forked. `metrics_file_id`: the counters that it continues, in `memory` (a descriptor).

    `waiting_queue`: served by the last slot; `held_table`: descriptor of its table of held packets; `unknown_peers`: see `FlowCache`.
    `snapshot_version` 0: there is no snapshot yet; otherwise `snapshot_descriptor` holds it, inherited.
    `flow_memory`: descriptor of the memory for flows, None: flows are not recorded; `denied_flows_only`: accepted ones are not.
    `logging`: what is logged at first. `hints`: report the decisions that are looked up again. `answer_sockets` None: denied packets get
    no answer.
    """

    metrics_file_id: int
    memory: int
    flow_memory: int | None
    denied_flows_only: bool
    fail_open: bool
    mark_mask: int
    hints: bool
    waiting_queue: int
    held_table: int
    hold_timeout_s: int
    unknown_peers: AddressRanges
    logging: Logging
    snapshot_version: int
    snapshot_descriptor: int
    answer_sockets: AnswerSockets | None


class StandbyWorker:
    """Holds all queues until the pool assigns one to it."""

    def __init__(self, settings: WorkerSettings, queues: tuple[Queue, ...], channel: Channel) -> None:
        self._settings = settings
        self._queues = queues
        self._channel = channel
        self._logging = settings.logging
        self._flows = None
        if settings.flow_memory is not None:
            self._flows = FlowRecorder(FlowWriter(settings.flow_memory), denied_only=settings.denied_flows_only)
            os.close(settings.flow_memory)
        self._flow_cache = FlowCache(with_hints=settings.hints, unknown_peers=settings.unknown_peers, flows=self._flows)
        self._metrics = WorkerMetrics(settings.metrics_file_id, settings.memory)
        self._loader = SnapshotLoader(self._flow_cache, channel)
        self._rejecter = Rejecter(settings.answer_sockets, self._flow_cache, self._metrics)
        for queue in queues:
            queue.open_statistics()
        if settings.snapshot_version:
            self._loader.load(settings.snapshot_version, None, settings.snapshot_descriptor)

    def wait(self) -> Worker | None:
        """Load each snapshot until there is a queue to serve. Returns None when the pool does not need this worker any more.

        It reads what was published before `Serve` before that, so no worker evaluates with an older snapshot than its predecessor.
        """
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        heartbeat_due = 0.0
        read_version = self._settings.snapshot_version
        while True:
            now = time.monotonic()
            if now >= heartbeat_due:  # by the clock, because snapshots may come without a pause
                self._channel.send(Heartbeat(read_version))
                heartbeat_due = now + _HEARTBEAT_S
            try:
                received = self._channel.receive()
            except EOFError:
                return None
            except ValueError as error:
                log.error("standby worker: message ignored: %s", error)
                continue
            match received:
                case None:
                    poller.poll((heartbeat_due - now) * 1000)
                case Publish(version, changed), descriptor:
                    if not self._loader.load(version, changed, descriptor):
                        log.error("standby worker: cannot use snapshot %d; another process replaces this one", version)
                        return None  # it must not serve with an older one
                    read_version, heartbeat_due = version, 0.0  # acknowledge at once: the pool sends no more than `MAX_UNREAD`
                case Logging() as wanted, _:
                    self._logging = wanted
                    set_verbosity(wanted.verbosity)
                case Serve() as order, _:
                    return self._serve(order)
                case Drain(), _:
                    return None
                case message, _:
                    log.error("standby worker: unexpected message %r", message)

    def _serve(self, order: Serve) -> Worker:
        queue = self._queues[order.slot]
        for other in self._queues:
            if other is not queue:
                other.detach()
        self._loader.serve(order.slot)
        settings = self._settings
        parts = WorkerParts(
            order=order,
            queue=queue,
            channel=self._channel,
            loader=self._loader,
            flow_cache=self._flow_cache,
            metrics=self._metrics,
            rejecter=self._rejecter,
            fail_open=settings.fail_open,
            mark_mask=settings.mark_mask,
            logging=self._logging,
        )
        if queue.queue_num == settings.waiting_queue:
            return WaitingProcess(
                parts,
                table=HeldTable(map_shared(settings.held_table)),
                timeout_ns=settings.hold_timeout_s * 1_000_000_000,
                unknown_peers=settings.unknown_peers,
            )
        os.close(settings.held_table)
        return Worker(parts, waiting_queue=settings.waiting_queue)
