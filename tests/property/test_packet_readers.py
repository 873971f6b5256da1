"""The packet parser compared with scapy, a reader without common code."""

import socket

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from netpolq_worker.worker.flow_cache import NO_SLOT, FlowCache
from netpolq_worker.worker.packet import COPY_BYTES, IPV4_KEY, IPV6_KEY, Flow, parse
from tests.support.sizes import sized
from tests.unit.worker.test_flow_cache import FRIEND, FRIEND6, view_that_admits

NUMBERS: dict[type[Packet], int] = {
    IPv6ExtHdrHopByHop: 0, TCP: 6, UDP: 17, IPv6ExtHdrRouting: 43, IPv6ExtHdrFragment: 44, AH: 51, ICMPv6EchoRequest: 58,
    IPv6ExtHdrDestOpt: 60, SCTP: 132,
}  # fmt: skip
CLASSES = {number: kind for kind, number in NUMBERS.items()}
EXTENSIONS = (IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting, IPv6ExtHdrFragment, AH)

ports = st.integers(0, 65535)
transports = st.one_of(
    st.builds(lambda source, destination: TCP(sport=source, dport=destination), ports, ports),
    st.builds(lambda source, destination: UDP(sport=source, dport=destination), ports, ports),
    st.builds(lambda source, destination: SCTP(sport=source, dport=destination), ports, ports),
)
ipv4 = st.builds(
    lambda source, destination, options, flags, payload: IP(src=source, dst=destination, options=options, flags=flags) / payload,
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    st.sampled_from([[], [b"\x01" * 4], [b"\x07\x07\x04\x00\x00\x00\x00"], [b"\x01" * 40]]),
    st.sampled_from([0, "DF", "MF"]),
    transports | st.builds(ICMP, id=ports),
)
extensions = st.one_of(
    st.builds(IPv6ExtHdrHopByHop),
    st.builds(lambda length: IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(length))]), st.sampled_from([0, 4, 12, 28])),
    st.builds(lambda count: IPv6ExtHdrRouting(addresses=["fd00::9"] * count), st.integers(0, 2)),
    st.builds(lambda more, number: IPv6ExtHdrFragment(m=more, id=number), st.integers(0, 1), ports),
    st.builds(lambda u32s: AH(payloadlen=1 + u32s, icv=bytes(4 * u32s)), st.sampled_from([3, 5])),
)


@st.composite
def ipv6(draw: st.DrawFn) -> Packet:
    source, destination = draw(st.sampled_from(["fd00::1", "fd00::2", "fd00::3"])), draw(st.sampled_from(["fd00::1", "fd00::2"]))
    packet: Packet = IPv6(src=source, dst=destination)
    headers = [*draw(st.lists(extensions, max_size=3)), draw(transports | st.builds(ICMPv6EchoRequest, id=ports))]
    for header, following in pairwise((packet, *headers)):
        header.nh = NUMBERS[type(following)]  # scapy does not set it for every combination
    for header in headers:
        packet = packet / header
    return packet


def read_by_scapy(data: bytes) -> Flow:
    if data[0] >> 4 == 4:
        packet: Packet = IP(data)
        family, protocol, payload = socket.AF_INET, packet.proto, packet.payload
    else:
        packet = IPv6(data)
        family, protocol, payload = socket.AF_INET6, packet.nh, packet.payload
        while isinstance(payload, EXTENSIONS):
            # scapy does not parse what follows an authentication header.
            of_caller = CLASSES[payload.nh] if isinstance(payload, AH) else type(payload.payload)
            protocol, payload = payload.nh, of_caller(bytes(payload.payload))
    addresses = socket.inet_pton(family, packet.src), socket.inet_pton(family, packet.dst)
    if isinstance(payload, TCP | UDP | SCTP):
        return *addresses, protocol, payload.sport, payload.dport
    assert protocol not in {6, 17, 132}, "scapy could not parse the ports"
    return *addresses, protocol, 0, 0


@settings(max_examples=sized(250))
@given(ipv4 | ipv6())
def test_scapy_reads_the_same_flow(packet: Packet) -> None:
    data = bytes(packet)
    flow = read_by_scapy(data)
    copied = parse(data[:COPY_BYTES])
    assert parse(data) == flow
    assert copied == flow or (copied is None and len(data) > COPY_BYTES)


@settings(max_examples=sized(250))
@given(ipv4 | ipv6(), st.integers(0, 200))
def test_a_truncated_packet_is_malformed_or_has_the_same_flow(packet: Packet, length: int) -> None:
    data = bytes(packet)
    assert parse(data[:length]) in {None, parse(data)}


@settings(max_examples=sized(250))
@given(st.lists(ipv4 | ipv6(), min_size=1, max_size=8), st.data())
def test_the_verdict_by_key_is_the_verdict_of_the_parsed_packet(packets: list[Packet], data: st.DataObject) -> None:
    """After any other packets, and with a changed byte."""
    by_key, by_reading = FlowCache(with_hints=True), FlowCache()
    for flow_cache in (by_key, by_reading):
        flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    for packet in (*packets, *packets, *packets):
        sent = bytearray(bytes(packet)[:COPY_BYTES])
        if data.draw(st.booleans()):
            sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
        flow = parse(bytes(sent))
        found = _answer_by_key(by_key, bytes(sent))
        if flow is None:
            assert found is None, "a packet that cannot be parsed got an answer"
            continue
        question = flow[0], flow[1], flow[2], flow[4]
        answer = by_key.answer(question) if found is None else found
        assert answer & 1 == by_reading.answer(question) & 1


def _answer_by_key(flow_cache: FlowCache, packet: bytes) -> int | None:
    """The answer of the packet loop without parsing the packet; None: it must parse. See `netpolq_worker.worker.packet_loop`."""
    layout = IPV4_KEY if packet[0] == 0x45 else IPV6_KEY if packet[0] >> 4 == 6 else None
    if layout is None or len(packet) < layout.size:
        return None
    key = layout.unpack_from(packet)
    generation = flow_cache.generation
    answer = generation.answers[generation.slots.get(key, NO_SLOT)]
    if answer < 0:
        answer = flow_cache.answer_key(key, answer)
    return answer if answer >= 0 else None
