"""The packet loop: which packets are answered, with which verdict, and when."""

import os
import socket
import struct

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.enums import PacketMark, Verdict
from netpolq.hold.ranges import parse_ranges
from netpolq.ipc import flow_memory
from netpolq.ipc.flow_memory import FlowReader, FlowWriter
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.flow_recorder import FlowRecorder
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Packet, Queue
from netpolq_worker.worker.packet_loop import BATCH_PACKETS, MALFORMED, MOVED, WorkerContext, handle_packets
from tests.support.worker_metrics import worker_metrics
from tests.unit.worker.test_flow_cache import FRIEND, FRIEND6, OTHER, view_that_admits, view_that_answers

MASK = 0x70
PENDING, REPLY, ACCEPTED = (state << 4 for state in (PacketMark.PENDING_ORIGINAL, PacketMark.PENDING_REPLY, PacketMark.ACCEPTED))
UNKNOWN_SOURCE, UNKNOWN_DESTINATION, UNKNOWN_BOTH = (
    state << 4 for state in (PacketMark.UNKNOWN_SOURCE, PacketMark.UNKNOWN_DESTINATION, PacketMark.UNKNOWN_BOTH)
)
WAITING_QUEUE = 109
POD_ADDRESS, FRIEND_ADDRESS, OTHER_ADDRESS = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def tcp(source: str, destination: str = POD_ADDRESS, *, source_port: int = 40000, port: int = 80) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return b"\x45\x00\x00\x28\x00\x00\x40\x00\x40\x06\x00\x00" + addresses + struct.pack("!HH16x", source_port, port)


def tcp6(source: str, destination: str = "fd00::1") -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return b"\x60\x00\x00\x00\x00\x14\x06\x40" + addresses + struct.pack("!HH16x", 40000, 80)


class QueuedPacket:
    """A packet as the queue passes it to the callback. `payload` None: reading it raises."""

    def __init__(self, packet_id: int, payload: bytes | None, mark: int = PENDING) -> None:
        self.id, self._payload, self._mark = packet_id, payload, mark

    def get_mark(self) -> int:
        return self._mark

    def get_payload(self) -> bytes:
        if self._payload is None:
            raise OSError("unreadable")
        return self._payload


class Kernel:
    """The kernel's side of verdict messages: a batch answers every waiting packet up to its id."""

    queue_num = 100

    def __init__(self) -> None:
        self.waiting: set[int] = set()
        self.answers: dict[int, tuple[Verdict, int | None]] = {}
        self.moved: dict[int, tuple[int, int]] = {}

    def verdict(self, packet_id: int, verdict: Verdict) -> None:
        assert packet_id in self.waiting, "a packet was answered twice"
        self.waiting.discard(packet_id)
        self.answers[packet_id] = verdict, None

    def requeue(self, packet_id: int, queue_num: int, mark: int) -> None:
        assert packet_id in self.waiting, "a packet was answered twice"
        self.waiting.discard(packet_id)
        self.moved[packet_id] = queue_num, mark

    def verdict_up_to(self, packet_id: int, verdict: Verdict) -> None:
        for one in [one for one in self.waiting if one <= packet_id]:
            self.verdict(one, verdict)

    def answer(self, dropped: Iterable[int], last_accepted: int, mark: int) -> None:
        for one in dropped:
            self.verdict(one, Verdict.DROP)
        for one in [one for one in self.waiting if one <= last_accepted]:
            self.waiting.discard(one)
            self.answers[one] = Verdict.ACCEPT, mark


class ServingWorker:
    """A worker's context with such a kernel."""

    def __init__(self, metrics: WorkerMetrics, *unknown_peers: str, flows: FlowRecorder | None = None) -> None:
        self.kernel = Kernel()
        self.queue = cast("Queue", self.kernel)
        ranges = AddressRanges(parse_ranges(",".join(unknown_peers)))
        self.flow_cache = FlowCache(generation_entries=4, with_hints=True, unknown_peers=ranges, flows=flows)
        self.waiting_queue = WAITING_QUEUE
        self.metrics = metrics
        self.fail_verdict = Verdict.DROP
        self.mark_mask = MASK
        self.message_waits = False
        self.observe: Callable[[Packet, bool, int, int], None] | None = None
        self.reject: Callable[[bytes, int, int], None] | None = None
        self.housekeepings = 0
        self._packet_handler = handle_packets(lambda: cast("WorkerContext", self))
        next(self._packet_handler)

    def housekeeping(self, now_ns: int) -> None:
        assert now_ns > 0
        assert not {one for one in self.kernel.waiting if one <= self.last_id}, "a packet was not answered yet"
        self.housekeepings += 1
        self.message_waits = False

    def dispose_of_orphans(self, last_id: int) -> None:
        self.kernel.verdict_up_to(last_id, self.fail_verdict)

    def receive(self, *packets: QueuedPacket) -> None:
        for packet in packets:
            self.kernel.waiting.add(packet.id)
        for packet in packets:
            self.last_id = packet.id
            self._packet_handler.send(cast("Packet", packet))

    def drained(self) -> None:
        self._packet_handler.send(None)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerMetrics]:
    with worker_metrics(tmp_path_factory.mktemp("metrics")) as metrics:
        yield metrics


@pytest.fixture
def serving(metrics: WorkerMetrics) -> ServingWorker:
    made = ServingWorker(metrics)
    made.flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    return made


def test_denied_packets_in_original_direction_are_rejected_after_they_are_dropped(serving: ServingWorker) -> None:
    """Accepted and malformed packets and replies are not, and none is before the worker has noticed that decisions want answers."""
    seen: list[tuple[bytes, int]] = []

    def reject(payload: bytes, answer: int, now_ns: int) -> None:
        assert now_ns > 0
        assert serving.last_id not in serving.kernel.waiting
        seen.append((payload, answer & 1))

    serving.flow_cache.load(view_that_answers(), None)
    serving.receive(QueuedPacket(1, tcp(OTHER_ADDRESS)))
    serving.reject = reject
    serving.message_waits = True
    serving.receive(QueuedPacket(2, tcp(FRIEND_ADDRESS)))
    serving.drained()
    denied = tcp(OTHER_ADDRESS)
    serving.receive(QueuedPacket(3, tcp(FRIEND_ADDRESS)), QueuedPacket(4, denied), QueuedPacket(5, b"x"))
    serving.receive(QueuedPacket(6, tcp(POD_ADDRESS, OTHER_ADDRESS), REPLY), QueuedPacket(7, tcp6("fd00::3")))
    serving.drained()
    assert seen == [(denied, 0), (tcp6("fd00::3"), 0)]
    assert [serving.kernel.answers[one][0] for one in range(1, 8)] == [0, 1, 1, 0, 0, 0, 0]
    serving.flow_cache.load(view_that_admits(FRIEND), None)
    serving.receive(QueuedPacket(8, denied))
    assert len(seen) == 2, "no decision of this snapshot wants an answer"


def test_the_observer_gets_each_packet_with_its_verdict(serving: ServingWorker) -> None:
    """Accepted, denied and malformed packets. An observer that is set later sees the packets after the next housekeeping.

    No answer depends on the observer.
    """
    seen: list[tuple[int, bool, int]] = []
    packets = [
        QueuedPacket(1, tcp(FRIEND_ADDRESS), PENDING),
        QueuedPacket(2, tcp("192.0.2.9"), PENDING),
        QueuedPacket(3, b"\x45", PENDING),
    ]
    serving.receive(*packets)
    serving.drained()
    without, serving.kernel.answers = serving.kernel.answers, {}

    def observe(packet: Packet, is_reply: bool, answer: int, _started_ns: int) -> None:  # positional, as the loop calls it
        seen.append((packet.id, is_reply, answer if answer < 0 else serving.flow_cache.evaluation(answer).verdict))

    serving.observe = observe
    serving.message_waits = True
    serving.drained()
    serving.receive(*packets)
    serving.drained()
    assert seen == [(1, False, Verdict.ACCEPT), (2, False, Verdict.DROP), (3, False, MALFORMED)]
    assert serving.kernel.answers == without


def test_the_first_packet_after_an_idle_time_is_answered_at_once(serving: ServingWorker) -> None:
    for number in (1, 2):
        serving.receive(QueuedPacket(number, tcp(FRIEND_ADDRESS), PENDING | 0xAB00))
        assert serving.kernel.answers[number] == (Verdict.ACCEPT, ACCEPTED | 0xAB00)
        serving.drained()


def test_packets_behind_the_first_are_answered_together_when_the_socket_is_empty(serving: ServingWorker) -> None:
    serving.receive(*(QueuedPacket(number, tcp(FRIEND_ADDRESS)) for number in (1, 2, 3)))
    assert set(serving.kernel.answers) == {1}
    serving.drained()
    assert set(serving.kernel.answers) == {1, 2, 3}


def test_denied_packets_are_answered_with_their_batch_and_before_its_accepts(serving: ServingWorker) -> None:
    """The accept of a later packet would accept them, too."""
    serving.receive(*(QueuedPacket(one, tcp(OTHER_ADDRESS if one % 2 else FRIEND_ADDRESS)) for one in range(1, 6)))
    assert serving.kernel.answers == {1: (Verdict.DROP, None)}
    serving.drained()
    assert [serving.kernel.answers[one][0] for one in range(1, 6)] == [Verdict(one % 2 == 0) for one in range(1, 6)]


def test_a_full_batch_is_answered_under_constant_load(serving: ServingWorker) -> None:
    serving.receive(*(QueuedPacket(number, tcp(FRIEND_ADDRESS, source_port=number)) for number in range(1, BATCH_PACKETS + 1)))
    assert set(serving.kernel.answers) == {1}
    serving.receive(QueuedPacket(BATCH_PACKETS + 1, tcp(FRIEND_ADDRESS)))
    assert set(serving.kernel.answers) == set(range(1, BATCH_PACKETS + 2))


def test_each_packet_with_a_decision_is_counted_as_one_connection(metrics: WorkerMetrics) -> None:
    """Known and new connections of both families, replies, every port at once; not malformed packets, and not moved ones."""
    memory = flow_memory.make()
    serving = ServingWorker(metrics, "10.0.0.8/32", flows=FlowRecorder(FlowWriter(memory), denied_only=False))
    serving.flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    asked: Counter[tuple[bytes, int, bool]] = Counter()
    packets = [
        *((tcp(FRIEND_ADDRESS, port=port), PENDING, FRIEND, port, True) for port in (80, 81, 82, 83, 84)),
        *((tcp(OTHER_ADDRESS, port=port), PENDING, OTHER, port, False) for port in (80, 81)),
        (tcp6("fd00::2"), PENDING, FRIEND6, 80, True),
        (tcp(POD_ADDRESS, FRIEND_ADDRESS, source_port=80, port=40000), REPLY, FRIEND, 80, True),
    ]
    number = 0
    for times in range(7):
        for payload, mark, source, port, is_accept in packets[: times + 3] + packets[-3:]:
            number += 1
            asked[source, port, is_accept] += 1
            serving.receive(QueuedPacket(number, payload, mark))
        for uncounted in (b"x", tcp("10.0.0.8")):
            number += 1
            serving.receive(QueuedPacket(number, uncounted))
        serving.drained()
    serving.flow_cache.flush_flows()
    found: Counter[tuple[bytes, int, bool]] = Counter()
    for chunk in FlowReader(memory).read():
        for count in chunk.counts:
            found[count.source, count.port, count.reasons.is_accept] += count.connections
    os.close(memory)
    assert found == asked


def test_packets_with_another_mark_keep_its_other_bits(serving: ServingWorker) -> None:
    serving.receive(QueuedPacket(1, tcp(FRIEND_ADDRESS)), QueuedPacket(2, tcp(FRIEND_ADDRESS), PENDING | 0x100))
    serving.drained()
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED), 2: (Verdict.ACCEPT, ACCEPTED | 0x100)}


def test_a_reply_is_evaluated_as_the_connection_that_it_answers(serving: ServingWorker) -> None:
    for number, (peer, verdict) in enumerate(((FRIEND_ADDRESS, Verdict.ACCEPT), (OTHER_ADDRESS, Verdict.DROP)), 1):
        serving.receive(QueuedPacket(number, tcp(POD_ADDRESS, peer, source_port=80, port=40000), REPLY))
        serving.drained()
        assert serving.kernel.answers[number][0] is verdict


@pytest.mark.parametrize(
    ("source", "destination", "mark", "is_moved"),
    [
        (FRIEND_ADDRESS, OTHER_ADDRESS, UNKNOWN_SOURCE, False),
        (FRIEND_ADDRESS, OTHER_ADDRESS, UNKNOWN_DESTINATION, True),
        (FRIEND_ADDRESS, OTHER_ADDRESS, UNKNOWN_BOTH, True),
        (OTHER_ADDRESS, FRIEND_ADDRESS, UNKNOWN_SOURCE, True),
        (OTHER_ADDRESS, FRIEND_ADDRESS, UNKNOWN_DESTINATION, False),
        (OTHER_ADDRESS, FRIEND_ADDRESS, UNKNOWN_BOTH, True),
        (FRIEND_ADDRESS, FRIEND_ADDRESS, UNKNOWN_BOTH, False),
        (OTHER_ADDRESS, OTHER_ADDRESS, PENDING, False),
    ],
)
@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_is_moved_while_the_end_that_its_mark_names_is_unknown(
    serving: ServingWorker, source: str, destination: str, mark: int, is_moved: bool, family: int
) -> None:
    """The snapshot knows the friend. Two ends that are no isolated pods are accepted."""
    packet = tcp(source, destination) if family == 4 else tcp6(*(f"fd00::{address[-1]}" for address in (source, destination)))
    serving.receive(QueuedPacket(1, packet, mark | 0xAB00))
    serving.drained()
    if is_moved:
        assert serving.kernel.moved == {1: (WAITING_QUEUE, mark | 0xAB00)}
        assert serving.kernel.answers == {}
    else:
        assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED | 0xAB00)}


def test_a_packet_that_is_moved_is_not_accepted_with_its_batch_nor_cached(serving: ServingWorker) -> None:
    seen: list[int] = []
    serving.observe = lambda _packet, _is_reply, answer, _started_ns: seen.append(answer)
    for first in (1, 11, 21):
        serving.receive(
            QueuedPacket(first, tcp(FRIEND_ADDRESS), UNKNOWN_SOURCE),
            QueuedPacket(first + 1, tcp(FRIEND_ADDRESS), UNKNOWN_SOURCE),
            QueuedPacket(first + 2, tcp(OTHER_ADDRESS), UNKNOWN_SOURCE),
            QueuedPacket(first + 3, tcp(FRIEND_ADDRESS), UNKNOWN_SOURCE),
        )
        serving.drained()
    assert set(serving.kernel.moved) == {3, 13, 23}
    assert set(serving.kernel.answers) == {1, 2, 4, 11, 12, 14, 21, 22, 24}
    assert seen.count(MOVED) == 3


def test_a_packet_of_an_unknown_end_gets_the_verdict_of_the_failure_mode_without_a_snapshot(metrics: WorkerMetrics) -> None:
    serving = ServingWorker(metrics)
    serving.receive(QueuedPacket(1, tcp(FRIEND_ADDRESS), UNKNOWN_SOURCE))
    assert serving.kernel.answers == {1: (Verdict.DROP, None)}
    assert serving.kernel.moved == {}


def test_a_malformed_packet_of_an_unknown_end_is_dropped(serving: ServingWorker) -> None:
    serving.receive(QueuedPacket(1, b"\x45", UNKNOWN_BOTH))
    assert serving.kernel.answers == {1: (Verdict.DROP, None)}


@pytest.mark.parametrize("mark", [PENDING, REPLY])
def test_a_packet_with_an_unknown_peer_in_the_ranges_is_moved_each_time(metrics: WorkerMetrics, mark: int) -> None:
    """A new connection of the peer, and a reply to one. A peer outside of the ranges is evaluated."""
    serving = ServingWorker(metrics, "10.0.0.0/28", "fd00::/64")
    serving.flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    peers = [
        (OTHER_ADDRESS, "fd00::3"),
        ("10.0.0.15", "fd00::ffff:0:0:0"),
        (FRIEND_ADDRESS, "fd00::2"),
        ("10.0.0.16", "fd00:0:0:1::"),
    ]
    number, moved = 0, set()
    for _ in range(3):
        for position, (peer, peer6) in enumerate(peers):
            for packet, reply in ((tcp(peer), tcp(POD_ADDRESS, peer)), (tcp6(peer6), tcp6("fd00::1", peer6))):
                number += 1
                serving.receive(QueuedPacket(number, packet if mark == PENDING else reply, mark))
                moved |= {number} if position < 2 else set()
        serving.drained()
    assert serving.kernel.moved == dict.fromkeys(moved, (WAITING_QUEUE, mark))
    assert {one for one, answer in serving.kernel.answers.items() if answer[0] is Verdict.ACCEPT} == {
        one for one in range(1, number + 1) if (one - 1) % 8 in {4, 5}
    }
    assert len(serving.kernel.answers) == number - len(moved)
    assert {hint.source for hint in serving.flow_cache.take_hints(100)}.isdisjoint(map(parse_address, (OTHER_ADDRESS, "fd00::3")))


def test_a_packet_that_cannot_be_read_is_not_accepted_with_its_batch(serving: ServingWorker) -> None:
    serving.receive(
        QueuedPacket(1, tcp(FRIEND_ADDRESS)),
        QueuedPacket(2, None),
        QueuedPacket(3, b"\x45"),
        QueuedPacket(4, tcp(FRIEND_ADDRESS)),
    )
    serving.drained()
    assert [serving.kernel.answers[number][0] for number in range(1, 5)] == [
        Verdict.ACCEPT,
        Verdict.DROP,
        Verdict.DROP,
        Verdict.ACCEPT,
    ]


def test_packets_that_a_predecessor_had_read_are_answered_before_the_first_batch(serving: ServingWorker) -> None:
    serving.kernel.waiting = {5, 6}
    serving.receive(QueuedPacket(7, tcp(FRIEND_ADDRESS)))
    assert serving.kernel.answers == {5: (Verdict.DROP, None), 6: (Verdict.DROP, None), 7: (Verdict.ACCEPT, ACCEPTED)}


def test_without_a_snapshot_packets_get_the_verdict_of_the_failure_mode(metrics: WorkerMetrics) -> None:
    serving = ServingWorker(metrics)
    serving.receive(QueuedPacket(1, tcp(FRIEND_ADDRESS)))
    assert serving.kernel.answers == {1: (Verdict.DROP, None)}


def test_a_new_snapshot_applies_from_the_next_packet_on(serving: ServingWorker) -> None:
    serving.receive(QueuedPacket(1, tcp(FRIEND_ADDRESS)))
    serving.drained()
    serving.flow_cache.load(view_that_admits(version=2), (FRIEND,))
    serving.message_waits = True
    serving.drained()
    serving.receive(QueuedPacket(2, tcp(FRIEND_ADDRESS)))
    assert serving.kernel.answers[2] == (Verdict.DROP, None)


def test_housekeeping_runs_although_every_packet_is_denied(serving: ServingWorker) -> None:
    serving.message_waits = True
    serving.receive(*(QueuedPacket(number, tcp(OTHER_ADDRESS)) for number in range(1, BATCH_PACKETS + 1)))
    assert serving.housekeepings == 1


def test_options_in_front_of_an_ipv4_header_do_not_make_it_an_ipv6_key(serving: ServingWorker) -> None:
    """The bytes after the first could be those of an admitted IPv6 connection."""
    packet = tcp6("fd00::2")
    serving.receive(QueuedPacket(1, packet))
    serving.drained()
    assert serving.kernel.answers[1][0] is Verdict.ACCEPT
    serving.receive(QueuedPacket(2, b"\x46" + packet[1:]))
    assert serving.flow_cache.misses == 2


PAYLOADS = st.sampled_from(
    [
        (tcp(FRIEND_ADDRESS), Verdict.ACCEPT),
        (tcp(FRIEND_ADDRESS, port=81), Verdict.ACCEPT),
        (tcp(OTHER_ADDRESS), Verdict.DROP),
        (tcp6("fd00::2"), Verdict.ACCEPT),
        (tcp6("fd00::3"), Verdict.DROP),
        (b"", Verdict.DROP),
        (None, Verdict.DROP),
    ]
)


@given(st.lists(st.tuples(PAYLOADS, st.sampled_from([PENDING, PENDING | 1, PENDING | 2]), st.booleans()), max_size=200))
def test_every_packet_gets_exactly_one_verdict_and_the_right_one(
    metrics: WorkerMetrics, arrivals: list[tuple[tuple[bytes | None, Verdict], int, bool]]
) -> None:
    serving = ServingWorker(metrics)
    serving.flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    for number, ((payload, _verdict), mark, drained) in enumerate(arrivals, 1):
        serving.receive(QueuedPacket(number, payload, mark))
        if drained:
            serving.drained()
    serving.drained()
    assert not serving.kernel.waiting
    for number, ((_payload, verdict), mark, _drained) in enumerate(arrivals, 1):
        answer = serving.kernel.answers[number]
        assert answer == (verdict, None if verdict is Verdict.DROP else mark & ~MASK | ACCEPTED)
