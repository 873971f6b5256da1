"""The packet parser."""

import socket

import pytest

from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from netpolq_worker.worker.packet import COPY_BYTES, parse

V4 = socket.inet_aton("10.1.2.3"), socket.inet_aton("10.4.5.6")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1"), socket.inet_pton(socket.AF_INET6, "fd00::2")
IP4 = IP(src="10.1.2.3", dst="10.4.5.6")
IP6 = IPv6(src="fd00::1", dst="fd00::2")


def as_copied(packet: Packet) -> bytes:
    """The bytes of a packet that the kernel copies."""
    return bytes(packet)[:COPY_BYTES]


@pytest.mark.parametrize(
    ("packet", "flow"),
    [
        (IP4 / TCP(sport=1234, dport=80) / Raw(b"x" * 500), (*V4, 6, 1234, 80)),
        (IP4 / UDP(sport=53, dport=5353), (*V4, 17, 53, 5353)),
        (IP4 / SCTP(sport=7, dport=9), (*V4, 132, 7, 9)),
        (IP4 / ICMP(), (*V4, 1, 0, 0)),
        (IP(src="10.1.2.3", dst="10.4.5.6", proto=47) / Raw(b"gre payload"), (*V4, 47, 0, 0)),
        (IP(src="10.1.2.3", dst="10.4.5.6", options=[b"\x01" * 40]) / TCP(sport=1, dport=2), (*V4, 6, 1, 2)),
        (IP(src="10.1.2.3", dst="10.4.5.6", flags="MF") / UDP(sport=1, dport=2), (*V4, 17, 1, 2)),
        (IP(src="10.1.2.3", dst="10.4.5.6", frag=10, proto=17) / Raw(b"\x00\x01\x00\x02data"), (*V4, 17, 0, 0)),
        (IP6 / TCP(sport=1234, dport=443), (*V6, 6, 1234, 443)),
        (IP6 / ICMPv6EchoRequest(), (*V6, 58, 0, 0)),
        (IP6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=5, dport=6), (*V6, 17, 5, 6)),
        (IP6 / IPv6ExtHdrRouting() / TCP(sport=5, dport=6), (*V6, 6, 5, 6)),
        (IP6 / AH(nh=6, payloadlen=4, icv=b"\x00" * 12) / TCP(sport=5, dport=6), (*V6, 6, 5, 6)),
        # The kernel skips none of these three headers.
        (
            IPv6(src="fd00::1", dst="fd00::2", nh=135) / Raw(b"\x06\x00" + bytes(6) + bytes(TCP(sport=5, dport=6))),
            (*V6, 135, 0, 0),
        ),
        (
            IPv6(src="fd00::1", dst="fd00::2", nh=139) / Raw(b"\x06\x00" + bytes(6) + bytes(TCP(sport=5, dport=6))),
            (*V6, 139, 0, 0),
        ),
        (
            IPv6(src="fd00::1", dst="fd00::2", nh=140) / Raw(b"\x06\x00" + bytes(6) + bytes(TCP(sport=5, dport=6))),
            (*V6, 140, 0, 0),
        ),
        (IP6 / IPv6ExtHdrFragment(m=1) / UDP(sport=5, dport=6), (*V6, 17, 5, 6)),
        (IP6 / IPv6ExtHdrFragment(offset=3, nh=6) / Raw(b"\x00\x05\x00\x06rest"), (*V6, 6, 0, 0)),
    ],
    ids=lambda value: value.summary()[:50] if isinstance(value, Packet) else "",
)
def test_a_flow_has_the_values_of_the_headers(packet: Packet, flow: tuple[bytes, bytes, int, int, int]) -> None:
    assert parse(as_copied(packet)) == flow


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x45",
        bytes(IP4 / TCP())[:19],
        bytes(IP4 / TCP())[:22],
        b"\x44" + bytes(IP4 / TCP())[1:],
        b"\x4f" + bytes(IP4 / TCP())[1:40],
        b"\x15" + bytes(IP4 / TCP())[1:],
        bytes(IP6 / TCP())[:39],
        bytes(IP6 / TCP())[:43],
        bytes(IP6 / IPv6ExtHdrHopByHop() / TCP())[:41],
        bytes(IP6 / IPv6ExtHdrDestOpt(len=255) / TCP()),
        bytes(IP6 / IPv6ExtHdrFragment() / TCP())[:46],
        bytes(IPv6(src="::ffff:10.1.2.3", dst="fd00::2") / TCP()),
        bytes(IPv6(src="fd00::1", dst="::ffff:10.4.5.6") / TCP()),
    ],
    ids=range(14),
)
def test_a_packet_that_cannot_be_read_is_malformed(data: bytes) -> None:
    assert parse(data) is None


@given(st.binary(max_size=COPY_BYTES))
@example(b"\x60" + b"\x00" * 127)
def test_the_parser_raises_for_no_bytes(data: bytes) -> None:
    flow = parse(data)
    if flow is not None:
        source, destination, protocol, source_port, destination_port = flow
        assert len(source) == len(destination) == (4 if data[0] >> 4 == 4 else 16)
        assert 0 <= protocol <= 255
        assert 0 <= source_port <= 65535
        assert 0 <= destination_port <= 65535
