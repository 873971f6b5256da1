"""What happens to a packet between the queue and its verdict: the one loop that every first packet goes through.

`handle_packets` is a generator, and its `send` is the callback of the queue: a generator keeps its local variables from packet to packet,
so that the path of a known connection has neither calls of our own nor attributes to look up.

Accepts are batched: a packet is only remembered, and one message answers all up to the last. So **silence is an accept**: whatever may
not pass must be answered at once, before the next batch, and whatever is remembered is answered before anything else happens.

The first packet after a silence is a batch of its own: it is answered before anybody looks whether there are more, which costs a wait
of 10 µs where there are none, and one message more where there are.
"""

import logging
import struct
import time

from collections.abc import Callable
from typing import Protocol

from netpolq.enums import PacketMark, Verdict
from netpolq_worker.worker.flow_cache import ABSENT, FlowCache
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Packet, PacketHandler, Queue
from netpolq_worker.worker.packet import IPV4_KEY, IPV6_KEY, parse

BATCH_PACKETS = 64
"""As many as softirqs hand on to the pods in one go (dev_rx_weight, 64)."""
_HOUSEKEEPING_NS = 1_000_000
"""How long messages may wait under constant load, when the socket is never empty."""

log = logging.getLogger("worker")


class WorkerContext(Protocol):
    """What a worker lays ready for judging. `housekeeping` is called when nothing is remembered, and must not raise.

    `message_waits`: the worker has seen that there is something to be read from the pool.
    """

    queue: Queue
    flow_cache: FlowCache
    metrics: WorkerMetrics
    fail_verdict: Verdict
    mark_mask: int
    message_waits: bool
    observe: Callable[[Packet, bool, int | None, int], None] | None
    """Told of each packet: whether it is a reply, its verdict (None: no decision), and when its batch began. None: nobody wants to know."""

    def housekeeping(self, now_ns: int) -> None:
        """Read messages, write counters."""
        ...

    def dispose_of_orphans(self, last_id: int) -> None:
        """Answer everything up to an id that somebody else has read; nothing the second time."""
        ...


def handle_packets(serving: Callable[[], WorkerContext | None]) -> PacketHandler:
    """Judge what is sent to it. `serving` gives None as long as the queue is bound but not served: its packets wait for their worker."""
    packet = yield None
    while (context := serving()) is None:
        packet = yield None
    queue, flow_cache, metrics = context.queue, context.flow_cache, context.metrics
    clock, ipv4_key, ipv6_key = time.monotonic_ns, IPV4_KEY.unpack_from, IPV6_KEY.unpack_from
    accepted, reply = _in_mark(PacketMark.ACCEPTED, context.mark_mask), _in_mark(PacketMark.PENDING_REPLY, context.mark_mask)
    cached = flow_cache.cache.get
    observe = context.observe
    mark = -1  # as it came with the packets of this batch
    accepted_mark = 0
    is_reply = False
    packets = 0  # of this batch
    most_packets = 1  # of this batch
    remembered_id = 0  # of the last packet to be accepted
    run_code = run_packets = 0  # packets in a row with the same code
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
                    if remembered_id:
                        queue.accept_up_to(remembered_id, accepted_mark)
                        remembered_id = 0
                    context.dispose_of_orphans(packet_id - 1)
                    mark = packet.get_mark()
                    accepted_mark = mark & ~context.mark_mask | accepted
                    is_reply = mark & context.mark_mask == reply
                payload = packet.get_payload()
                code = ABSENT
                key = None
                if not is_reply:
                    try:
                        if payload[0] == 0x45:
                            key = ipv4_key(payload)
                            code = cached(key, ABSENT)
                        elif payload[0] >> 4 == 6:
                            key = ipv6_key(payload)
                            code = cached(key, ABSENT)
                    except (struct.error, IndexError):
                        pass  # too short for such a header; it may be a valid packet all the same
                if code < 0:
                    if key is not None:
                        code = flow_cache.decide_key(key, code)
                    if code < 0:
                        code = _decide(context, packet_id, payload, is_reply=is_reply)
                    cached = flow_cache.cache.get
                if code < 0:
                    verdict = Verdict.DROP if code == _MALFORMED else None
                else:
                    verdict = code & 1
                    if verdict:
                        remembered_id = packet_id
                    else:
                        queue.verdict(packet_id, Verdict.DROP)
                    if code == run_code:
                        run_packets += 1
                    else:
                        runs.append((run_code, run_packets))
                        run_code, run_packets = code, 1
            except Exception:  # whatever it was, this packet must be answered before the next batch covers it
                _fail(context, packet_id, "error")
                log.exception("packet %d on queue %d could not be judged", packet_id, queue.queue_num)
                verdict = None
            if observe is not None:
                observe(packet, is_reply, verdict, started_ns)
        if packets >= most_packets or packet is None:
            most_packets = 1 if packet is None else BATCH_PACKETS
            if remembered_id:
                queue.accept_up_to(remembered_id, accepted_mark)
                remembered_id = 0
            now_ns = clock()
            if packets:
                runs.append((run_code, run_packets))
                for code, count in runs:
                    if count:
                        metrics.judged(code, count, now_ns - started_ns)
                runs.clear()
                packets = run_packets = 0
            # Under constant load the socket is never empty, so messages are looked for here as well, but not after every batch.
            if context.message_waits or now_ns >= next_housekeeping_ns:
                context.housekeeping(now_ns)
                next_housekeeping_ns = now_ns + _HOUSEKEEPING_NS
                cached = flow_cache.cache.get
                observe = context.observe
        packet = yield verdict


def _in_mark(state: PacketMark, mark_mask: int) -> int:
    """A state, where the mask has it."""
    return state * (mark_mask & -mark_mask)


_MALFORMED = -2


def _decide(context: WorkerContext, packet_id: int, payload: bytes, *, is_reply: bool) -> int:
    """The code for a packet that has to be read; negative if it has been answered here."""
    flow = parse(payload)
    if flow is None:
        context.queue.verdict(packet_id, Verdict.DROP)
        context.metrics.malformed += 1
        return _MALFORMED
    source, destination, protocol, source_port, destination_port = flow
    # A reply stands for the connection that it answers: what is judged is the swapped header.
    swapped = destination, source, protocol, source_port
    code = context.flow_cache.decide(swapped if is_reply else (source, destination, protocol, destination_port))
    if code < 0:
        _fail(context, packet_id, "no-snapshot")
    return code


def _fail(context: WorkerContext, packet_id: int, cause: str) -> None:
    # The mark stays "pending": if the packet passes, the ruleset counts it as unjudged and remembers no acceptance.
    context.queue.verdict(packet_id, context.fail_verdict)
    context.metrics.failed_packets(cause)
