"""The worker: waits for packets and messages, gives every packet exactly one verdict.

Accepts are batched: a packet is only remembered, and one message answers all up to the last. So **silence is an accept**: whatever may
not pass must be answered at once, before the next batch.
"""

import logging
import os
import select
import time

from dataclasses import dataclass
from functools import partial
from typing import cast

from netpolq.channel import Channel, Drain, Publish, Refusal, Report
from netpolq.enums import PacketMark, Verdict
from netpolq.errors import SnapshotError
from netpolq.snapshot.region import open_validated
from netpolq_worker.decide import Decider
from netpolq_worker.metrics import WorkerMetrics
from netpolq_worker.nfqueue import OnPacket, Packet, Queue
from netpolq_worker.packet import parse
from netpolq_worker.packet_log import PacketLog

BATCH_PACKETS = 32
_FLUSH_INTERVAL_NS = 250_000_000
"""How often counters are written and the pool is told; what a killed worker had counted since is lost."""

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told. `inherited_packets`: judged in this slot by its predecessors.

    `snapshot_version` 0: there is no snapshot yet; otherwise `snapshot_descriptor` holds it, inherited, so that the very first packet
    can be judged. `log_packets`: write a line for each packet.
    """

    slot: int
    fail_open: bool
    mark_mask: int
    inherited_packets: int
    snapshot_version: int
    snapshot_descriptor: int
    log_packets: bool = False


class Worker:
    """Serves one queue until it is told to drain or the pool is gone."""

    def __init__(self, settings: WorkerSettings, queue: Queue, channel: Channel) -> None:
        self._settings = settings
        self._queue = queue
        self._channel = channel
        self._decider = Decider()
        self._metrics = WorkerMetrics(settings.slot)
        shift = (settings.mark_mask & -settings.mark_mask).bit_length() - 1
        self._reply_mark = PacketMark.PENDING_REPLY << shift
        self._accepted_mark = PacketMark.ACCEPTED << shift
        self._mark_mask = settings.mark_mask
        self._foreign_bits = 0xFFFFFFFF ^ settings.mark_mask
        self._fail_verdict = Verdict.ACCEPT if settings.fail_open else Verdict.DROP
        self._packet_log = PacketLog(queue.queue_num) if settings.log_packets else None
        self._orphans_possible = True
        self._batch_packets = 0
        self._batch_last_id = 0
        self._batch_mark = 0
        self._stopping = False
        self._next_flush_ns = 0
        self._refused = False

    def run(self) -> None:
        """Work until drained, or until the pool has gone."""
        # Chosen once: packets that are not logged pay nothing for those that are. What a callback returns the queue ignores.
        self._queue.on_packet = (
            cast("OnPacket", self._on_packet) if self._packet_log is None else partial(self._on_packet_logged, self._packet_log)
        )
        if self._settings.snapshot_version:
            self._adopt(self._settings.snapshot_version, None, self._settings.snapshot_descriptor)
        self._dispose_of_silent_orphans()
        poller = select.poll()
        poller.register(self._queue.fileno(), select.POLLIN)
        poller.register(self._channel.fileno(), select.POLLIN)
        self._report()
        while not self._stopping:
            wait_ns = max(self._next_flush_ns - time.monotonic_ns(), 0)
            poller.poll(wait_ns // 1_000_000 + 1)
            self._queue.receive()
            self._housekeeping()
        self._queue.receive()
        self._flush_batch()
        self._metrics.flush(self._decider.misses)

    # --- packets ------------------------------------------------------------------------------------------------------------------

    def _on_packet(self, packet: Packet) -> Verdict | None:
        """Answer a packet. Returns the decision; None: there was none, and the answer is what the failure mode says."""
        started_ns = time.perf_counter_ns()
        packet_id: int = packet.id
        if self._orphans_possible:
            self._dispose_of_orphans(packet_id - 1)
        try:
            mark: int = packet.get_mark()
            flow = parse(packet.get_payload())
            if flow is None:
                self._queue.verdict(packet_id, Verdict.DROP)
                self._metrics.malformed += 1
                return Verdict.DROP
            if mark & self._mark_mask == self._reply_mark:
                # A reply stands for the connection that it answers: what is judged is the swapped header.
                destination, source, protocol, port, _ = flow
            else:
                source, destination, protocol, _, port = flow
            verdict = self._decider.decide((source, destination, protocol, port))
            if verdict is None:
                self._fail(packet_id, "no-snapshot")
                return None
            if verdict:
                self._accept(packet_id, mark & self._foreign_bits | self._accepted_mark)
            else:
                self._queue.verdict(packet_id, Verdict.DROP)
        except Exception:  # whatever it was, this packet must be answered before the next batch covers it
            self._fail(packet_id, "error")
            log.exception("packet %d on queue %d could not be judged", packet_id, self._queue.queue_num)
            return None
        self._metrics.judged(protocol, len(source), verdict, time.perf_counter_ns() - started_ns)
        return verdict

    def _on_packet_logged(self, packet_log: PacketLog, packet: Packet) -> None:
        # What a line tells is asked before the packet is judged, because a new snapshot may be taken up right after it.
        is_reply = packet.get_mark() & self._mark_mask == self._reply_mark
        draft = packet_log.draft(packet.get_payload, self._decider.view, is_reply=is_reply)
        started_ns = time.perf_counter_ns()
        verdict = self._on_packet(packet)
        if draft is not None:
            packet_log.write(draft, verdict, self._fail_verdict, time.perf_counter_ns() - started_ns)

    def _accept(self, packet_id: int, mark: int) -> None:
        if mark != self._batch_mark:
            # A batch sets one mark on all of its packets.
            self._flush_batch()
            self._batch_mark = mark
        self._batch_last_id = packet_id
        self._batch_packets += 1
        if self._batch_packets >= BATCH_PACKETS:
            # Under constant load `receive` never returns, so messages are looked for here as well.
            self._housekeeping()

    def _flush_batch(self) -> None:
        if self._batch_packets:
            self._queue.verdict_up_to(self._batch_last_id, Verdict.ACCEPT, self._batch_mark)
            self._batch_packets = 0

    def _fail(self, packet_id: int, cause: str) -> None:
        # The mark stays "pending": if the packet passes, the ruleset counts it as unjudged and remembers no acceptance.
        self._queue.verdict(packet_id, self._fail_verdict)
        self._metrics.failed_packets(cause)

    # --- what was read before and not answered: by a dead predecessor, or while the queue was bound -------------------------------

    def _dispose_of_silent_orphans(self) -> None:
        """Without a new packet, `_dispose_of_orphans` would never run: if nothing waits to be read, all that was queued are orphans."""
        last_id = self._queue.last_id()
        if last_id and not self._queue.has_waiting():
            self._dispose_of_orphans(last_id)

    def _dispose_of_orphans(self, last_id: int) -> None:
        """Answer everything up to an id as the failure mode says: ids rise in order of delivery, so all of it was read by others."""
        self._orphans_possible = False
        if last_id > 0:
            self._queue.verdict_up_to(last_id, self._fail_verdict)

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _housekeeping(self) -> None:
        self._flush_batch()
        try:
            while (received := self._channel.receive()) is not None:
                message, descriptor = received
                match message:
                    case Publish(version, changed) if descriptor is not None:
                        self._adopt(version, changed, descriptor)
                    case Drain():
                        self._stopping = True
                    case _:
                        log.error("worker %d: unexpected message %r", self._settings.slot, message)
        except EOFError:
            self._stopping = True
        now = time.monotonic_ns()
        if now >= self._next_flush_ns:
            self._next_flush_ns = now + _FLUSH_INTERVAL_NS
            self._metrics.flush(self._decider.misses)
            self._report()
            if self._packet_log is not None:
                self._packet_log.tell_suppressed()

    def _adopt(self, version: int, changed: tuple[bytes, ...] | None, descriptor: int) -> None:
        try:
            view = open_validated(descriptor)
            if view.version != version:
                raise SnapshotError(f"version {view.version} came as version {version}")
        except (SnapshotError, OSError) as error:
            self._refused = True
            self._channel.send(Refusal(self._settings.slot, version, str(error)))
            return
        finally:
            os.close(descriptor)
        # After a refusal, what the refused version changed is not known here.
        self._decider.adopt(view, None if self._refused else changed)
        self._refused = False
        self._report()

    def _report(self) -> None:
        view = self._decider.view
        self._channel.send(
            Report(
                slot=self._settings.slot,
                pid=os.getpid(),
                queue_num=self._queue.queue_num,
                acked_version=view.version if view is not None else 0,
                packets=self._settings.inherited_packets + self._metrics.packets,
                restarts=0,
            )
        )
