"""The log of denied packets: which packets get a line, and how the others are counted."""

import io
import json

from collections.abc import Iterator
from dataclasses import replace

import pytest

from scapy.layers.inet import IP, TCP
from scapy.packet import Packet

from netpolq.addresses import parse_address
from netpolq.enums import LoggingFormat, Verdict
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker import denied_log
from netpolq_worker.worker.denied_log import (
    BURST_LINES,
    LINES_PER_S,
    MAX_PAIRS,
    PAIR_BURST_LINES,
    PAIR_INTERVAL_S,
    SUMMARY_INTERVAL_S,
    DeniedLog,
)
from netpolq_worker.worker.packet_log import Outcome
from tests.support.compiled import encode, ingress_policy
from tests.support.logging_output import logging_output

CLOSED = "10.0.0.1"
NOISY, QUIET = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that a test sets, in seconds."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    with logging_output(LoggingFormat.JSON) as written:
        yield written


@pytest.fixture
def view() -> SnapshotReader:
    """A pod that admits nothing."""
    address = parse_address(CLOSED)
    contents = replace(ingress_policy("shop/closed", endpoints=(address,)), pod_names={address: "shop/closed-0"})
    return SnapshotReader(encode(contents, version=7))


def record(log: DeniedLog, view: SnapshotReader, packet: Packet | bytes, count: int = 1, *, is_reply: bool = False) -> None:
    denied = view.evaluate(parse_address(NOISY), parse_address(CLOSED), 6, 80)
    payload = bytes(packet)
    for _ in range(count):
        log.record(payload, Outcome(Verdict.DROP, denied, view), 1000, is_reply=is_reply)


def to_closed(source: str) -> Packet:
    return IP(src=source, dst=CLOSED) / TCP(sport=4000, dport=80)


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    """The lines since the last call."""
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    stream.seek(0)
    stream.truncate()
    assert all(line["component"] == "packet" for line in lines)
    return lines


def test_a_pair_that_never_stops_does_not_hide_another(stream: io.StringIO, view: SnapshotReader, clock: Clock) -> None:
    """It gets a few lines, and then one per interval. The other pair gets its own line meanwhile."""
    log = DeniedLog(100, clock)
    record(log, view, to_closed(NOISY), 10_000)
    record(log, view, to_closed(QUIET))
    logged = [(line["source_ip"], line["destination_pod"], line["ingress"], line["verdict"]) for line in entries(stream)]
    closed = ("shop/closed-0", {"isolated_by": ["shop/closed"]}, "drop")
    assert logged == [(NOISY, *closed)] * PAIR_BURST_LINES + [(QUIET, *closed)]
    clock.now_s += PAIR_INTERVAL_S
    record(log, view, to_closed(NOISY), 10_000)
    assert len(entries(stream)) == 1


def test_packets_without_a_line_are_counted_and_logged_with_the_pair_that_has_the_most(
    stream: io.StringIO, view: SnapshotReader, clock: Clock
) -> None:
    log = DeniedLog(100, clock)
    record(log, view, to_closed(NOISY), PAIR_BURST_LINES + 70)
    record(log, view, to_closed(QUIET), PAIR_BURST_LINES + 30)
    log.log_suppressed()
    assert len(entries(stream)) == 2 * PAIR_BURST_LINES, "the summary is not due yet"
    clock.now_s += SUMMARY_INTERVAL_S
    log.log_suppressed()
    log.log_suppressed()
    (line,) = entries(stream)
    assert line["msg"] == f"100 more denied packets not logged: 70 of {NOISY} -> {CLOSED}"
    assert {key: line[key] for key in ("queue", "suppressed", "source_ip", "destination_ip")} == {
        "queue": 100,
        "suppressed": 100,
        "source_ip": NOISY,
        "destination_ip": CLOSED,
    }


def test_all_pairs_together_are_bounded_and_every_packet_is_counted(
    stream: io.StringIO, view: SnapshotReader, clock: Clock
) -> None:
    """A scan of one second with more pairs than the limit: lines and counted packets add up to all packets, in bounded memory."""
    log = DeniedLog(100, clock)
    sources = [f"172.16.{number >> 8}.{number & 255}" for number in range(MAX_PAIRS + 904)]
    for source in sources[:2500]:
        record(log, view, to_closed(source))
    clock.now_s += 1.0
    for source in sources[2500:]:
        record(log, view, to_closed(source))
    lines = len(entries(stream))
    assert lines == BURST_LINES + LINES_PER_S
    assert len(log._pairs) == MAX_PAIRS
    clock.now_s += SUMMARY_INTERVAL_S
    log.log_suppressed()
    (line,) = entries(stream)
    assert line["suppressed"] == len(sources) - lines


def test_a_pair_is_forgotten_only_when_others_have_been_denied_later(
    stream: io.StringIO, view: SnapshotReader, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noisy pair stays in the table, with its limit, among pairs that come once."""
    monkeypatch.setattr(denied_log, "MAX_PAIRS", 8)
    log = DeniedLog(100, clock)
    for number in range(30):
        record(log, view, to_closed(NOISY))
        record(log, view, to_closed(f"172.16.0.{number}"))
    logged = [line["source_ip"] for line in entries(stream)]
    assert logged.count(NOISY) == PAIR_BURST_LINES
    assert len(set(logged)) == 31


def test_a_reply_counts_for_the_pair_of_its_connection(stream: io.StringIO, view: SnapshotReader, clock: Clock) -> None:
    log = DeniedLog(100, clock)
    record(log, view, to_closed(NOISY), PAIR_BURST_LINES)
    record(log, view, IP(src=CLOSED, dst=NOISY) / TCP(sport=80, dport=4000), is_reply=True)
    assert len(entries(stream)) == PAIR_BURST_LINES


def test_malformed_packets_are_one_pair(stream: io.StringIO, view: SnapshotReader, clock: Clock) -> None:
    log = DeniedLog(100, clock)
    record(log, view, b"\x45", 100)
    lines = entries(stream)
    assert [line["reason"] for line in lines] == ["malformed"] * PAIR_BURST_LINES
    clock.now_s += SUMMARY_INTERVAL_S
    log.log_suppressed()
    assert [line["msg"] for line in entries(stream)] == ["95 more denied packets not logged: 95 of malformed packets"]


def test_a_packet_without_a_decision_is_logged_with_the_verdict_of_the_failure_mode(stream: io.StringIO, clock: Clock) -> None:
    DeniedLog(100, clock).record(bytes(to_closed(NOISY)), Outcome(Verdict.DROP, None, None), 1000, is_reply=False)
    (line,) = entries(stream)
    assert (line["verdict"], line["reason"]) == ("drop", "no-snapshot")
