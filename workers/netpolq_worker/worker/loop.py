"""The main loop of a worker: waits for packets and messages, and does the work between packets.

Packets are evaluated in `netpolq_worker.worker.packet_loop`.
"""

import logging
import os
import select

from collections.abc import Callable
from dataclasses import dataclass

from netpolq.enums import Verdict
from netpolq.ipc.channel import MAX_HINTS, Channel, Drain, Logging, Publish, Report, Serve, pack_hints
from netpolq.logs import set_verbosity
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Queue
from netpolq_worker.worker.observer import Observer
from netpolq_worker.worker.rejecter import Reject, Rejecter
from netpolq_worker.worker.snapshot_loader import SnapshotLoader

_FLUSH_INTERVAL_NS = 250_000_000
"""How often the worker writes its counters and reports to the pool. A killed worker loses what it has counted since."""

_HINT_INTERVAL_NS = 20_000_000
_HINT_WINDOW_NS = 1_000_000_000
"""A worker sends a hint for a decision at most once in this time."""

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """What every process that serves a queue is made of. `order`: its slot, and what a predecessor left."""

    order: Serve
    queue: Queue
    channel: Channel
    loader: SnapshotLoader
    flow_cache: FlowCache
    metrics: WorkerMetrics
    rejecter: Rejecter
    fail_open: bool
    mark_mask: int
    logging: Logging


class Worker:
    """Serves one queue until it receives `Drain` or the pool is gone.

    Its public fields are those of `netpolq_worker.worker.packet_loop.WorkerContext`.
    """

    def __init__(self, parts: WorkerParts, *, waiting_queue: int) -> None:
        order, queue, flow_cache = parts.order, parts.queue, parts.flow_cache
        self.name = f"worker {order.slot}"
        self._order = order
        self._channel = parts.channel
        self._loader = parts.loader
        self.queue = queue
        self.flow_cache = flow_cache
        self.metrics = parts.metrics
        self.mark_mask = parts.mark_mask
        self.waiting_queue = waiting_queue
        self.successor_queue: int | None = None
        self.fail_verdict = Verdict.ACCEPT if parts.fail_open else Verdict.DROP
        self.message_waits = False
        self._observer = Observer(queue.queue_num, flow_cache, self.fail_verdict, parts.logging)
        self.observe = self._observer.observe_if_needed
        self._rejecter = parts.rejecter
        self.reject: Reject | None = None
        self._has_warned = order.slot > 0  # one worker is enough
        self.orphans_possible = True
        self._stopping = False
        self._next_flush_ns = 0
        self._next_hints_ns = 0
        self._next_window_ns = 0

    def run(self) -> None:
        """Serve until drained, or until the pool is gone."""
        self._follow_rejections()
        self._dispose_of_silent_orphans()
        poller = select.poll()
        poller.register(self.queue.fileno(), select.POLLIN)
        poller.register(self._channel.fileno(), select.POLLIN)
        self._report()
        while not self._stopping:
            for descriptor, _events in poller.poll(self.wait_ms()):
                self.message_waits |= descriptor == self._channel.fileno()
            self.queue.receive()
        self.queue.receive()
        self.on_end()
        self._write_counters()

    # --- what a worker of another kind does differently ---------------------------------------------------------------------------

    @property
    def held_count(self) -> int:
        """Number of packets that wait here for an unknown address."""
        return 0

    def wait_ms(self) -> int:
        """How long to wait for packets and messages."""
        return (_HINT_INTERVAL_NS if self.flow_cache.has_hints else _FLUSH_INTERVAL_NS) // 1_000_000

    def on_loaded(self, changed: tuple[bytes, ...] | None) -> None:
        """Called when another snapshot is in use. `changed` as in `Publish`."""

    def on_end(self) -> None:
        """Called when all packets have been read, before the end. `successor_queue`: the waiting queue of an agent that takes over."""

    # --- orphans: packets that were read and not answered, by a dead predecessor or while the queue was bound ----------------------

    def _dispose_of_silent_orphans(self) -> None:
        """Answer orphans without a new packet to trigger it: if no packet waits to be read, all that were queued are orphans."""
        last_id = self.queue.last_id()
        if last_id and not self.queue.has_waiting():
            self.dispose_of_orphans(last_id)

    def dispose_of_orphans(self, last_id: int) -> None:
        """Answer every packet up to an id with the failure mode's verdict. Ids rise in order of delivery, so other processes read these.

        If a packet may have ended the predecessor, all are dropped in either mode: a packet that kills workers must not pass because of
        that. Does nothing on the second call.
        """
        if self.orphans_possible:
            self.orphans_possible = False
            if last_id > 0:
                self.end_orphans(lambda verdict: self.queue.dispose_up_to(last_id, verdict))

    def end_orphans(self, dispose: Callable[[Verdict], int]) -> None:
        """Answer orphans and count them. `dispose` gives them a verdict, and returns their number."""
        suspect = self._order.suspect_orphans
        verdict = Verdict.DROP if suspect else self.fail_verdict
        if orphans := dispose(verdict):
            self.metrics.count_failed("suspect" if suspect else "orphaned", orphans)
            log.warning(
                "%s: %d packets that its predecessor had read and not answered were %s",
                self.name,
                orphans,
                "dropped" if verdict is Verdict.DROP else "accepted",
            )

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def housekeeping(self, now_ns: int) -> None:
        """Read messages, send hints, write counters. Called between packets, when no accept is pending. `now_ns`: monotonic."""
        self.message_waits = False
        try:
            while (received := self._channel.receive()) is not None:
                message, descriptor = received
                match message:
                    case Publish(version, changed):
                        if self._loader.load(version, changed, descriptor):
                            self._follow_rejections()
                            self.on_loaded(self._loader.changed)
                            self._report()
                    case Logging():
                        set_verbosity(message.verbosity)
                        self._observer.configure(message)
                        self.observe = self._observer.observe_if_needed
                    case Drain(successor_queue):
                        self.successor_queue = successor_queue
                        self._stopping = True
                    case _:
                        log.error("%s: unexpected message %r", self.name, message)
        except EOFError:
            self._stopping = True
        except ValueError as error:
            log.error("%s: message ignored: %s", self.name, error)
        if now_ns >= self._next_hints_ns and self.flow_cache.has_hints:
            self._next_hints_ns = now_ns + _HINT_INTERVAL_NS
            self._send_hints()
        if now_ns >= self._next_flush_ns:
            self._next_flush_ns = now_ns + _FLUSH_INTERVAL_NS
            self._write_counters()
            self._report()
            if now_ns >= self._next_window_ns:
                self._next_window_ns = now_ns + _HINT_WINDOW_NS
                self.flow_cache.reset_hint_window()
            self._observer.log_suppressed()

    def _write_counters(self) -> None:
        self.metrics.flush(self.flow_cache.misses)
        self.flow_cache.flush_flows()

    def _follow_rejections(self) -> None:
        self.reject = self._rejecter.reject_if_needed
        if self._rejecter.lacks_sockets and not self._has_warned:
            self._has_warned = True
            log.warning(
                "denied packets get no answer, though settings or annotations want it: the agent has started without CAP_NET_RAW"
            )

    def _send_hints(self) -> None:
        view = self.flow_cache.view
        if view is not None:
            # If the message cannot be sent, the hints for these decisions are sent in the next window.
            self._channel.send(pack_hints(view.version, self.flow_cache.take_hints(MAX_HINTS)))

    def _report(self) -> None:
        view = self.flow_cache.view
        self._channel.send(
            Report(
                slot=self._order.slot,
                pid=os.getpid(),
                queue_num=self.queue.queue_num,
                acked_version=view.version if view is not None else 0,
                packets=self._order.inherited_packets + self.metrics.packets,
                restarts=0,
                held=self.held_count,
            )
        )
