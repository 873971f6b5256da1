"""The waiting process with a queue of the test: which packets are answered, when, and how they are counted."""

import logging
import socket
import time

from collections.abc import Iterator
from typing import cast

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import PacketMark, Verdict
from netpolq.hold.ranges import parse_ranges
from netpolq.ipc.channel import Channel, Logging, Serve
from netpolq.logs import PACKET_LOG, PACKET_LOG_VERBOSITY
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.waiting.held_packets import MAX_HELD_OF_ADDRESS
from netpolq_worker.waiting.outcome import Outcome
from netpolq_worker.waiting.packet_loop import hold_packets
from netpolq_worker.waiting.process import WaitingProcess
from netpolq_worker.waiting.table import SIZE_BYTES, HeldTable
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.loop import WorkerParts
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.nfqueue import Packet, Queue
from netpolq_worker.worker.observer import Observer
from netpolq_worker.worker.rejecter import Rejecter
from netpolq_worker.worker.snapshot_loader import SnapshotLoader
from tests.support.compiled import encode, known_peers
from tests.support.worker_metrics import worker_metrics
from tests.unit.worker.test_packet_loop import MASK, Kernel, QueuedPacket, tcp, tcp6

TIMEOUT_NS = 2_000_000_000
SOURCE, DESTINATION, BOTH, PENDING, REPLY, ACCEPTED = (
    state << 4
    for state in (
        PacketMark.UNKNOWN_SOURCE,
        PacketMark.UNKNOWN_DESTINATION,
        PacketMark.UNKNOWN_BOTH,
        PacketMark.PENDING_ORIGINAL,
        PacketMark.PENDING_REPLY,
        PacketMark.ACCEPTED,
    )
)
POD, FRIEND, STRANGER, NEIGHBOUR = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
SUCCESSOR_QUEUE = 207


def view(version: int, *known: str) -> SnapshotReader:
    """A snapshot in which the pod admits the friend only. `known`: the addresses that have an identity."""
    friends = [text for text in known if text in {FRIEND, "fd00::2"}]
    strangers = [text for text in known if text not in friends]
    delta = known_peers(pods=(POD, "fd00::1"), friends=friends, strangers=strangers)
    return SnapshotReader(encode(delta, version=version))


class KeptMetrics(WorkerMetrics):
    """Metrics that keep what was counted, for the test."""

    def flush(self, misses: int) -> None:
        """Write nothing."""


class WaitingKernel(Kernel):
    """A kernel that accepts single packets too, and takes verdicts on packets that are gone."""

    def accept(self, packet_id: int, mark: int) -> None:
        if packet_id in self.waiting:
            self.waiting.discard(packet_id)
            self.answers[packet_id] = Verdict.ACCEPT, mark

    def verdict(self, packet_id: int, verdict: Verdict) -> None:
        if packet_id in self.waiting:
            super().verdict(packet_id, verdict)

    def dispose(self, packet_ids: list[int], verdict: Verdict) -> int:
        before = len(self.waiting)
        for packet_id in packet_ids:
            self.verdict(packet_id, verdict)
        return before - len(self.waiting)

    def dispose_up_to(self, packet_id: int, verdict: Verdict) -> int:
        return self.dispose([one for one in self.waiting if one <= packet_id], verdict)


class Serving:
    """A waiting process, and its replacements, over one table and one kernel."""

    def __init__(self, metrics: WorkerMetrics, *, fail_open: bool = False, unknown_peers: str = "") -> None:
        self.kernel = WaitingKernel()
        self.memory = bytearray(SIZE_BYTES)
        self._metrics = metrics
        self._fail_open = fail_open
        self._unknown_peers = AddressRanges(parse_ranges(unknown_peers))
        self._channel, self._end = Channel.pair()
        self.flow_cache = FlowCache(unknown_peers=self._unknown_peers)
        metrics.held.clear()
        metrics.failed.clear()
        self.start()

    def start(self, *, suspect: bool = False) -> None:
        """Start the process, or its replacement with the snapshot that was there."""
        self.process = WaitingProcess(
            WorkerParts(
                order=Serve(1, 0, suspect),
                queue=cast("Queue", self.kernel),
                channel=self._channel,
                loader=SnapshotLoader(self.flow_cache, self._channel),
                flow_cache=self.flow_cache,
                metrics=self._metrics,
                rejecter=Rejecter(None, self.flow_cache, self._metrics),
                fail_open=self._fail_open,
                mark_mask=MASK,
                logging=Logging(0, False),
            ),
            table=HeldTable(self.memory),
            timeout_ns=TIMEOUT_NS,
            unknown_peers=self._unknown_peers,
        )
        self.process.resume()
        self._packet_handler = hold_packets(lambda: self.process)
        next(self._packet_handler)

    def load(self, snapshot: SnapshotReader, *changed: str) -> None:
        keys = tuple(map(parse_address, changed)) or None
        self.flow_cache.load(snapshot, keys)
        self.process.on_loaded(keys)

    def receive(self, *packets: QueuedPacket) -> None:
        self.kernel.waiting |= {packet.id for packet in packets}
        for packet in packets:
            self._packet_handler.send(cast("Packet", packet))
        self._packet_handler.send(None)

    def after_timeout(self) -> None:
        self.process.housekeeping(time.monotonic_ns() + TIMEOUT_NS)

    @property
    def outcomes(self) -> dict[str, int]:
        return dict(self._metrics.held)

    @property
    def failures(self) -> dict[str, int]:
        return dict(self._metrics.failed)

    def close(self) -> None:
        self._end.close()
        self._channel.close()


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerMetrics]:
    with worker_metrics(tmp_path_factory.mktemp("metrics")):
        yield KeptMetrics(1)


@pytest.fixture(params=[False, True], ids=["fail-closed", "fail-open"])
def serving(metrics: WorkerMetrics, request: pytest.FixtureRequest) -> Iterator[Serving]:
    made = Serving(metrics, fail_open=request.param)
    yield made
    made.close()


def fail_verdict(serving: Serving) -> Verdict:
    return Verdict.ACCEPT if serving._fail_open else Verdict.DROP


def test_a_packet_is_held_until_a_snapshot_knows_its_address(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE | 0xAB00), QueuedPacket(2, tcp(STRANGER), SOURCE))
    serving.load(view(2), NEIGHBOUR)
    assert serving.kernel.answers == {}
    assert serving.process.held_count == 2
    serving.load(view(3, FRIEND, STRANGER), FRIEND, STRANGER)
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED | 0xAB00), 2: (Verdict.DROP, None)}
    assert serving.outcomes == {Outcome.ACCEPTED: 1, Outcome.DENIED: 1}
    assert serving.failures == {}
    assert serving.process.held_count == 0


def test_only_packets_of_changed_addresses_are_evaluated_again_and_all_without_a_list(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(STRANGER), SOURCE))
    serving.load(view(2, FRIEND, STRANGER), STRANGER)
    assert set(serving.kernel.answers) == {2}
    serving.load(view(3, FRIEND, STRANGER))
    assert set(serving.kernel.answers) == {1, 2}


@pytest.mark.parametrize("mark", [DESTINATION, BOTH])
def test_both_ends_must_be_known(serving: Serving, mark: int) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND, NEIGHBOUR), mark))
    serving.load(view(2, FRIEND), FRIEND)
    assert serving.kernel.answers == {}
    serving.load(view(3, FRIEND, NEIGHBOUR), NEIGHBOUR)
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED)}


def test_a_packet_whose_address_is_known_by_now_is_answered_at_once(serving: Serving) -> None:
    serving.load(view(1, FRIEND, STRANGER, "fd00::2"))
    serving.receive(
        QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(STRANGER), SOURCE), QueuedPacket(3, tcp6("fd00::2"), SOURCE)
    )
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED), 2: (Verdict.DROP, None), 3: (Verdict.ACCEPT, ACCEPTED)}
    assert serving.outcomes == {}, "they did not wait"


def test_after_its_time_a_packet_gets_the_verdict_of_the_failure_mode_with_its_mark(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp6("fd00::2"), SOURCE))
    serving.process.housekeeping(time.monotonic_ns() + TIMEOUT_NS - 1_000_000_000)
    assert serving.kernel.answers == {}
    assert serving.process.wait_ms() <= 250
    serving.after_timeout()
    assert serving.kernel.answers == {1: (fail_verdict(serving), None), 2: (fail_verdict(serving), None)}
    assert (serving.outcomes, serving.failures) == ({Outcome.TIMED_OUT: 2}, {"timed-out": 2})


def test_more_packets_than_may_wait_for_an_address_displace_its_oldest(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE))
    for number in range(2, 4 + MAX_HELD_OF_ADDRESS):
        serving.receive(QueuedPacket(number, tcp(STRANGER, source_port=number), SOURCE))
    assert serving.kernel.answers == {number: (fail_verdict(serving), None) for number in (2, 3)}
    assert (serving.outcomes, serving.failures) == ({Outcome.DISPLACED: 2}, {"displaced": 2})


def test_a_malformed_packet_is_dropped_and_one_that_cannot_be_read_gets_the_verdict_of_the_failure_mode(serving: Serving) -> None:
    serving.load(view(1))
    malformed = serving._metrics.malformed
    serving.receive(QueuedPacket(1, b"\x45", SOURCE), QueuedPacket(2, None, SOURCE))
    assert serving.kernel.answers == {1: (Verdict.DROP, None), 2: (fail_verdict(serving), None)}
    assert serving._metrics.malformed == malformed + 1
    assert serving.failures == {"error": 1}


def test_without_a_snapshot_packets_get_the_verdict_of_the_failure_mode(serving: Serving) -> None:
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE))
    assert serving.kernel.answers == {1: (fail_verdict(serving), None)}
    assert serving.failures == {"no-snapshot": 1}


def test_an_evaluation_that_fails_ends_only_its_packet(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(FRIEND, port=81), SOURCE))
    answer = serving.flow_cache.answer

    def failing(question: tuple[bytes, bytes, int, int]) -> int:
        if question[3] == 80:
            raise MemoryError
        return answer(question)

    monkeypatch.setattr(serving.flow_cache, "answer", failing)
    serving.load(view(2, FRIEND), FRIEND)
    assert serving.kernel.answers == {1: (fail_verdict(serving), None), 2: (Verdict.ACCEPT, ACCEPTED)}
    assert serving.outcomes == {Outcome.ERROR: 1, Outcome.ACCEPTED: 1}


@pytest.mark.parametrize("mark", [PENDING, REPLY])
def test_an_unknown_peer_in_the_ranges_is_waited_for(metrics: WorkerMetrics, mark: int) -> None:
    serving = Serving(metrics, unknown_peers="10.0.0.0/29")
    serving.load(view(1))
    for number, peer in enumerate((FRIEND, STRANGER, "10.0.0.9"), 1):
        serving.receive(QueuedPacket(number, tcp(peer) if mark == PENDING else tcp(POD, peer, source_port=80), mark))
    assert serving.kernel.answers == {3: (Verdict.DROP, None)}
    serving.load(view(2, FRIEND, STRANGER), FRIEND, STRANGER)
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED), 2: (Verdict.DROP, None), 3: (Verdict.DROP, None)}
    serving.close()


def test_a_packet_may_wait_for_one_address_after_the_other(metrics: WorkerMetrics) -> None:
    """The kernel did not know the destination; then its peer is unknown."""
    serving = Serving(metrics, unknown_peers="10.0.0.0/29")
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), DESTINATION))
    serving.load(view(2, POD), POD)
    assert serving.kernel.answers == {}
    serving.load(view(3, POD, FRIEND), FRIEND)
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED)}
    serving.close()


# --- replacements -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suspect", [False, True])
def test_a_replacement_continues_with_what_is_held_and_answers_what_was_only_read(serving: Serving, suspect: bool) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(STRANGER), SOURCE))
    serving.kernel.waiting |= {3, 4}
    serving.start(suspect=suspect)
    serving.receive(QueuedPacket(5, tcp(FRIEND), SOURCE))
    expected = Verdict.DROP if suspect else fail_verdict(serving)
    assert serving.kernel.answers == {3: (expected, None), 4: (expected, None)}
    assert serving.failures == {"suspect" if suspect else "orphaned": 2}
    serving.load(view(2, FRIEND), FRIEND)
    assert {one for one, answer in serving.kernel.answers.items() if answer == (Verdict.ACCEPT, ACCEPTED)} == {1, 5}
    serving.after_timeout()
    assert serving.kernel.answers[2] == (fail_verdict(serving), None)
    assert serving.kernel.waiting == set()


def test_a_replacement_evaluates_at_once_with_a_newer_snapshot(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE))
    serving.flow_cache.load(view(3, FRIEND), None)
    serving.start()
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED)}


@pytest.mark.parametrize("suspect", [False, True])
def test_a_held_packet_whose_evaluation_ended_the_process_is_dropped_once(serving: Serving, suspect: bool) -> None:
    """After SIGKILL from outside, it is evaluated again. The others stay in either case."""
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(FRIEND, port=81), SOURCE))
    HeldTable(serving.memory).evaluated = 1
    serving.start(suspect=suspect)
    serving.load(view(2, FRIEND), FRIEND)
    accepted = (Verdict.ACCEPT, ACCEPTED)
    assert serving.kernel.answers == {1: (Verdict.DROP, None) if suspect else accepted, 2: accepted}
    assert serving.failures == ({"suspect": 1} if suspect else {})
    assert serving.outcomes == ({Outcome.SUSPECT: 1, Outcome.ACCEPTED: 1} if suspect else {Outcome.ACCEPTED: 2})


def test_a_packet_that_was_answered_and_not_removed_is_answered_twice_without_harm(serving: Serving) -> None:
    """Death between the verdict and the row."""
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE))
    serving.kernel.accept(1, ACCEPTED)
    serving.start()
    serving.after_timeout()
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED)}


def test_a_packet_that_was_held_before_it_was_seen_is_no_orphan(serving: Serving) -> None:
    """Death between the row and the header."""
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE))
    HeldTable(serving.memory).last_seen = 0
    serving.start()
    serving.receive(QueuedPacket(2, tcp(STRANGER), SOURCE))
    assert serving.kernel.answers == {}
    assert serving.process.held_count == 2


def test_what_is_held_stays_however_many_packets_were_answered_since(serving: Serving) -> None:
    """Their ids are no orphans. Too many orphans would be the sign of a damaged table."""
    serving.load(view(1, STRANGER))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(1_000_000, tcp(STRANGER), SOURCE))
    serving.start()
    serving.receive(QueuedPacket(1_000_001, tcp(STRANGER), SOURCE))
    assert serving.process.held_count == 1
    assert 1 in serving.kernel.waiting


@pytest.mark.parametrize("damage", [(64, 7), (0, 0xFF), (4, 0xFF)], ids=["a row", "the last id", "a high last id"])
def test_with_a_damaged_table_all_packets_get_the_verdict_of_the_failure_mode(serving: Serving, damage: tuple[int, int]) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(STRANGER), SOURCE))
    serving.memory[damage[0]] = damage[1]
    serving.start()
    serving.receive(QueuedPacket(3, tcp(FRIEND), SOURCE))
    assert serving.kernel.answers == {1: (fail_verdict(serving), None), 2: (fail_verdict(serving), None)}
    assert serving.process.held_count == 1
    serving.load(view(2, FRIEND), FRIEND)
    assert serving.kernel.answers[3] == (Verdict.ACCEPT, ACCEPTED)


# --- the end ----------------------------------------------------------------------------------------------------------------------


def test_without_a_successor_all_held_packets_get_the_verdict_of_the_failure_mode(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE), QueuedPacket(2, tcp(STRANGER), SOURCE))
    serving.process.on_end()
    assert serving.kernel.answers == {1: (fail_verdict(serving), None), 2: (fail_verdict(serving), None)}
    assert (serving.outcomes, serving.failures) == ({Outcome.ENDED: 2}, {"ended": 2})


def test_a_successor_gets_all_held_packets_with_their_marks(serving: Serving) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, tcp(FRIEND), SOURCE | 0xAB00), QueuedPacket(2, tcp(FRIEND, NEIGHBOUR), BOTH))
    serving.process.successor_queue = SUCCESSOR_QUEUE
    serving.process.on_end()
    assert serving.kernel.moved == {1: (SUCCESSOR_QUEUE, SOURCE | 0xAB00), 2: (SUCCESSOR_QUEUE, BOTH)}
    assert (serving.kernel.answers, serving.outcomes, serving.failures) == ({}, {Outcome.HANDED_OVER: 2}, {})


@pytest.mark.parametrize(
    "payload",
    [
        b"\x45\x00\x00\x20\x00\x00\x00\x05\x40\x06\x00\x00" + socket.inet_aton(FRIEND) + socket.inet_aton(POD) + bytes(12),
        b"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x01\x00\x00"
        + socket.inet_aton(FRIEND)
        + socket.inet_aton(POD)
        + b"\x08\x00"
        + bytes(6),
        tcp6("fd00::2")[:6] + b"\x2c" + tcp6("fd00::2")[7:40] + b"\x06\x00\x00\x08" + bytes(12),
    ],
    ids=["a later fragment", "ICMP", "a later IPv6 fragment"],
)
def test_packets_without_ports_are_held_and_evaluated_like_those_of_a_worker(serving: Serving, payload: bytes) -> None:
    serving.load(view(1))
    serving.receive(QueuedPacket(1, payload, SOURCE))
    assert serving.process.held_count == 1
    serving.load(view(2, FRIEND, "fd00::2"), FRIEND, "fd00::2")
    assert serving.kernel.answers == {1: (Verdict.ACCEPT, ACCEPTED)}


def test_the_packet_log_has_each_packet_once_with_its_flow_and_verdict(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """A packet that waits is logged when it is answered. One that waited in vain has its own reason, and no decision."""
    caplog.set_level(logging.INFO, PACKET_LOG)
    serving.process.observe = Observer(
        101, serving.flow_cache, serving.process.fail_verdict, Logging(PACKET_LOG_VERBOSITY, True)
    ).observe_if_needed
    serving.load(view(1, NEIGHBOUR))
    serving.receive(
        QueuedPacket(1, tcp(FRIEND), SOURCE),
        QueuedPacket(2, tcp6("fd00::9"), SOURCE),
        QueuedPacket(3, tcp(NEIGHBOUR), SOURCE),
        QueuedPacket(4, b"\x45", SOURCE),
    )
    serving.load(view(2, FRIEND, NEIGHBOUR), FRIEND)
    serving.after_timeout()
    names = ("verdict", "reason", "source_ip", "source_port")
    found = [tuple(vars(record)["fields"][name] for name in names) for record in caplog.records]
    assert found == [
        ("drop", "denied", NEIGHBOUR, 40000),
        ("drop", "malformed", None, None),
        ("accept", "allowed", FRIEND, 40000),
        ("accept" if serving._fail_open else "drop", "unknown-address", "fd00::9", 40000),
    ]
