"""The rejecter of a worker: what it sends for a denied packet, and how it counts."""

import socket

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

import pytest

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from netpolq.enums import Verdict
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.answer_limit import CLIENT_BURST
from netpolq_worker.worker.answer_sockets import AnswerSockets, open_answer_sockets
from netpolq_worker.worker.flow_cache import ANSWER_REJECTED, FlowCache
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.packet import parse
from netpolq_worker.worker.rejecter import Rejecter
from tests.support.compiled import encode, ingress_policy
from tests.support.worker_metrics import worker_metrics
from tests.unit.worker.test_flow_cache import POD, POD6

SYN, SYN6 = IP(src="10.0.0.3", dst="10.0.0.1") / TCP(flags="S"), IPv6(src="fd00::3", dst="fd00::1") / TCP(flags="S")


NOW_NS = 1_000_000_000


class Wire:
    """A socket that keeps what is sent, or fails."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []
        self.error: OSError | None = None

    def sendto(self, data: bytes, address: object) -> int:
        if self.error is not None:
            raise self.error
        self.sent.append((data, address))
        return len(data)


class Rejecting:
    """A rejecter with a snapshot, a clock that stands still, and the counters."""

    def __init__(self, metrics: WorkerMetrics, *families: int, is_rejected: bool = True) -> None:
        self.wires = {family: Wire() for family in families}
        self.metrics = metrics
        self.flow_cache = FlowCache(with_hints=True)
        sockets = AnswerSockets(0, cast("dict[int, socket.socket]", self.wires)) if families else None
        self.rejecter = Rejecter(sockets, self.flow_cache, metrics)
        self.load(is_rejected=is_rejected)

    def load(self, *, is_rejected: bool) -> None:
        delta = ingress_policy("a/b", endpoints=(POD, POD6))
        (program,) = filter(None, delta.programs.values())
        programs = {1: program._replace(is_rejected=is_rejected)}
        self.flow_cache.load(SnapshotReader(encode(replace(delta, programs=programs))), None)

    def reject(self, packet: bytes) -> list[tuple[str, int]]:
        """The counts that the packet adds."""
        flow = parse(packet)
        assert flow is not None
        source, destination, protocol, _source_port, port = flow
        answer = self.flow_cache.answer((source, destination, protocol, port))
        assert Verdict(answer & 1) is Verdict.DROP
        if answer & ANSWER_REJECTED:
            self.rejecter.reject(packet, answer, NOW_NS)
        found = [
            (str(outcome), series)
            for outcome, counts in self.metrics.rejects.items()
            for series in range(len(counts))
            if counts[series]
        ]
        for counts in self.metrics.rejects.values():
            counts[:] = [0] * len(counts)
        return found


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerMetrics]:
    with worker_metrics(tmp_path_factory.mktemp("metrics")) as metrics:
        yield metrics


Make = Callable[..., Rejecting]


@pytest.fixture
def rejecting_with(metrics: WorkerMetrics) -> Iterator[Make]:
    """Makes rejecters with sockets for some families."""
    with ExitStack() as rejecters:

        def make(*families: int, is_rejected: bool = True) -> Rejecting:
            made = Rejecting(metrics, *families, is_rejected=is_rejected)
            rejecters.callback(made.rejecter.close)
            return made

        yield make


def test_a_denied_packet_is_answered_to_its_source(rejecting_with: Make) -> None:
    rejecting = rejecting_with(4, 16)
    assert rejecting.reject(bytes(SYN)) == [("sent", 0)]
    assert rejecting.reject(bytes(SYN6)) == [("sent", 1)]
    for family, address, layer in ((4, "10.0.0.3", IP), (16, "fd00::3", IPv6)):
        ((data, to),) = rejecting.wires[family].sent
        assert (to, layer(data).dst, layer(data)[TCP].flags) == ((address, 0), address, "RA")


def test_decisions_without_the_bit_are_neither_answered_nor_counted(rejecting_with: Make) -> None:
    rejecting = rejecting_with(4, 16, is_rejected=False)
    assert rejecting.reject(bytes(SYN)) == []
    assert rejecting.wires[4].sent == []


def test_each_outcome_has_its_counter(rejecting_with: Make) -> None:
    rejecting = rejecting_with(4)
    assert rejecting.reject(bytes(IP(src="10.0.0.3", dst="10.0.0.1") / TCP(flags="R"))) == [("unsuitable", 0)]
    assert rejecting.reject(bytes(SYN6)) == [("failed", 1)], "there is no socket for IPv6"
    rejecting.wires[4].error = BlockingIOError()
    assert rejecting.reject(bytes(IP(src="10.0.0.3", dst="10.0.0.1") / UDP())) == [("failed", 2)]
    rejecting.wires[4].error = None
    outcomes = [rejecting.reject(bytes(SYN)) for _ in range(CLIENT_BURST + 5)]
    assert outcomes[-5:] == [[("limited", 0)]] * 5
    assert len(rejecting.wires[4].sent) == CLIENT_BURST - 2


def test_a_refused_client_has_its_denial_hinted(rejecting_with: Make) -> None:
    rejecting = rejecting_with(4)
    for _ in range(CLIENT_BURST):
        rejecting.reject(bytes(SYN))
    assert not rejecting.flow_cache.has_hints
    for _ in range(2):
        rejecting.reject(bytes(SYN))
    (hint,) = rejecting.flow_cache.take_hints(10)
    assert hint.verdict is Verdict.DROP


def test_an_error_costs_no_packet(rejecting_with: Make, caplog: pytest.LogCaptureFixture) -> None:
    rejecting = rejecting_with(4)
    answer = rejecting.flow_cache.answer((b"\x0a\x00\x00\x03", POD[12:], 6, 80))
    rejecting.rejecter.reject(b"", answer, NOW_NS)
    assert "cannot answer a denied packet" in caplog.text


def test_only_a_snapshot_with_answers_needs_the_callback(rejecting_with: Make) -> None:
    rejecting = rejecting_with(4)
    assert rejecting.rejecter.reject_if_needed is not None
    assert not rejecting.rejecter.lacks_sockets
    assert rejecting_with(4, is_rejected=False).rejecter.reject_if_needed is None
    without = rejecting_with()
    assert without.rejecter.reject_if_needed is None
    assert without.rejecter.lacks_sockets
    silent = rejecting_with(is_rejected=False)
    assert not silent.rejecter.lacks_sockets


def test_the_raw_sockets_lie_above_the_limit_of_a_worker() -> None:
    opened = open_answer_sockets()
    try:
        assert opened.sockets.keys() == {4, 16}
        assert min(opened.descriptors()) >= opened.descriptor_limit
        assert not any(one.getblocking() for one in opened.sockets.values())
    finally:
        for one in opened.sockets.values():
            one.close()
