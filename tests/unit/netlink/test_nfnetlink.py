"""Answers of nfnetlink: whole ones, refusals, interrupted dumps, and malformed bytes, received from a socket."""

import contextlib
import errno
import socket
import struct

from collections.abc import Callable, Iterator

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.netlink.attributes import MalformedMessageError, attribute
from netpolq.netlink.nfnetlink import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    Entry,
    attributes_of,
    dump,
    message,
    next_sequence,
    query,
    read_acknowledgements,
    split,
)

KIND = 0x0A01
OBJECT = b"\x02\x00\x00\x00" + attribute(1, b"name")
DONE = struct.pack("=i", 0)


class Peer:
    """The kernel's end of a socket: answers are sent before the request is made. `client`: the end of the code under test."""

    def __init__(self) -> None:
        self.client, self._kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.settimeout(5)

    def close(self) -> None:
        self.client.close()
        self._kernel.close()

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self._kernel.send(data)


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def answer(kind: int, body: bytes, *, sequence: int, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def coming_sequence(later: int = 1) -> int:
    """The sequence number of a request that is made after this call."""
    return next_sequence() + later


def refusal(number: int) -> bytes:
    return struct.pack("=i", -number)


def read_dump(netlink: socket.socket) -> object:
    return dump(netlink, KIND)


def read_query(netlink: socket.socket) -> object:
    return query(netlink, KIND)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(message(KIND)[:15], "15 bytes are left where a message begins", id="half a header"),
        pytest.param(struct.pack("=IHHII", 15, KIND, 0, 0, 0), "message of kind 0xa01 claims 15 of 16 bytes", id="too short"),
        pytest.param(message(KIND)[:-1], "message of kind 0xa01 claims 20 of 19 bytes", id="cut"),
    ],
)
def test_a_datagram_is_split_up_to_a_malformed_message(data: bytes, problem: str) -> None:
    messages = split(message(0x0A0F, sequence=1) + data)
    kind, _flags, sequence, _port, _body = next(messages)
    assert (kind, sequence) == (0x0A0F, 1)
    with pytest.raises(MalformedMessageError) as refused:
        next(messages)
    assert refused.value.strerror == problem


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=40).map(lambda body: answer(KIND, body, sequence=1))))
def test_any_bytes_are_messages_or_one_kind_of_error(data: bytes) -> None:
    with contextlib.suppress(MalformedMessageError):
        for _kind, _flags, _sequence, _port, body in split(data):
            attributes_of(body)


def test_a_dump_has_the_objects_of_its_request_alone(peer: Peer) -> None:
    sequence = coming_sequence()
    peer.send(
        answer(KIND, OBJECT, sequence=sequence - 1) + answer(KIND, OBJECT, sequence=sequence),
        answer(NLMSG_DONE, DONE, sequence=sequence - 1),
        answer(NLMSG_DONE, DONE, sequence=sequence),
    )
    assert dump(peer.client, KIND) == [Entry(2, attributes_of(OBJECT))]


def test_a_dump_is_repeated_when_objects_changed_meanwhile(peer: Peer) -> None:
    sequence = coming_sequence()
    peer.send(
        answer(KIND, OBJECT, sequence=sequence, flags=NLM_F_DUMP_INTR),
        answer(NLMSG_DONE, DONE, sequence=sequence),
        answer(NLMSG_DONE, DONE, sequence=sequence + 1),
    )
    assert dump(peer.client, KIND) == []


@pytest.mark.parametrize("read", [read_dump, read_query])
def test_a_refusal_is_the_kernels_error(peer: Peer, read: Callable[[socket.socket], object]) -> None:
    peer.send(answer(NLMSG_ERROR, refusal(errno.ENOENT), sequence=coming_sequence()))
    with pytest.raises(FileNotFoundError):
        read(peer.client)


def test_acknowledgements_are_awaited_among_other_messages(peer: Peer) -> None:
    peer.send(answer(KIND, b"", sequence=0), *(answer(NLMSG_ERROR, refusal(0), sequence=number) for number in (2, 7, 1)))
    read_acknowledgements(peer.client, {1, 2})
    peer.send(answer(NLMSG_ERROR, refusal(errno.EPERM), sequence=3))
    with pytest.raises(PermissionError):
        read_acknowledgements(peer.client, {3, 4})


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        pytest.param(NLMSG_ERROR, b"", "acknowledgement has 0 bytes instead of at least 4", id="no error number"),
        pytest.param(NLMSG_ERROR, struct.pack("=i", 1), "acknowledgement has error 1", id="positive error"),
        pytest.param(NLMSG_ERROR, struct.pack("=i", -(1 << 31)), "acknowledgement has error -2147483648", id="huge error"),
        pytest.param(KIND, b"\x02", "message has 1 bytes instead of at least 4", id="no family"),
    ],
)
def test_a_malformed_answer_is_an_error(peer: Peer, kind: int, body: bytes, problem: str) -> None:
    for read in (read_dump, read_query):
        sequence = coming_sequence()
        peer.send(answer(kind, body, sequence=sequence) + answer(NLMSG_DONE, DONE, sequence=sequence))
        with pytest.raises(MalformedMessageError) as refused:
            read(peer.client)
        assert refused.value.strerror == problem


def test_an_acknowledgement_is_no_object(peer: Peer) -> None:
    peer.send(answer(NLMSG_ERROR, refusal(0), sequence=coming_sequence()))
    with pytest.raises(MalformedMessageError, match="acknowledgement instead of an object"):
        read_query(peer.client)


@given(
    st.sampled_from([read_dump, read_query]),
    st.sampled_from([KIND, NLMSG_ERROR, NLMSG_DONE]),
    st.binary(max_size=40),
    st.binary(max_size=20),
)
def test_any_answer_ends_a_request_with_a_result_or_an_error(
    read: Callable[[socket.socket], object], kind: int, body: bytes, rest: bytes
) -> None:
    with contextlib.closing(Peer()) as peer:
        sequence = coming_sequence()
        # A refusal with EINTR repeats the dump; the repetition needs its end.
        ends = (answer(NLMSG_DONE, DONE, sequence=sequence + more) for more in range(2))
        peer.send(answer(kind, body, sequence=sequence) + rest, *ends)
        try:
            read(peer.client)
        except TimeoutError:
            raise
        except OSError:
            pass
