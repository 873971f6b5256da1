"""The waiting process: a worker of another kind, in whose queue packets wait until their addresses are known.

A packet is evaluated when it arrives, and again with each snapshot that changes an address for which it waits. When its time is over, it
gets the verdict of the failure mode. What waits is in memory that the pool keeps (`netpolq_worker.waiting.table`): the replacement of a
dead process continues, with the same deadlines.
"""

import logging
import time

from collections.abc import Iterable

from netpolq.addresses import address_key
from netpolq.enums import PacketMark, Verdict
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq_worker.waiting.held_packets import HeldPackets
from netpolq_worker.waiting.outcome import Outcome
from netpolq_worker.waiting.table import MAX_HELD, HeldPacket, HeldTable, waiting_for
from netpolq_worker.worker.flow_cache import ANSWER_REJECTED, COUNTED_ANSWERS, HOLD, NO_ANSWER
from netpolq_worker.worker.loop import Worker, WorkerParts
from netpolq_worker.worker.nfqueue import Packet
from netpolq_worker.worker.packet import Flow, parse
from netpolq_worker.worker.packet_loop import MALFORMED
from netpolq_worker.worker.packet_state import in_mark, question_of_packet, state_of, unknown_addresses

WAITING_QUEUE_PACKETS = 2 * MAX_HELD
"""Length of the queue in the kernel, in which held packets stay: room for a burst beside all that may be held."""

_MAX_ORPHANS = 2 * WAITING_QUEUE_PACKETS
"""More ids than this between the last packet that was seen and the next one: the table is not that of this queue."""

log = logging.getLogger("worker")


class WaitingProcess(Worker):
    """Serves the waiting queue. `timeout_ns`: how long a packet may wait. `unknown_peers`: see `FlowCache`."""

    def __init__(self, parts: WorkerParts, *, table: HeldTable, timeout_ns: int, unknown_peers: AddressRanges) -> None:
        super().__init__(parts, waiting_queue=parts.queue.queue_num)
        self.name = "waiting process"
        self._table = table
        self._timeout_ns = timeout_ns
        self._unknown_peers = unknown_peers
        self._is_suspect = parts.order.suspect_orphans
        self._held = HeldPackets(table, time.monotonic_ns())
        if not self._held.is_intact:
            log.error("waiting process: the table of held packets is damaged; all packets get the verdict of the failure mode")

    def run(self) -> None:
        """Serve until drained, or until the pool is gone."""
        self.resume()
        super().run()

    def resume(self) -> None:
        """Continue with what a predecessor held."""
        suspect = self._held.get(self._table.evaluated) if self._is_suspect else None
        if suspect is not None:
            self._drop_suspect(suspect)
        self._table.evaluated = 0
        self._evaluate_again(None)

    # --- packets that arrive --------------------------------------------------------------------------------------------------------

    def take(self, packet: Packet) -> Verdict | None:
        """Answer or hold a packet that has arrived. Returns the verdict; None: it is held, or has no decision."""
        started_ns, packet_id = time.monotonic_ns(), packet.id
        self.dispose_of_orphans(packet_id - 1)
        self._table.evaluated = packet_id
        try:
            answer = self._answer_or_hold(packet, started_ns)
        except Exception:  # it must be answered
            log.exception("packet %d on queue %d could not be evaluated", packet_id, self.queue.queue_num)
            self._fail(packet_id, "error")
            answer = NO_ANSWER
        self._table.last_seen = packet_id
        self._table.evaluated = 0
        if answer == HOLD:
            return None
        is_reply = self._is_reply(packet.get_mark())
        if self.reject is not None and answer >= 0 and answer & ANSWER_REJECTED and not is_reply:
            self.reject(packet.get_payload(), answer, started_ns)
        if self.observe is not None:
            self.observe(packet, is_reply, answer, started_ns)
        return Verdict(answer & 1) if answer >= 0 else None

    def _answer_or_hold(self, packet: Packet, now_ns: int) -> int:
        mark, flow = packet.get_mark(), parse(packet.get_payload())
        if flow is None:
            self.queue.verdict(packet.id, Verdict.DROP)
            self.metrics.malformed += 1
            return MALFORMED
        answer, unknown = self._evaluate(flow, mark)
        if answer == HOLD:
            source, destination, protocol, source_port, destination_port = flow
            self._hold(
                HeldPacket(
                    packet_id=packet.id,
                    mark=mark,
                    source=address_key(source),
                    destination=address_key(destination),
                    protocol=protocol,
                    source_port=source_port,
                    destination_port=destination_port,
                    unknown=unknown,
                    arrived_ns=now_ns,
                )
            )
        elif answer < 0:
            self._fail(packet.id, "no-snapshot")
        else:
            self._send_verdict(packet.id, mark, answer, now_ns)
        return answer

    def _evaluate(self, flow: Flow, mark: int) -> tuple[int, tuple[bytes, ...]]:
        """The flow cache's answer, and with `HOLD` the keys that must become known."""
        view, state = self.flow_cache.view, state_of(mark, self.mark_mask)
        question = question_of_packet(flow, state)
        if view is None:
            return NO_ANSWER, ()
        unknown = unknown_addresses(view, question, state)
        if unknown:
            return HOLD, unknown
        answer = self.flow_cache.answer(question)
        if answer != HOLD:
            return answer, ()
        ends = dict.fromkeys(map(address_key, question[:2]))
        return HOLD, tuple(key for key in ends if key in self._unknown_peers and not view.identity(key))

    def _hold(self, packet: HeldPacket) -> None:
        for displaced in self._held.displaced_by(packet.unknown):
            self._end(displaced, Outcome.DISPLACED)
        self._held.add(packet)

    # --- packets that are held ------------------------------------------------------------------------------------------------------

    def _evaluate_again(self, changed: Iterable[bytes] | None) -> None:
        """Evaluate the packets that wait for an address that a snapshot has changed. `changed` as in `Publish`."""
        if self.flow_cache.view is None:
            return
        for packet in self._held.waiting_for(None if changed is None else tuple(changed)):
            self._table.evaluated = packet.packet_id
            try:
                self._answer_held(packet)
            except Exception:
                log.exception("packet %d on queue %d could not be evaluated", packet.packet_id, self.queue.queue_num)
                self._end(packet, Outcome.ERROR)
        self._table.evaluated = 0

    def _answer_held(self, packet: HeldPacket) -> None:
        started_ns = time.monotonic_ns()
        answer, unknown = self._evaluate(packet.flow, packet.mark)
        if answer == HOLD:
            if unknown != packet.unknown:
                self._held.update(waiting_for(packet, unknown))
            return
        self._send_verdict(packet.packet_id, packet.mark, answer, started_ns)
        self._remove(packet, Outcome.ACCEPTED if answer & 1 else Outcome.DENIED)
        self._observe_held(packet, answer, started_ns)

    def _send_verdict(self, packet_id: int, mark: int, answer: int, started_ns: int) -> None:
        if answer & 1:
            self.queue.accept(packet_id, mark & ~self.mark_mask | in_mark(PacketMark.ACCEPTED, self.mark_mask))
        else:
            self.queue.verdict(packet_id, Verdict.DROP)
        self.metrics.count_evaluated(answer % COUNTED_ANSWERS, 1, time.monotonic_ns() - started_ns)

    def _fail(self, packet_id: int, cause: str) -> None:
        # The mark stays as it is: if the packet passes, the ruleset counts it and does not record an accept.
        self.queue.verdict(packet_id, self.fail_verdict)
        self.metrics.count_failed(cause)

    def _end(self, packet: HeldPacket, outcome: Outcome) -> None:
        """Give a held packet the verdict of the failure mode."""
        self._fail(packet.packet_id, outcome)
        self._remove(packet, outcome)
        self._observe_held(packet, HOLD, time.monotonic_ns())

    def _drop_suspect(self, packet: HeldPacket) -> None:
        self.queue.verdict(packet.packet_id, Verdict.DROP)
        self.metrics.count_failed(Outcome.SUSPECT)
        self._remove(packet, Outcome.SUSPECT)
        log.warning("waiting process: a packet that its predecessor evaluated when it ended was dropped")

    def _remove(self, packet: HeldPacket, outcome: Outcome) -> None:
        self._held.remove(packet.packet_id)
        self.metrics.count_held(outcome)

    def _observe_held(self, packet: HeldPacket, answer: int, started_ns: int) -> None:
        if self.observe is not None:
            self.observe(packet, self._is_reply(packet.mark), answer, started_ns)

    def _is_reply(self, mark: int) -> bool:
        return state_of(mark, self.mark_mask) == PacketMark.PENDING_REPLY

    # --- what a worker does, too ----------------------------------------------------------------------------------------------------

    @property
    def held_count(self) -> int:
        """Number of packets that wait."""
        return len(self._held)

    def housekeeping(self, now_ns: int) -> None:
        """As that of a worker; and end what has waited for too long. `now_ns`: monotonic."""
        super().housekeeping(now_ns)
        while (oldest := self._held.oldest()) is not None and now_ns >= oldest.arrived_ns + self._timeout_ns:
            self._end(oldest, Outcome.TIMED_OUT)

    def wait_ms(self) -> int:
        """How long to wait for packets and messages."""
        oldest = self._held.oldest()
        if oldest is None:
            return super().wait_ms()
        left_ns = oldest.arrived_ns + self._timeout_ns - time.monotonic_ns()
        return max(min(super().wait_ms(), left_ns // 1_000_000 + 1), 0)

    def on_loaded(self, changed: tuple[bytes, ...] | None) -> None:
        """Evaluate with a snapshot what waits for it."""
        self._evaluate_again(changed)

    def on_end(self) -> None:
        """Move all held packets to the successor's waiting queue, or end them without one."""
        for packet in self._held:
            if self.successor_queue is None:
                self._end(packet, Outcome.ENDED)
            else:
                self.queue.requeue(packet.packet_id, self.successor_queue, packet.mark)
                self._remove(packet, Outcome.HANDED_OVER)

    def dispose_of_orphans(self, last_id: int) -> None:
        """Answer what a predecessor had read, and neither held nor answered: the ids above the last that it saw, up to this one."""
        if not self.orphans_possible:
            return
        self.orphans_possible = False
        first_id = self._table.last_seen + 1
        if not self._held.is_intact or not -1 <= last_id - first_id < _MAX_ORPHANS:
            for packet in self._held:
                self._remove(packet, Outcome.ERROR)
            self.end_orphans(lambda verdict: self.queue.dispose_up_to(last_id, verdict))
        else:
            orphans = [packet_id for packet_id in range(first_id, last_id + 1) if self._held.get(packet_id) is None]
            self.end_orphans(lambda verdict: self.queue.dispose(orphans, verdict))
        self._table.last_seen = last_id
