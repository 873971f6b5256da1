"""The packet reader: where the payload of a packet is, and which packets have none."""

import struct

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq_worker.dns.transport import (
    ACK,
    SYN,
    Connection,
    Transport,
    connection_of_query,
    connection_of_response,
    read_flow,
    read_transport,
)
from netpolq_worker.worker.packet import TCP, UDP
from tests.support.dns_messages import POD, POD6, SERVER, SERVER6, tcp, udp

FAMILIES = pytest.mark.parametrize(("pod", "server"), [(POD, SERVER), (POD6, SERVER6)], ids=["IPv4", "IPv6"])


@FAMILIES
def test_a_datagram_is_read(pod: str, server: str) -> None:
    packet = udp(pod, server, b"hello", 40_000, 53)
    assert read_transport(packet, UDP) == Transport(b"hello", 0, 0)


@FAMILIES
def test_a_segment_is_read(pod: str, server: str) -> None:
    packet = tcp(pod, server, b"hello", (40_000, 53), sequence=0xFFFFFFFF, flags=SYN | ACK)
    assert read_transport(packet, TCP) == Transport(b"hello", 0xFFFFFFFF, SYN | ACK)


@FAMILIES
def test_both_directions_have_one_connection(pod: str, server: str) -> None:
    query, response = read_flow(udp(pod, server, b"", 40_000, 53)), read_flow(udp(server, pod, b"", 53, 40_000))
    assert query is not None
    assert response is not None
    expected = Connection(parse_address(pod), 40_000, parse_address(server), UDP)
    assert connection_of_query(query) == connection_of_response(response) == expected


def test_ipv4_options_are_skipped() -> None:
    packet = udp(POD, SERVER, b"hello", 40_000, 53)
    with_options = bytes([0x46, 0]) + struct.pack("!H", len(packet) + 4) + packet[4:20] + bytes(4) + packet[20:]
    assert read_transport(with_options, UDP) == Transport(b"hello", 0, 0)


def test_bytes_behind_a_datagram_are_no_part_of_it() -> None:
    assert read_transport(udp(POD, SERVER, b"hello", 40_000, 53) + b"tail", UDP) == Transport(b"hello", 0, 0)
    assert read_transport(tcp(POD, SERVER, b"hello", (40_000, 53)) + b"tail", TCP) == Transport(b"hello", 0, 16)


def changed(packet: bytes, offset: int, value: int) -> bytes:
    return packet[:offset] + bytes([value]) + packet[offset + 1 :]


DATAGRAM, SEGMENT = udp(POD, SERVER, b"hello", 40_000, 53), tcp(POD, SERVER, b"hello", (40_000, 53))
DATAGRAM6 = udp(POD6, SERVER6, b"hello", 40_000, 53)


@pytest.mark.parametrize(
    ("packet", "protocol"),
    [
        pytest.param(changed(DATAGRAM, 6, 0x20), UDP, id="a first fragment"),
        pytest.param(changed(DATAGRAM, 7, 1), UDP, id="a later fragment"),
        pytest.param(DATAGRAM[:-1], UDP, id="a datagram that is cut"),
        pytest.param(DATAGRAM[:26], UDP, id="half a UDP header"),
        pytest.param(changed(DATAGRAM, 25, 7), UDP, id="a datagram shorter than its header"),
        pytest.param(changed(DATAGRAM, 25, 100), UDP, id="a datagram longer than the packet"),
        pytest.param(DATAGRAM6[:6] + bytes([44]) + DATAGRAM6[7:], UDP, id="an IPv6 fragment"),
        pytest.param(DATAGRAM6[:6] + bytes([0]) + DATAGRAM6[7:], UDP, id="an IPv6 extension header"),
        pytest.param(SEGMENT[:30], TCP, id="half a TCP header"),
        pytest.param(changed(SEGMENT, 32, 4 << 4), TCP, id="a TCP header that is too short"),
        pytest.param(changed(SEGMENT, 32, 15 << 4), TCP, id="a TCP header longer than the packet"),
        pytest.param(DATAGRAM, 1, id="another protocol"),
        pytest.param(b"", UDP, id="nothing"),
    ],
)
def test_a_packet_without_a_readable_payload_is_not_read(packet: bytes, protocol: int) -> None:
    assert read_transport(packet, protocol) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read(data: bytes) -> None:
    flow = read_flow(data)
    if flow is not None:
        transport = read_transport(data, flow[2])
        assert transport is None or transport.payload in data
