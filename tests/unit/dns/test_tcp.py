"""Reassembly: every order, overlap and split of segments gives the same messages, within bounds."""

import random
import struct

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq_worker.dns import tcp
from netpolq_worker.dns.outcomes import MessageKind
from netpolq_worker.dns.tcp import (
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_POD,
    MAX_EARLY_SEGMENTS,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGES,
    Stream,
    StreamLost,
    TcpConnections,
)
from netpolq_worker.dns.transport import ACK, FIN, RST, SYN, Connection, Transport
from netpolq_worker.worker.packet import TCP
from tests.support.dns_messages import POD, SERVER, with_length

QUERY, RESPONSE = MessageKind.QUERY, MessageKind.RESPONSE
CONNECTION = Connection(parse_address(POD), 40_000, parse_address(SERVER), TCP)
STARTS = pytest.mark.parametrize("start", [0, 1000, 0xFFFFFFFE, 0x7FFFFFFF], ids=hex)


@STARTS
def test_messages_are_read_from_any_split_of_the_stream(start: int) -> None:
    data = with_length(b"first", b"", b"second message", b"x")
    for cut in range(len(data) + 1):
        stream = Stream(start)
        assert stream.feed(start, data[:cut], 0) + stream.feed((start + cut) & 0xFFFFFFFF, data[cut:], 0) == [
            b"first",
            b"",
            b"second message",
            b"x",
        ]
        assert stream.size == 0


def test_a_message_comes_byte_by_byte() -> None:
    stream, data = Stream(0), with_length(b"message")
    read = [stream.feed(place, data[place : place + 1], 0) for place in range(len(data))]
    assert read == [[]] * (len(data) - 1) + [[b"message"]]


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.tuples(st.integers(0, 330), st.integers(1, 80)), max_size=20),
    st.integers(0, 0xFFFFFFFF),
    st.randoms(use_true_random=False),
)
def test_order_copies_and_overlaps_change_nothing(
    messages: list[bytes], extra: list[tuple[int, int]], start: int, order: random.Random
) -> None:
    data = with_length(*messages)
    pieces = [(place, place + 7) for place in range(0, len(data), 7)]
    pieces += [(place % (len(data) + 1), place % (len(data) + 1) + length) for place, length in extra]
    order.shuffle(pieces)
    stream = Stream(start)
    read = [message for begin, end in pieces for message in stream.feed((start + begin) & 0xFFFFFFFF, data[begin:end], 0)]
    assert read == messages
    assert stream.size == 0


def test_a_byte_that_was_received_stays_as_it_was() -> None:
    stream, data = Stream(0), with_length(b"true")
    stream.feed(0, data[:4], 0)
    assert stream.feed(0, with_length(b"LIES"), 0) == [b"trES"], "of the second segment, only the new bytes count"


def test_of_two_early_segments_at_one_place_the_longer_is_kept() -> None:
    data = with_length(b"message")
    for first, second in ((9, 5), (5, 9)):
        stream = Stream(0)
        stream.feed(2, data[2:first], 0)
        stream.feed(2, data[2:second], 0)
        assert stream.size == 7
        assert stream.feed(0, data[:2], 0) == [b"message"]


def test_early_segments_are_bounded_in_number_and_bytes() -> None:
    stream = Stream(0)
    for number in range(MAX_EARLY_SEGMENTS):
        stream.feed(10 + 2 * number, b"x", 0)
    with pytest.raises(StreamLost):
        stream.feed(9, b"x", 0)
    stream = Stream(0)
    stream.feed(10, bytes(MAX_MESSAGE_BYTES), 0)
    with pytest.raises(StreamLost):
        stream.feed(9, b"x", 0)


def test_the_longest_message_is_read_and_many_in_one_segment_are_not() -> None:
    longest = bytes(0xFFFF)
    assert Stream(0).feed(0, with_length(longest), 0) == [longest]
    assert len(Stream(0).feed(0, bytes(2 * MAX_MESSAGES), 0)) == MAX_MESSAGES
    with pytest.raises(StreamLost):
        Stream(0).feed(0, bytes(2 * MAX_MESSAGES + 2), 0)


# --- connections --------------------------------------------------------------------------------------------------------------------


class Talk:
    """A connection of a pod and a server, with the sequence numbers of both."""

    def __init__(self, connections: TcpConnections, connection: Connection = CONNECTION, start: int = 0xFFFFFFF0) -> None:
        self.connections = connections
        self.connection = connection
        self.next = {QUERY: start, RESPONSE: start + 77}

    def open(self) -> None:
        self.send(QUERY, flags=SYN)
        self.send(RESPONSE, flags=SYN | ACK)

    def send(self, kind: MessageKind, data: bytes = b"", flags: int = ACK) -> list[bytes] | None:
        segment = Transport(data, self.next[kind] & 0xFFFFFFFF, flags)
        self.next[kind] += len(data) + bool(flags & SYN) + bool(flags & FIN)
        return self.connections.receive(self.connection, kind, segment)


def opened() -> Talk:
    talk = Talk(TcpConnections())
    talk.open()
    return talk


def test_both_directions_are_read() -> None:
    talk = opened()
    assert talk.send(QUERY, with_length(b"question")) == [b"question"]
    assert talk.send(RESPONSE, with_length(b"answer")[:3]) == []
    assert talk.send(QUERY, with_length(b"another")) == [b"another"]
    assert talk.send(RESPONSE, with_length(b"answer")[3:]) == [b"answer"]


def test_data_in_a_syn_is_read() -> None:
    """TCP fast open (RFC 7413)."""
    talk = Talk(TcpConnections())
    assert talk.send(QUERY, with_length(b"question"), SYN) == [b"question"]


def test_a_connection_that_began_before_is_not_followed() -> None:
    talk = Talk(TcpConnections())
    assert talk.send(QUERY, with_length(b"question")) is None
    assert talk.send(RESPONSE, with_length(b"answer")) is None
    assert talk.send(RESPONSE, flags=SYN | ACK) is None
    assert len(talk.connections) == 0


def test_a_repeated_syn_changes_nothing() -> None:
    talk = opened()
    talk.send(QUERY, with_length(b"question")[:4])
    talk.connections.receive(CONNECTION, QUERY, Transport(b"", 0xFFFFFFF0, SYN))
    talk.send(RESPONSE, with_length(b"answer")[:4])
    talk.connections.receive(CONNECTION, RESPONSE, Transport(b"", (0xFFFFFFF0 + 77) & 0xFFFFFFFF, SYN | ACK))
    assert talk.send(QUERY, with_length(b"question")[4:]) == [b"question"]
    assert talk.send(RESPONSE, with_length(b"answer")[4:]) == [b"answer"]


def test_the_port_of_a_pod_is_used_again() -> None:
    first = opened()
    first.send(QUERY, with_length(b"question")[:4])
    second = Talk(first.connections, start=5000)
    second.open()
    assert second.send(QUERY, with_length(b"another")) == [b"another"]
    assert first.connections.waiting_bytes == 0


@pytest.mark.parametrize("kind", MessageKind)
def test_a_reset_ends_a_connection(kind: MessageKind) -> None:
    talk = opened()
    talk.send(RESPONSE, b"\0")
    talk.send(kind, flags=RST | ACK)
    assert (len(talk.connections), talk.connections.waiting_bytes) == (0, 0)
    assert talk.send(RESPONSE, with_length(b"answer")) is None


def test_a_connection_ends_with_the_second_fin() -> None:
    talk = opened()
    assert talk.send(QUERY, with_length(b"question"), FIN | ACK) == [b"question"]
    assert talk.send(RESPONSE, with_length(b"answer")) == [b"answer"]
    assert len(talk.connections) == 1
    talk.send(RESPONSE, flags=FIN | ACK)
    assert len(talk.connections) == 0


def test_a_fin_that_overtakes_data_ends_nothing() -> None:
    talk = opened()
    talk.send(QUERY, flags=FIN | ACK)
    late = talk.next[RESPONSE]
    data = with_length(b"answer")
    assert talk.connections.receive(CONNECTION, RESPONSE, Transport(b"", late + len(data) & 0xFFFFFFFF, FIN | ACK)) == []
    assert talk.send(RESPONSE, data) == [b"answer"]


def test_a_connection_whose_bound_is_exceeded_is_not_followed_any_more() -> None:
    talk = opened()
    talk.next[RESPONSE] += 10
    assert talk.send(RESPONSE, bytes(MAX_MESSAGE_BYTES)) == []
    assert talk.send(RESPONSE, b"x") is None
    assert (len(talk.connections), talk.connections.waiting_bytes) == (0, 0)


def test_connections_are_bounded_for_each_pod_and_in_all() -> None:
    connections = TcpConnections()
    for port in range(MAX_CONNECTIONS_OF_POD + 5):
        Talk(connections, CONNECTION._replace(pod_port=port)).send(QUERY, b"\0", SYN)
    assert len(connections) == connections.waiting_bytes == MAX_CONNECTIONS_OF_POD
    for number in range(MAX_CONNECTIONS):
        Talk(connections, CONNECTION._replace(pod=struct.pack("!QQ", 0, number))).send(QUERY, b"\0", SYN)
    assert len(connections) == connections.waiting_bytes == MAX_CONNECTIONS


def test_bytes_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_TOTAL_BYTES", 1000)
    connections = TcpConnections()
    talks = [Talk(connections, CONNECTION._replace(pod_port=port)) for port in range(3)]
    for talk in talks:
        talk.open()
        talk.send(RESPONSE, b"\xff" * 400)
    assert (len(connections), connections.waiting_bytes) == (2, 800)
    assert talks[0].send(RESPONSE, b"x") is None, "the oldest connection made room"
