"""The packet loop: every packet of a queue goes through it, from the queue to its verdict.

`handle_packets` is a generator, and its `send` is the callback of the queue: a generator keeps its local variables from packet to packet,
so a packet of a cached connection needs no Python function call and no attribute look-up in this project.

Answers are batched: the loop stores the ids of packets to be dropped, and the last id to be accepted. At the end of the batch it sends one
message for each drop and one that accepts all other packets up to that id, all at once and in this order. So **a packet without an answer
is accepted with the next batch**: a packet that must not pass, and for which the loop has stored nothing, gets a message at once, and the
stored answers are sent before anything else happens.

The first packet after an idle time is a batch of its own: the loop answers it before it looks for more packets. That saves a wait of
10 µs if there are none, and costs one more message if there are.
"""

import logging
import struct
import time

from collections.abc import Callable
from typing import Protocol

from netpolq.enums import PacketMark, Verdict
from netpolq_worker.worker.flow_cache import ANSWER_REJECTED, COUNTED_ANSWERS, HOLD, NO_ANSWER, NO_SLOT, FlowCache
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import PacketHandler, Queue
from netpolq_worker.worker.packet import IPV4_KEY, IPV6_KEY, parse
from netpolq_worker.worker.packet_state import in_mark, parsed_marks, question_of_packet, state_of, unknown_addresses

BATCH_PACKETS = 64
"""As many as softirqs pass to the pods in one go (dev_rx_weight, 64)."""
_HOUSEKEEPING_NS = 1_000_000
"""How long messages may wait under constant load, when the socket is never empty."""

_COUNTED = COUNTED_ANSWERS - 1

MALFORMED = -2
"""In place of an answer: the packet could not be read, and was dropped."""

MOVED = -3
"""In place of an answer: an address of the packet is unknown, and it was moved to the waiting queue."""

log = logging.getLogger("worker")


class ObservedPacket(Protocol):
    """A packet, for the log."""

    def get_payload(self) -> bytes:
        """Its bytes, from the IP header on."""
        ...


Observe = Callable[[ObservedPacket, bool, int, int], None]
"""See `WorkerContext.observe`. Positional for speed."""


class WorkerContext(Protocol):
    """The parts of a worker that the packet loop uses.

    `message_waits`: the worker has seen that a message of the pool waits. `observe`: called with each packet, whether it is a reply, its
    answer (negative: `MALFORMED`, `MOVED`, or no decision), and when its batch began (monotonic ns). `observe` None: nothing is logged.
    `waiting_queue`: the queue to which packets are moved whose addresses are unknown. `reject`: called with each dropped packet in original
    direction whose answer has `ANSWER_REJECTED`, the answer, and when its batch began; must not raise. `reject` None: no decision is
    answered.
    """

    queue: Queue
    flow_cache: FlowCache
    metrics: WorkerMetrics
    fail_verdict: Verdict
    mark_mask: int
    waiting_queue: int
    message_waits: bool
    observe: Observe | None
    reject: Callable[[bytes, int, int], None] | None

    def housekeeping(self, now_ns: int) -> None:
        """Read messages, write counters. Called when no accept is pending. Must not raise."""
        ...

    def dispose_of_orphans(self, last_id: int) -> None:
        """Answer every packet up to an id that another process has read. Does nothing on the second call."""
        ...


def handle_packets(get_context: Callable[[], WorkerContext | None]) -> PacketHandler:
    """Evaluate and answer each packet that is sent to the generator.

    `get_context` returns None until a worker serves the queue: packets of a bound queue wait for it.
    """
    packet = yield None
    while (context := get_context()) is None:
        packet = yield None
    queue, flow_cache, metrics = context.queue, context.flow_cache, context.metrics
    clock, ipv4_key, ipv6_key = time.monotonic_ns, IPV4_KEY.unpack_from, IPV6_KEY.unpack_from
    accepted, reply = in_mark(PacketMark.ACCEPTED, context.mark_mask), in_mark(PacketMark.PENDING_REPLY, context.mark_mask)
    parsed = parsed_marks(context.mark_mask)
    generation, counts_flows = flow_cache.generation, flow_cache.counts_flows
    slot_of, answers, counts = generation.slots.get, generation.answers, generation.counts
    observe, reject = context.observe, context.reject
    mark = -1  # of the packets of this batch, as they arrived
    accepted_mark = 0
    is_reply = is_parsed = False
    packets = 0  # of this batch
    max_packets = 1  # of this batch
    pending_id = 0  # of the last packet to be accepted
    dropped: list[int] = []  # ids of packets to be dropped
    run_counted = run_packets = 0  # packets in a row that are counted alike
    runs: list[tuple[int, int]] = []
    started_ns = next_housekeeping_ns = 0
    verdict: int | None = None
    while True:
        if packet is not None:
            packet_id = packet.id
            if not packets:
                started_ns = clock()
            packets += 1
            try:
                if packet.get_mark() != mark:
                    # A batch sets one mark on all of its packets.
                    if pending_id or dropped:
                        queue.answer(dropped, pending_id, accepted_mark)
                        dropped.clear()
                        pending_id = 0
                    context.dispose_of_orphans(packet_id - 1)
                    mark = packet.get_mark()
                    accepted_mark = mark & ~context.mark_mask | accepted
                    is_reply = mark & context.mark_mask == reply
                    is_parsed = mark & context.mark_mask in parsed
                payload = packet.get_payload()
                slot = NO_SLOT
                key = None
                if not is_parsed:
                    try:
                        if payload[0] == 0x45:
                            key = ipv4_key(payload)
                            slot = slot_of(key, NO_SLOT)
                        elif payload[0] >> 4 == 6:
                            key = ipv6_key(payload)
                            slot = slot_of(key, NO_SLOT)
                    except (struct.error, IndexError):
                        pass  # too short for a plain header; it may be valid without one
                answer = answers[slot]
                if answer < 0:
                    if key is not None:
                        answer = flow_cache.answer_key(key, answer)
                    if answer == HOLD:
                        answer = _move(context, packet_id, mark)
                    elif answer < 0:
                        answer = _answer_parsed(context, packet_id, payload, mark)
                    if generation is not flow_cache.generation:
                        generation = flow_cache.generation
                        slot_of, answers, counts = generation.slots.get, generation.answers, generation.counts
                elif counts_flows:
                    counts[slot] += 1
                if answer < 0:
                    verdict = Verdict.DROP if answer == MALFORMED else None
                else:
                    counted = answer & _COUNTED
                    verdict = counted & 1
                    if verdict:
                        pending_id = packet_id
                    elif reject is not None and answer & ANSWER_REJECTED and not is_reply:
                        queue.verdict(packet_id, Verdict.DROP)
                        reject(payload, answer, started_ns)
                    else:
                        dropped.append(packet_id)
                    if counted == run_counted:
                        run_packets += 1
                    else:
                        runs.append((run_counted, run_packets))
                        run_counted, run_packets = counted, 1
            except Exception:  # this packet must be answered before the next batch accepts it
                _fail(context, packet_id, "error")
                log.exception("packet %d on queue %d could not be evaluated", packet_id, queue.queue_num)
                verdict, answer = None, NO_ANSWER
            if observe is not None:
                observe(packet, is_reply, answer, started_ns)
        if packets >= max_packets or packet is None:
            max_packets = 1 if packet is None else BATCH_PACKETS
            if pending_id or dropped:
                queue.answer(dropped, pending_id, accepted_mark)
                dropped.clear()
                pending_id = 0
            now_ns = clock()
            if packets:
                runs.append((run_counted, run_packets))
                for counted, count in runs:
                    if count:
                        metrics.count_evaluated(counted, count, now_ns - started_ns)
                runs.clear()
                packets = run_packets = 0
            # Under constant load the socket is never empty, so the loop also checks for messages here, but not after every batch.
            if context.message_waits or now_ns >= next_housekeeping_ns:
                context.housekeeping(now_ns)
                next_housekeeping_ns = now_ns + _HOUSEKEEPING_NS
                generation = flow_cache.generation
                slot_of, answers, counts = generation.slots.get, generation.answers, generation.counts
                observe, reject = context.observe, context.reject
        packet = yield verdict


def _answer_parsed(context: WorkerContext, packet_id: int, payload: bytes, mark: int) -> int:
    """Parse a packet and return the flow cache's answer; negative if this function has sent the verdict itself, or moved the packet."""
    flow = parse(payload)
    if flow is None:
        context.queue.verdict(packet_id, Verdict.DROP)
        context.metrics.malformed += 1
        return MALFORMED
    state, view = state_of(mark, context.mark_mask), context.flow_cache.view
    question = question_of_packet(flow, state)
    if view is not None and unknown_addresses(view, question, state):
        return _move(context, packet_id, mark)
    answer = context.flow_cache.answer(question)
    if answer == HOLD:
        return _move(context, packet_id, mark)
    if answer < 0:
        _fail(context, packet_id, "no-snapshot")
    return answer


def _move(context: WorkerContext, packet_id: int, mark: int) -> int:
    """Move a packet to the waiting queue, at once, so that the next batch does not accept it."""
    context.queue.requeue(packet_id, context.waiting_queue, mark)
    return MOVED


def _fail(context: WorkerContext, packet_id: int, cause: str) -> None:
    # The mark stays "pending": if the packet passes, the ruleset counts it (counter `unjudged`) and does not record an accept.
    context.queue.verdict(packet_id, context.fail_verdict)
    context.metrics.count_failed(cause)
