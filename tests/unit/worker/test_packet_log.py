"""The packet log: the lines in both formats, and their rate limit."""

import io
import json
import re

from collections.abc import Iterator

import pytest

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from netpolq.addresses import parse_address
from netpolq.enums import Action, Direction, LoggingFormat, Tier, Verdict
from netpolq.logs import PACKET_LOG_VERBOSITY
from netpolq.snapshot.ir import Identity, PortTable, Rule, TierProgram
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.packet_log import BURST_LINES, LINES_PER_S, PacketLog
from tests.support.images import Endpoint, Image, encode
from tests.support.logging_output import logging_output

WEB, WEB6, CLIENT, CLOSED, OUTSIDER = "10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3", "192.0.2.9"
KEYS = {
    "queue": 100,
    "verdict": "accept",
    "reason": "allowed",
    "direction": "ingress",
    "policy": "shop/web",
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
    admits = (TierProgram(Tier.NETWORK_POLICY, ("shop/strict", "shop/web"), None, ((0, PortTable(0, (), ())),), None, None),)
    nothing = (TierProgram(Tier.NETWORK_POLICY, ("shop/closed",), None, (), None, None),)
    web, web6, client, closed = (parse_address(text) for text in (WEB, WEB6, CLIENT, CLOSED))
    image = Image(
        rules=(Rule(Tier.NETWORK_POLICY, "shop/web", Direction.INGRESS, 0, Action.ACCEPT),),
        identities=(Identity((0,), ()),),
        addresses={client: 0},
        endpoints={web: Endpoint(None, admits), web6: Endpoint(None, admits), closed: Endpoint(nothing, None)},
        pod_names={web: "shop/web-0", web6: "shop/web-0", client: "shop/client", closed: "shop/closed-0"},
    )
    return SnapshotReader(encode(image, version=7, created_ns=0))


@pytest.fixture(params=LoggingFormat)
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """The log, in the format that the test is run for."""
    with logging_output(request.param, PACKET_LOG_VERBOSITY) as written:
        yield written


as_text = pytest.mark.parametrize("stream", [LoggingFormat.TEXT], indirect=True)
as_json = pytest.mark.parametrize("stream", [LoggingFormat.JSON], indirect=True)


def write(
    packet: Packet | bytes, view: SnapshotReader | None, verdict: Verdict | None = Verdict.ACCEPT, *, is_reply: bool = False
) -> None:
    packet_log = PacketLog(100)
    prepared = packet_log.prepare(lambda: bytes(packet), view, is_reply=is_reply)
    assert prepared is not None
    packet_log.write(prepared, verdict, Verdict.DROP, 18_240)


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
def test_an_accepted_packet_names_both_pods_and_the_policy_of_the_deciding_rule(
    stream: io.StringIO, view: SnapshotReader
) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view)
    assert line(stream) == (
        "accept TCP 10.0.0.2:4000 (shop/client) -> 10.0.0.1:80 (shop/web-0): allowed by ingress policy shop/web, 18.2 us"
    )


@as_text
def test_a_denied_packet_names_the_first_policy_that_isolates(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=OUTSIDER, dst=WEB) / UDP(sport=53, dport=5353), view, Verdict.DROP)
    assert line(stream) == ("drop UDP 192.0.2.9:53 -> 10.0.0.1:5353 (shop/web-0): denied by ingress policy shop/strict, 18.2 us")


@as_text
def test_a_line_names_the_direction_egress(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLOSED, dst=OUTSIDER) / ICMP(), view, Verdict.DROP)
    assert line(stream) == "drop ICMP 10.0.0.3 (shop/closed-0) -> 192.0.2.9: denied by egress policy shop/closed, 18.2 us"


@as_text
def test_an_ipv6_address_is_in_brackets_before_its_port(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IPv6(src="fd00::9", dst=WEB6) / TCP(sport=4000, dport=80), view, Verdict.DROP)
    assert line(stream).startswith("drop TCP [fd00::9]:4000 -> [fd00::1]:80 (shop/web-0): denied by")


@as_text
def test_a_packet_between_pods_that_are_not_isolated_has_no_policy(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=WEB, dst=OUTSIDER) / TCP(sport=4000, dport=80), view)
    assert line(stream) == "accept TCP 10.0.0.1:4000 (shop/web-0) -> 192.0.2.9:80: not-isolated, 18.2 us"


@as_json
def test_a_line_of_json_has_the_documented_keys(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view)
    assert entry(stream) == KEYS


@as_json
def test_a_reply_is_logged_as_the_connection_that_it_belongs_to(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=WEB, dst=CLIENT) / TCP(sport=80, dport=4000), view, is_reply=True)
    assert entry(stream) == {**KEYS, "reply": True}


@as_json
def test_all_keys_are_there_when_nothing_is_known(stream: io.StringIO, view: SnapshotReader) -> None:
    write(b"\x45", view, Verdict.DROP)
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
def test_without_a_snapshot_the_verdict_is_that_of_the_failure_mode(stream: io.StringIO) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), None, None)
    unknown = dict.fromkeys(("direction", "policy", "source_pod", "destination_pod"))
    assert entry(stream) == {**KEYS, **unknown, "verdict": "drop", "reason": "no-snapshot", "snapshot": 0}


@as_json
def test_a_packet_that_could_not_be_evaluated_is_not_logged_as_allowed(stream: io.StringIO, view: SnapshotReader) -> None:
    write(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80), view, None)
    assert entry(stream) == {**KEYS, "verdict": "drop", "reason": "error", "direction": None, "policy": None}


def test_a_snapshot_without_pod_names_has_no_name_for_an_address() -> None:
    bare = SnapshotReader(encode(Image(), version=1, created_ns=0))
    assert bare.pod_name(parse_address(WEB)) is None


@as_text
def test_a_packet_that_cannot_be_described_is_one_line_and_no_error(stream: io.StringIO, view: SnapshotReader) -> None:
    view.close()
    assert PacketLog(100).prepare(lambda: bytes(IP(src=CLIENT, dst=WEB) / TCP()), view, is_reply=False) is None
    assert "cannot describe a packet" in stream.getvalue()


@as_json
def test_a_flood_is_limited_to_the_rate_and_packets_without_a_line_are_counted(stream: io.StringIO, view: SnapshotReader) -> None:
    clock = Clock()
    packet_log = PacketLog(100, clock)
    packet = bytes(IP(src=CLIENT, dst=WEB) / TCP(sport=4000, dport=80))

    def lines(count: int) -> int:
        return sum(packet_log.prepare(lambda: packet, view, is_reply=False) is not None for _ in range(count))

    assert lines(1000) == BURST_LINES
    clock.now_s = 0.5
    assert lines(1000) == LINES_PER_S // 2
    clock.now_s = 1000.0
    assert lines(1000) == BURST_LINES, "a long idle time allows no more than one burst"
    packet_log.log_suppressed()
    assert entry(stream) == {"queue": 100, "suppressed": 3000 - 2 * BURST_LINES - LINES_PER_S // 2}
    packet_log.log_suppressed()
    assert len(stream.getvalue().splitlines()) == 1
