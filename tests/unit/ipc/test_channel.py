"""Messages between the processes."""

import os
import socket

from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.enums import Verdict
from netpolq.ipc.channel import (
    MAX_CHANGED,
    MAX_HINTS,
    Answer,
    AnswersInForce,
    CachedVerdict,
    Channel,
    Counters,
    Drain,
    Failure,
    Heartbeat,
    Hints,
    Logging,
    Message,
    PeerGone,
    Publish,
    Refusal,
    Report,
    Resolvers,
    RulesetInstalled,
    Serve,
    StandDown,
    StoodDown,
    Taken,
    Welcome,
    decode,
    encode,
    pack_hints,
    unpack_hints,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
KEYS = st.binary(min_size=16, max_size=16)
HINTS = st.lists(
    st.builds(CachedVerdict, KEYS, KEYS, st.integers(0, 65535), st.integers(0, 255), st.sampled_from(Verdict), U32, U32),
    max_size=20,
)
MESSAGES = st.one_of(
    st.builds(Publish, U64, st.none() | st.lists(st.binary(min_size=16, max_size=16), max_size=20).map(tuple)),
    st.builds(Logging, st.integers(0, 255), st.booleans()),
    st.builds(Drain, st.none() | st.integers(0, 65535)),
    st.sampled_from([StandDown(), StoodDown(), RulesetInstalled(), PeerGone(), Failure("cannot start: ä"), Failure("")]),
    st.builds(Serve, U32, U64, st.booleans()),
    st.builds(Report, U32, U32, U32, U64, U64, U32, U32),
    st.builds(Refusal, U32, U64, st.text(max_size=200)),
    st.builds(Welcome, U64, U32),
    st.builds(Heartbeat, U64),
    st.builds(Counters, U32),
    st.builds(Taken, U64, st.text(max_size=200)),
    st.builds(pack_hints, U64, HINTS),
    st.builds(Resolvers, st.lists(KEYS, max_size=20).map(tuple)),
    st.builds(
        Answer,
        U64,
        KEYS,
        st.from_regex(r"[a-z0-9.*_-]{1,253}", fullmatch=True),
        st.lists(st.tuples(KEYS, U32), max_size=20).map(tuple),
    ),
    st.builds(AnswersInForce, U64),
)


@given(MESSAGES)
def test_a_message_survives_its_encoding(message: Message) -> None:
    assert decode(encode(message)) == message


@given(HINTS)
def test_hints_survive_their_packing(hints: list[CachedVerdict]) -> None:
    assert list(unpack_hints(pack_hints(1, hints))) == hints


def test_bytes_that_are_no_hints_are_refused() -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        list(unpack_hints(Hints(1, b"\x00" * 37)))
    with pytest.raises(ValueError, match="Verdict"):
        list(unpack_hints(Hints(1, b"\xff" * 44)))


def test_a_full_message_of_hints_arrives_whole() -> None:
    ours, theirs = connected()
    message = pack_hints(7, [CachedVerdict(bytes(16), bytes(15) + b"\x01", 80, 6, Verdict.ACCEPT)] * MAX_HINTS)
    assert ours.send(message)
    assert theirs.receive() == (message, None)
    ours.close()
    theirs.close()


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    try:
        message = decode(data)
    except ValueError:
        return
    assert encode(message)[0] == data[0]


@pytest.mark.parametrize(
    "data",
    [
        encode(StandDown()) + b"\x00",
        encode(Drain())[:-4] + b"\xfe\xff\xff\xff",
        encode(Drain())[:-4] + b"\x00\x00\x01\x00",
        encode(Publish(1, None))[:-4] + b"\xfe\xff\xff\xff",
        encode(pack_hints(1, [CachedVerdict(bytes(16), bytes(16), 1, 6, Verdict.DROP)] * (MAX_HINTS + 1))),
    ],
    ids=["something behind it", "queue -2", "queue 65536", "less than no addresses", "more hints than fit"],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"after|announced|more than|queue number"):
        decode(data)


def connected() -> tuple[Channel, Channel]:
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


def test_a_descriptor_travels_with_its_message() -> None:
    left, right = connected()
    source = os.memfd_create("test")
    os.write(source, b"snapshot")
    assert left.send(Publish(3, (b"\x01" * 16,)), [source])
    os.close(source)
    received = right.receive()
    assert received is not None
    message, descriptor = received
    assert message == Publish(3, (b"\x01" * 16,))
    assert descriptor is not None
    assert os.pread(descriptor, 100, 0) == b"snapshot"
    os.close(descriptor)
    left.close()
    right.close()


def test_the_longest_publish_fits_into_one_message() -> None:
    left, right = connected()
    message = Publish(1, tuple(number.to_bytes(16) for number in range(MAX_CHANGED)))
    assert left.send(message)
    assert right.receive() == (message, None)
    left.close()
    right.close()


def test_nothing_yet_and_never_again_are_told_apart() -> None:
    left, right = connected()
    assert right.receive() is None
    left.send(Drain())
    left.close()
    assert right.receive() == (Drain(), None)
    with pytest.raises(EOFError):
        right.receive()
    right.close()


def test_a_peer_that_does_not_read_never_blocks_the_sender() -> None:
    left, right = connected()
    message = Publish(1, tuple(number.to_bytes(16) for number in range(MAX_CHANGED)))
    sent = 0
    while left.send(message):
        sent += 1
        assert sent < 100_000
    assert sent > 0
    left.close()
    right.close()


def test_a_descriptor_that_comes_with_garbage_is_not_leaked() -> None:
    raw, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(end)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with raw:
        socket.send_fds(raw, [b"\xffgarbage"], [0])
        with pytest.raises(ValueError, match="not a valid"):
            channel.receive()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    channel.close()


def test_of_several_descriptors_with_one_message_none_is_leaked() -> None:
    raw, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(end)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with raw:
        socket.send_fds(raw, [encode(Publish(1, None))], [0, 0, 0])
        received = channel.receive()
        assert received is not None
        assert received[1] is not None
        os.close(received[1])
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    channel.close()


def test_the_last_messages_of_a_process_that_has_not_read_ours_are_received() -> None:
    """Why it ends, for example. The kernel reports such an end with ECONNRESET, before those messages."""
    left, right = connected()
    assert left.send(Drain())
    assert right.send(Failure("cannot start"))
    right.close()
    assert left.receive() == (Failure("cannot start"), None)
    with pytest.raises(EOFError):
        left.receive()
    left.close()
