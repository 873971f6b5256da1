"""Packet keys: a packet that finds a stored answer by its key asks the question of that answer."""

import socket

from hypothesis import example, given, settings
from hypothesis import strategies as st

from netpolq_worker.worker.packet import (
    IPV4_KEY,
    IPV6_KEY,
    UNKEYED_PROTOCOLS,
    Key,
    Question,
    key_of,
    parse,
    plain_question,
    question_of,
)
from tests.support.sizes import sized

V4 = [socket.inet_aton(text) for text in ("10.0.0.1", "10.0.0.2")]
V6 = [socket.inet_pton(socket.AF_INET6, text) for text in ("fd00::1", "fd00::2", "::ffff:10.0.0.1")]
PROTOCOLS = st.sampled_from([0, 1, 6, 17, 43, 44, 47, 50, 51, 58, 60, 132, 135])
# Few values, so that packets of different kinds have much in common.
REST = st.binary(max_size=4).flatmap(lambda head: st.sampled_from([head, head + bytes(20), b"\x06\x00" + head + bytes(24)]))


@st.composite
def ipv4(draw: st.DrawFn) -> bytes:
    first = draw(st.sampled_from([0x45, 0x45, 0x46, 0x44, 0x4F]))
    fragment = draw(st.sampled_from([0, 0x4000, 0x2000, 0x0001, 0x4001, 0x1FFF]))
    addresses = draw(st.sampled_from(V4)) + draw(st.sampled_from(V4))
    header = bytes([first, 0, 0, 0, 0, 0]) + fragment.to_bytes(2) + bytes([64, draw(PROTOCOLS), 0, 0]) + addresses
    return header + draw(REST)


@st.composite
def ipv6(draw: st.DrawFn) -> bytes:
    addresses = draw(st.sampled_from(V6)) + draw(st.sampled_from(V6))
    return bytes([0x60, 0, 0, 0, 0, 0, draw(PROTOCOLS), 64]) + addresses + draw(REST)


PACKETS = st.one_of(ipv4(), ipv6(), st.binary(max_size=64))


def taken(packet: bytes) -> Key | None:
    """The key as the packet loop unpacks it."""
    if packet and packet[0] == 0x45 and len(packet) >= IPV4_KEY.size:
        return IPV4_KEY.unpack_from(packet)
    if packet and packet[0] >> 4 == 6 and len(packet) >= IPV6_KEY.size:
        return IPV6_KEY.unpack_from(packet)
    return None


def asked(packet: bytes) -> Question | None:
    flow = parse(packet)
    return None if flow is None else (flow[0], flow[1], flow[2], flow[4])


@settings(max_examples=sized(1000))
@given(st.lists(PACKETS, max_size=30))
# A hop-by-hop header whose first option looks like port 0, after a later fragment whose next header is protocol 0.
@example(
    [
        bytes([0x60, 0, 0, 0, 0, 0, 44, 64]) + V6[0] + V6[1] + bytes([0, 0, 0, 8, 0, 0, 0, 0]),
        bytes([0x60, 0, 0, 0, 0, 0, 0, 64]) + V6[0] + V6[1] + bytes([6, 0, 0, 0, 0, 0, 0, 0]) + bytes(20),
    ]
)
def test_a_stored_key_has_the_question_of_every_packet_that_finds_it(packets: list[bytes]) -> None:
    stored: set[Key] = set()
    for packet in packets:
        key, question = taken(packet), asked(packet)
        if key is not None:
            plain = plain_question(key)
            assert plain is None or plain == question
            if key in stored:
                assert question_of(key) == question
            if plain is not None:
                stored.add(key)
        if question is not None and question[2] not in UNKEYED_PROTOCOLS:
            assert question_of(key_of(question)) == question
            stored.add(key_of(question))
