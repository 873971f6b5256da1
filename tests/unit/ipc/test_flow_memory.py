"""The flow memory: what is written is read once, and no bytes of a writer harm the reader."""

import os
import struct
import zlib

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.ipc import flow_memory
from netpolq.ipc.flow_memory import (
    MAX_NAMED_POLICIES,
    RING_BYTES,
    SIZE_BYTES,
    Chunk,
    Flag,
    FlowCount,
    FlowMemoryError,
    FlowReader,
    FlowWriter,
    Reasons,
    decode_reasons,
    encode_reasons,
    pack_count,
)

SOURCE, DESTINATION = bytes(range(16)), bytes(range(16, 32))
ISOLATED = Isolation(Direction.INGRESS, ("shop/db", "shop/web"))
REASONS = Reasons(False, None, ISOLATED)
HEADER_BYTES = 64
WRITTEN, READ = 16, 24

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DECISIONS: st.SearchStrategy[Decision] = st.one_of(
    st.builds(Isolation, st.sampled_from(Direction), st.lists(TEXTS, max_size=MAX_NAMED_POLICIES).map(tuple), st.booleans()),
    st.builds(
        RuleDecision,
        st.sampled_from(Direction),
        st.sampled_from(Tier),
        TEXTS,
        st.integers(0, 1 << 31),
        st.sampled_from(Action),
        TEXTS,
        st.booleans(),
    ),
)
MAYBE = st.none() | DECISIONS
REASONS_OF_ALL_KINDS = st.tuples(st.booleans(), MAYBE, MAYBE).map(lambda found: Reasons(*found)) | st.tuples(
    st.booleans(), MAYBE, MAYBE, st.booleans(), MAYBE, MAYBE
).map(lambda found: Reasons(*found))


class Memory:
    """A flow memory with both ends."""

    def __init__(self) -> None:
        self.descriptor = flow_memory.make()
        self.writer, self.reader = FlowWriter(self.descriptor), FlowReader(self.descriptor)

    def write(self, connections: int = 1, *, counts: int = 1, end_ns: int = 2) -> bool:
        packed = [pack_count(SOURCE, DESTINATION, port, 6, Flag(0), 7, connections) for port in range(counts)]
        return self.writer.write(1, end_ns, [(7, encode_reasons(REASONS))], packed)

    def poke(self, position: int, data: bytes) -> None:
        os.pwrite(self.descriptor, data, position)

    def peek(self, position: int) -> int:
        return int.from_bytes(os.pread(self.descriptor, 8, position), "little")


@contextmanager
def flow_memory_of_both() -> Iterator[Memory]:
    memory = Memory()
    try:
        yield memory
    finally:
        os.close(memory.descriptor)


@pytest.fixture
def memory() -> Iterator[Memory]:
    with flow_memory_of_both() as memory:
        yield memory


def one_count(connections: int = 1) -> FlowCount:
    return FlowCount(SOURCE, DESTINATION, 0, 6, Flag(0), REASONS, connections)


def read_until_error(reader: FlowReader) -> FlowMemoryError:
    for _attempt in range(10):
        try:
            assert reader.read() == []
        except FlowMemoryError as error:
            return error
    raise AssertionError("the damage is never reported")


def test_a_chunk_is_read_once(memory: Memory) -> None:
    assert memory.reader.read() == []
    assert memory.write(3)
    assert memory.reader.read() == [Chunk(1, 2, [one_count(3)])]
    assert memory.reader.read() == []


@given(reasons=REASONS_OF_ALL_KINDS)
def test_reasons_survive_the_way(reasons: Reasons) -> None:
    assert decode_reasons(encode_reasons(reasons)) == reasons


def test_of_many_isolating_policies_the_first_are_named() -> None:
    policies = tuple(f"a/{number}" for number in range(MAX_NAMED_POLICIES + 1))
    found = decode_reasons(encode_reasons(Reasons(False, Isolation(Direction.EGRESS, policies))))
    assert found.egress == Isolation(Direction.EGRESS, policies[:-1])


@given(sizes=st.lists(st.integers(1, 1024), min_size=20, max_size=60))
@settings(max_examples=20)
def test_chunks_of_every_size_go_around_the_end_of_the_ring(sizes: list[int]) -> None:
    with flow_memory_of_both() as memory:
        for number, size in enumerate(sizes, 1):
            assert memory.write(number, counts=size)
            (chunk,) = memory.reader.read()
            assert [count.port for count in chunk.counts] == list(range(size))
            assert {count.connections for count in chunk.counts} == {number}


def test_a_full_ring_refuses_until_it_is_read_and_loses_nothing_that_it_took(memory: Memory) -> None:
    taken = 0
    while memory.write(taken, counts=1024):
        taken += 1
        assert taken < 100
    assert taken >= 10
    assert not memory.write(99, counts=1024)
    assert [chunk.counts[0].connections for chunk in memory.reader.read()] == list(range(taken))
    assert memory.write(99, counts=1024)


def test_a_successor_of_either_end_continues(memory: Memory) -> None:
    assert memory.write(1)
    memory.writer = FlowWriter(memory.descriptor)
    assert memory.write(2)
    memory.reader = FlowReader(memory.descriptor)
    assert [chunk.counts for chunk in memory.reader.read()] == [[one_count(1)], [one_count(2)]]
    memory.writer.lose(5)
    FlowWriter(memory.descriptor).lose(2)
    assert memory.reader.lost == 7


@pytest.mark.parametrize("connections", [0xFFFFFFFF, 1 << 32, 1 << 70])
def test_more_connections_than_a_count_has_room_for_are_the_most_that_it_has(memory: Memory, connections: int) -> None:
    assert memory.write(connections)
    assert memory.reader.read()[0].counts[0].connections == 0xFFFFFFFF


def test_memory_of_another_size_or_version_is_refused(memory: Memory) -> None:
    memory.poke(8, b"\x02")
    with pytest.raises(FlowMemoryError, match="not a flow memory of this version"):
        FlowReader(memory.descriptor)
    other = os.memfd_create("x")
    try:
        os.ftruncate(other, SIZE_BYTES - 1)
        with pytest.raises(FlowMemoryError, match=f"{SIZE_BYTES - 1} bytes instead of {SIZE_BYTES}"):
            FlowWriter(other)
    finally:
        os.close(other)


def test_a_chunk_that_is_not_visible_in_full_yet_is_read_later(memory: Memory) -> None:
    memory.write(1)
    memory.write(2)
    second = HEADER_BYTES + memory.peek(WRITTEN) // 2
    memory.poke(second + 60, b"\xff")
    original = os.pread(memory.descriptor, 1, second + 61)
    assert [chunk.counts for chunk in memory.reader.read()] == [[one_count(1)]]
    assert memory.reader.read() == []
    memory.poke(second + 61, original)
    assert "checksum" in str(read_until_error(memory.reader))
    memory.write(3)
    assert [chunk.counts for chunk in memory.reader.read()] == [[one_count(3)]]


def test_damage_at_any_byte_is_an_error_or_another_value_and_writing_goes_on() -> None:
    with flow_memory_of_both() as memory:
        memory.write(1, counts=2)
        size = HEADER_BYTES + memory.peek(WRITTEN)
        original = os.pread(memory.descriptor, size, 0)
        for position in range(16, size):  # before that: the header, which is read once
            for value in (0x00, 0x7F, 0xFF):
                memory.poke(0, original)
                memory.poke(position, bytes((value,)))
                for _attempt in range(5):
                    try:
                        memory.reader.read()
                    except FlowMemoryError:
                        break
                assert memory.peek(READ) == memory.peek(WRITTEN), f"the reader hangs after damage at {position}"
                assert memory.write(3), position
                assert memory.reader.read()[-1].counts == [one_count(3)], position


@given(
    written=st.integers(0, 2**64 - 1),
    unread=st.integers(0, 2**64 - 1) | st.integers(0, RING_BYTES),
    content=st.binary(max_size=400),
)
def test_random_positions_and_bytes_raise_nothing_else_and_are_left_behind(written: int, unread: int, content: bytes) -> None:
    with flow_memory_of_both() as memory:
        read = (written - unread) % 2**64
        memory.poke(WRITTEN, struct.pack("=QQ", written, read))
        memory.poke(HEADER_BYTES + read % RING_BYTES, content[: RING_BYTES - read % RING_BYTES])
        found: list[Chunk] = []
        for _attempt in range(20):
            memory.write(3)
            with suppress(FlowMemoryError):
                found += memory.reader.read()
            if found and found[-1].counts == [one_count(3)]:
                return
        raise AssertionError("reader and writer do not recover")


def framed(payload: bytes, definitions: int, counts: int) -> bytes:
    return struct.pack("=IIQQII", len(payload), zlib.crc32(payload), 1, 2, definitions, counts) + payload


@given(payload=st.binary(max_size=200), definitions=st.integers(0, 2**32 - 1), counts=st.integers(0, 2**32 - 1))
def test_random_payloads_with_a_right_checksum_raise_nothing_else(payload: bytes, definitions: int, counts: int) -> None:
    with flow_memory_of_both() as memory:
        chunk = framed(payload, definitions, counts)
        memory.poke(HEADER_BYTES, chunk)
        memory.poke(WRITTEN, struct.pack("=Q", len(chunk)))
        with suppress(FlowMemoryError):
            memory.reader.read()
        assert memory.peek(READ) == len(chunk)


def test_a_chunk_that_means_nothing_is_reported_and_its_neighbours_are_read(memory: Memory) -> None:
    memory.write(1)
    bad, position = framed(b"nonsense", 1, 0), memory.peek(WRITTEN)
    memory.poke(HEADER_BYTES + position, bad)
    memory.poke(WRITTEN, struct.pack("=Q", position + len(bad)))
    memory.write(3)
    assert [chunk.counts for chunk in memory.reader.read()] == [[one_count(1)]]
    with pytest.raises(FlowMemoryError, match="a definition cannot be read"):
        memory.reader.read()
    assert [chunk.counts for chunk in memory.reader.read()] == [[one_count(3)]]


@pytest.mark.parametrize(
    "definition",
    [
        b"",
        b"7",
        b"[true,null]",
        b"[1,null,null]",
        b"[true,null,null,true]",
        b'[true,["ingress",["a/b"]],null]',
        b'[true,["up",["a/b"],false],null]',
        b'[true,[1,["\\ud800"],false],null]',
        b'[true,[1,0,"a/b",-1,1,"",false],null]',
        b'[true,[1,0,"a/b",18446744073709551616,1,"",false],null]',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_definitions_that_cannot_be_read_or_shown_are_refused(definition: bytes) -> None:
    with pytest.raises(FlowMemoryError):
        decode_reasons(definition)
