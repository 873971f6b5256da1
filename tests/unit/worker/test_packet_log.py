"""The packet log: the lines in both formats, and their rate limit."""

import io
import json
import re

from collections.abc import Iterator
from dataclasses import replace

import pytest

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from netpolq.addresses import address_key, parse_address
from netpolq.enums import Direction, LoggingFormat, Tier, Verdict
from netpolq.logs import PACKET_LOG_VERBOSITY
from netpolq.snapshot.ir import CompiledDelta, Endpoint, Program, TierProgram
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from netpolq_worker.worker.packet import parse
from netpolq_worker.worker.packet_log import BURST_LINES, LINES_PER_S, Outcome, PacketLog
from tests.support.compiled import encode, ingress_policy
from tests.support.logging_output import logging_output

WEB, WEB6, CLIENT, CLOSED, OUTSIDER = "10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3", "192.0.2.9"
KEYS = {
    "queue": 100,
    "verdict": "accept",
    "reason": "allowed",
    "direction": "ingress",
    "policy": "shop/web",
    "egress": None,
    "ingress": {"tier": "network-policy", "policy": "shop/web", "rule": 0, "rule_name": None, "action": "accept"},
    "audit": None,
    "protocol": "TCP",
    "source_ip": CLIENT,
    "source_port": 4000,
    "source_pod": "shop/client",
    "destination_ip": WEB,
    "destination_port": 80,
    "destination_pod": "shop/web-0",
    "reply": False,
    "snapshot": 7,
    "processing_us": 18.2,
}


class Clock:
    """A clock that a test sets, in seconds."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def view() -> SnapshotReader:
    """web admits client; closed is isolated for egress and may connect to no address."""
    web, web6, client, closed = (parse_address(text) for text in (WEB, WEB6, CLIENT, CLOSED))
    ingress = ingress_policy("shop/strict", "shop/web", endpoints=(web, web6), friends=(client,))
    contents = replace(
        ingress,
        tiers={**ingress.tiers, 2: TierProgram(Tier.NETWORK_POLICY, ("shop/closed",), (), (), (), None, None)},
        programs={**ingress.programs, 2: Program(Direction.EGRESS, (2,), ("shop/closed",))},
        endpoints={**ingress.endpoints, closed: Endpoint(2, 0)},
        pod_names={web: "shop/web-0", web6: "shop/web-0", client: "shop/client", closed: "shop/closed-0"},
    )
    return SnapshotReader(encode(contents, version=7))


@pytest.fixture(params=LoggingFormat)
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log, in the format that the test is run for."""
    with logging_output(request.param, PACKET_LOG_VERBOSITY) as written:
        yield written


as_text = pytest.mark.parametrize("stream", [LoggingFormat.TEXT], indirect=True)
as_json = pytest.mark.parametrize("stream", [LoggingFormat.JSON], indirect=True)


def evaluated(packet: Packet, view: SnapshotReader, *, is_reply: bool = False) -> Evaluation:
    """The evaluation of a packet's connection, as a worker makes it."""
    flow = parse(bytes(packet))
    assert flow is not None
    source, destination, protocol, source_port, destination_port = flow
    if is_reply:
        source, destination, destination_port = destination, source, source_port
    return view.evaluate(address_key(source), address_key(destination), protocol, destination_port)


def write(packet: Packet, view: SnapshotReader, *, is_reply: bool = False) -> None:
    """Write the line of a packet that got its verdict from a snapshot."""
    evaluation = evaluated(packet, view, is_reply=is_reply)
    PacketLog(100).record(bytes(packet), Outcome(evaluation.verdict, evaluation, view), 18_240, is_reply=is_reply)


def write_undecided(packet: Packet | bytes, view: SnapshotReader | None) -> None:
    """Write the line of a packet that was dropped without a decision."""
    PacketLog(100).record(bytes(packet), Outcome(Verdict.DROP, None, view), 18_240, is_reply=False)


def line(stream: io.StringIO) -> str:
    """The only text line, without time stamp and process."""
    (written,) = stream.getvalue().splitlines()
    found = re.fullmatch(r"\S+Z INFO packet\[\d+\]: (.*)", written)
    assert found is not None, written
    return found[1]


def entry(stream: io.StringIO) -> dict[str, object]:
    """The only JSON line, without the fields that every line has."""
    (written,) = stream.getvalue().splitlines()
    found: dict[str, object] = json.loads(written)
    assert found["component"] == "packet"
    return {key: value for key, value in found.items() if key not in {"ts", "level", "component", "pid", "msg"}}


@as_text
def test_an_accepted_packet_names_both_pods_and_the_rule_that_allows_it(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view)
    assert line(stream) == (
        "accept TCP 10.0.0.2:4000 (shop/client) -> 10.0.0.1:80 (shop/web-0): "
        "allowed, ingress allowed by shop/web, spec.ingress[0], 18.2 us"
    )


@as_text
def test_a_denied_packet_names_all_policies_that_isolate(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=OUTSIDER, dst=WEB) / UDP(sport=53, dport=5353), view)
    assert line(stream) == (
        "drop UDP 192.0.2.9:53 -> 10.0.0.1:5353 (shop/web-0): denied, ingress isolated by shop/strict, shop/web, 18.2 us"
    )


@as_text
def test_a_line_names_the_direction_egress(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLOSED, dst=OUTSIDER) / ICMP(), view)
    assert line(stream) == "drop ICMP 10.0.0.3 (shop/closed-0) -> 192.0.2.9: denied, egress isolated by shop/closed, 18.2 us"


@as_text
def test_an_ipv6_address_is_in_brackets_before_its_port(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IPv6(src="fd00::9", dst=WEB6) / TCP(sport=4000, dport=80), view)
    assert line(stream).startswith("drop TCP [fd00::9]:4000 -> [fd00::1]:80 (shop/web-0): denied, ingress")


@as_text
def test_a_packet_between_pods_that_are_not_isolated_has_no_policy(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=WEB, dst=OUTSIDER) / TCP(sport=4000, dport=80), view)
    assert line(stream) == "accept TCP 10.0.0.1:4000 (shop/web-0) -> 192.0.2.9:80: not-isolated, 18.2 us"


@as_text
def test_a_packet_of_a_pod_to_itself_has_its_own_reason(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=WEB, dst=WEB) / TCP(sport=4000, dport=80), view)
    assert ": same-address, " in line(stream)


@as_json
def test_a_line_of_json_has_the_documented_keys(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view)
    assert entry(stream) == KEYS


@as_json
def test_a_default_denial_in_json_lists_the_policies_and_names_none_as_deciding(
    stream: io.StringIO, view: SnapshotReader
) -> None:
    write(IP(src=OUTSIDER, dst=WEB) / TCP(sport=4000, dport=80), view)
    found = entry(stream)
    assert (found["direction"], found["policy"]) == ("ingress", None)
    assert (found["egress"], found["ingress"]) == (None, {"isolated_by": ["shop/strict", "shop/web"]})


@as_json
def test_a_reply_is_logged_as_the_connection_that_it_belongs_to(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=WEB, dst=CLIENT) / TCP(sport=80, dport=4000), view, is_reply=True)
    assert entry(stream) == {**KEYS, "reply": True}


@as_json
def test_all_keys_are_there_for_a_malformed_packet(stream: io.StringIO, view: SnapshotReader) -> None:
    write_undecided(b"\x45", view)
    assert entry(stream) == {
        **dict.fromkeys(KEYS),
        "queue": 100,
        "verdict": "drop",
        "reason": "malformed",
        "reply": False,
        "snapshot": 7,
        "processing_us": 18.2,
    }


@as_json
def test_without_a_snapshot_the_line_says_so(stream: io.StringIO) -> None:
    write_undecided(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), None)
    unknown = dict.fromkeys(("direction", "policy", "ingress", "source_pod", "destination_pod"))
    assert entry(stream) == {**KEYS, **unknown, "verdict": "drop", "reason": "no-snapshot", "snapshot": 0}


@as_json
def test_a_packet_that_could_not_be_evaluated_is_not_logged_as_allowed(stream: io.StringIO, view: SnapshotReader) -> None:
    write_undecided(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view)
    undecided = dict.fromkeys(("direction", "policy", "ingress"))
    assert entry(stream) == {**KEYS, **undecided, "verdict": "drop", "reason": "error"}


def test_a_snapshot_without_pod_names_has_no_name_for_an_address() -> None:
    bare = SnapshotReader(encode(CompiledDelta()))
    assert bare.pod_name(parse_address(WEB)) is None


@as_json
def test_a_flood_is_limited_to_the_rate_and_packets_without_a_line_are_counted(stream: io.StringIO, view: SnapshotReader) -> None:
    clock = Clock()
    packet_log = PacketLog(100, clock)
    packet = IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80)
    outcome = Outcome(Verdict.ACCEPT, evaluated(packet, view), view)

    def lines(count: int) -> int:
        before = len(stream.getvalue().splitlines())
        for _ in range(count):
            packet_log.record(bytes(packet), outcome, 1000, is_reply=False)
        return len(stream.getvalue().splitlines()) - before

    assert lines(1000) == BURST_LINES
    clock.now_s = 0.5
    assert lines(1000) == LINES_PER_S // 2
    clock.now_s = 1000.0
    assert lines(1000) == BURST_LINES, "a long idle time allows no more than one burst"
    for summaries in (1, 0):
        before = len(stream.getvalue().splitlines())
        packet_log.log_suppressed()
        written = stream.getvalue().splitlines()[before:]
        assert len(written) == summaries
        assert all(json.loads(text)["suppressed"] == 3000 - 2 * BURST_LINES - LINES_PER_S // 2 for text in written)
