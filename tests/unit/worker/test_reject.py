"""Answers to denied packets: which packets get one, and what it says. scapy reads and checks them."""

import socket

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from netpolq_worker.worker.packet import COPY_BYTES
from netpolq_worker.worker.reject import Destination, answer_to, answerable
from tests.support.sizes import sized

CLIENT, POD, SERVICE = "10.0.0.2", "10.0.0.1", "10.96.0.1"
CLIENT6, POD6, SERVICE6 = "fd00::2", "fd00::1", "fd96::1"
V4, V6 = IP(src=CLIENT, dst=POD), IPv6(src=CLIENT6, dst=POD6)
FAMILIES = pytest.mark.parametrize("network", [V4, V6], ids=["IPv4", "IPv6"])
ports, sequences = st.integers(1, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def answered(packet: Packet | bytes, asked: Destination | None = None) -> Packet | None:
    """The answer as scapy reads it, its checksums compared with those that scapy computes."""
    denied = answerable(bytes(packet)[:COPY_BYTES])
    if denied is None:
        return None
    built = answer_to(denied, asked or denied.destination)
    if built is None:
        return None
    read = (IP if built[0] >> 4 == 4 else IPv6)(built)
    again = read.copy()
    for layer in (IP, TCP, ICMP, ICMPv6DestUnreach):
        if again.haslayer(layer):
            del again[layer].fields["cksum" if layer is ICMPv6DestUnreach else "chksum"]
    for length in ("len", "plen"):
        again.fields.pop(length, None)
    assert bytes(again) == built, "a checksum or a length is wrong"
    return read


def ends(answer: Packet) -> tuple[str, str]:
    return answer.src, answer.dst


@FAMILIES
@given(
    source=ports,
    port=ports,
    sequence=sequences,
    acknowledged=sequences,
    flags=st.integers(0, 0xFF),
    data=st.binary(max_size=1400),
)
def test_a_segment_is_reset_as_rfc_9293_says(
    network: Packet, source: int, port: int, sequence: int, acknowledged: int, flags: int, data: bytes
) -> None:
    segment = TCP(sport=source, dport=port, seq=sequence, ack=acknowledged, flags=flags) / data
    answer = answered(network / segment)
    flag = segment.flags
    if flag.R:
        assert answer is None
        return
    assert answer is not None
    assert ends(answer) == (network.dst, network.src)
    reset = answer[TCP]
    assert (reset.sport, reset.dport, reset.dataofs, bytes(reset.payload)) == (port, source, 5, b"")
    if flag.A:
        assert (reset.flags, reset.seq, reset.ack) == ("R", acknowledged, 0)
    else:
        after = sequence + len(data) + bool(flag.S) + bool(flag.F)
        assert (reset.flags, reset.seq, reset.ack) == ("RA", 0, after & 0xFFFFFFFF)


def test_options_of_a_segment_are_no_data() -> None:
    answer = answered(V4 / TCP(flags="S", seq=7, options=[("MSS", 1460), ("WScale", 7)]))
    assert answer is not None
    assert answer[TCP].ack == 8


@FAMILIES
@given(source=ports, port=ports, data=st.binary(max_size=300))
def test_a_datagram_is_answered_with_its_beginning(network: Packet, source: int, port: int, data: bytes) -> None:
    sent = bytes(network / UDP(sport=source, dport=port) / data)
    answer = answered(sent)
    assert answer is not None
    assert ends(answer) == (network.dst, network.src)
    error = answer[ICMP] if network is V4 else answer[ICMPv6DestUnreach]
    assert (error.type, error.code) == ((3, 13) if network is V4 else (1, 1))
    assert bytes(error.payload) == sent[:COPY_BYTES]


@pytest.mark.parametrize(
    ("packet", "inner"),
    [
        (V4 / SCTP(dport=9), IPerror),
        (V4 / ICMP(type=8), ICMPerror),
        (V6 / ICMPv6EchoRequest(), IPerror6),
        (IP(src=CLIENT, dst=POD, proto=47) / b"gre", IPerror),
    ],
    ids=["SCTP", "ping", "ping6", "GRE"],
)
def test_other_protocols_get_an_icmp_error(packet: Packet, inner: type[Packet]) -> None:
    answer = answered(packet)
    assert answer is not None
    assert answer.haslayer(inner)


OPTIONS = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"x")])


@pytest.mark.parametrize(
    ("network", "as_sent"),
    [
        (V4, IP(src=CLIENT, dst=SERVICE)),
        (V6, IPv6(src=CLIENT6, dst=SERVICE6)),
        (V6 / OPTIONS, IPv6(src=CLIENT6, dst=SERVICE6) / OPTIONS),
    ],
    ids=["IPv4", "IPv6", "options"],
)
@settings(max_examples=50)
@given(port=ports, asked=ports, data=st.binary(max_size=60), has_checksum=st.booleans())
def test_the_answer_names_the_destination_that_the_client_has_asked_for(
    network: Packet, as_sent: Packet, port: int, asked: int, data: bytes, has_checksum: bool
) -> None:
    """The quoted datagram is the one that the client has sent, with its checksums."""
    checksum = None if has_checksum or network is not V4 else 0
    destination = Destination(packed(as_sent.dst), asked)
    reset = answered(network / TCP(sport=5, dport=port, flags="S"), destination)
    assert reset is not None
    assert (*ends(reset), reset[TCP].sport) == (as_sent.dst, network.src, asked)
    error = answered(network / UDP(sport=5, dport=port, chksum=checksum) / data, destination)
    assert error is not None
    assert ends(error) == (as_sent.dst, network.src)
    quoted = bytes(error[ICMP if network is V4 else ICMPv6DestUnreach].payload)
    assert quoted == bytes(as_sent / UDP(sport=5, dport=asked, chksum=checksum) / data)


def test_a_checksum_that_comes_out_as_zero_is_not_read_as_none() -> None:
    """Source: RFC 768: such a checksum is sent as all ones."""
    as_sent = IP(src=CLIENT, dst=SERVICE) / UDP(sport=5, dport=6)
    complement = bytes(as_sent / b"\x00\x00")[26:28]
    error = answered(V4 / UDP(sport=5, dport=7) / complement, Destination(packed(SERVICE), 6))
    assert error is not None
    assert bytes(error[ICMP].payload)[26:28] == b"\xff\xff"


UNSUITABLE: dict[str, Packet | bytes] = {
    "RST": V4 / TCP(flags="R"),
    "RST with ACK": V6 / TCP(flags="RA"),
    "ICMP error": V4 / ICMP(type=3, code=1) / IPerror(src=POD, dst=CLIENT) / UDPerror(),
    "ICMP redirect": V4 / ICMP(type=5) / IPerror(src=POD, dst=CLIENT) / TCPerror(),
    "time exceeded": V4 / ICMP(type=11) / IPerror(src=POD, dst=CLIENT) / TCPerror(),
    "ICMPv6 error": V6 / ICMPv6PacketTooBig() / IPerror6(src=POD6, dst=CLIENT6) / UDPerror(),
    "ICMPv6 redirect": V6 / ICMPv6ND_Redirect(),
    "later fragment": IP(src=CLIENT, dst=POD, frag=3, proto=17) / Raw(b"x" * 32),
    "later fragment of IPv6": V6 / IPv6ExtHdrFragment(offset=3, nh=17) / Raw(b"x" * 32),
    "multicast": IP(src=CLIENT, dst="224.0.0.1") / UDP(),
    "multicast of IPv6": IPv6(src=CLIENT6, dst="ff02::1") / UDP(),
    "broadcast": IP(src=CLIENT, dst="255.255.255.255") / UDP(),
    "from multicast": IP(src="224.0.0.1", dst=POD) / TCP(flags="S"),
    "from multicast of IPv6": IPv6(src="ff02::1", dst=POD6) / UDP(),
    "from broadcast": IP(src="255.255.255.255", dst=POD) / UDP(),
    "from nowhere": IP(src="0.0.0.0", dst=POD) / UDP(),  # noqa: S104  # not an address to bind
    "from nowhere in IPv6": IPv6(src="::", dst=POD6) / UDP(),
    "from loopback": IP(src="127.0.0.1", dst=POD) / UDP(),
    "from loopback of IPv6": IPv6(src="::1", dst=POD6) / UDP(),
    "IPv4-mapped": IPv6(src="::ffff:10.0.0.2", dst=POD6) / UDP(),
    "short TCP": bytes(V4 / TCP(flags="S"))[:36],
    "short UDP": bytes(V4 / UDP())[:26],
    "no type": bytes(V4 / ICMP())[:20],
    "TCP with a short offset": V4 / TCP(flags="S", dataofs=4),
    "TCP behind its end": V4 / TCP(flags="S", dataofs=15),
    "IP of length 0": IP(src=CLIENT, dst=POD, len=0) / TCP(flags="S"),
    "IP shorter than its header": IP(src=CLIENT, dst=POD, len=19) / UDP(),
    "GRE shorter than its header": IP(src=CLIENT, dst=POD, len=19, proto=47) / b"gre",
    "jumbogram": IPv6(src=CLIENT6, dst=POD6, plen=0) / UDP(),
}


@pytest.mark.parametrize("packet", UNSUITABLE.values(), ids=UNSUITABLE)
def test_a_packet_that_a_host_must_not_answer_gets_no_answer(packet: Packet | bytes) -> None:
    assert answered(packet) is None


@FAMILIES
def test_a_first_fragment_is_answered(network: Packet) -> None:
    first = IP(src=CLIENT, dst=POD, flags="MF") / UDP() if network is V4 else V6 / IPv6ExtHdrFragment(m=1) / UDP()
    assert answered(first) is not None


def test_bytes_behind_the_packet_are_not_quoted() -> None:
    packet = bytes(V4 / UDP() / b"data")
    error = answered(packet + b"padding")
    assert error is not None
    assert bytes(error[ICMP].payload) == packet


@settings(max_examples=sized(500))
@given(st.binary(max_size=COPY_BYTES + 20), st.sampled_from([b"", b"\x45", b"\x60", b"\x4f"]))
def test_any_bytes_get_a_readable_answer_or_none(data: bytes, start: bytes) -> None:
    answered(start + data)


@settings(max_examples=sized(500))
@given(st.data())
def test_any_change_of_a_packet_gets_a_readable_answer_or_none(data: st.DataObject) -> None:
    whole = [V4 / TCP(flags="S"), V6 / TCP(flags="S"), V4 / UDP() / b"abc", *UNSUITABLE.values()]
    packet = bytearray(data.draw(st.sampled_from([bytes(one) for one in whole])))
    for _ in range(data.draw(st.integers(1, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    answered(bytes(packet)[: data.draw(st.integers(0, len(packet)))])
