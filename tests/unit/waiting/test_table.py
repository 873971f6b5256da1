"""The table of held packets, as bytes: what a writer leaves is read again, and nothing else is believed."""

import mmap
import os

import pytest

from hypothesis import example, given
from hypothesis import strategies as st

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq_worker.waiting import table
from netpolq_worker.waiting.table import MAX_HELD, SIZE_BYTES, HeldPacket, HeldTable, TableError, map_shared
from netpolq_worker.worker.packet import UNKEYED_PROTOCOLS, parse
from tests.unit.waiting.packets import held

HEADER_BYTES, ROW_BYTES = 64, 64
NOW_NS = 1 << 62

KEYS = st.tuples(*[st.binary(min_size=4, max_size=4).map(lambda packed: IPV4_MAPPED_PREFIX + packed)] * 2) | st.tuples(
    *[st.binary(min_size=16, max_size=16).filter(lambda key: not key.startswith(IPV4_MAPPED_PREFIX))] * 2
)


@st.composite
def packets(draw: st.DrawFn) -> HeldPacket:
    source, destination = draw(KEYS)
    has_ports = draw(st.booleans())
    ports = st.integers(0, 0xFFFF) if has_ports else st.just(0)
    return HeldPacket(
        packet_id=draw(st.integers(1, 2**32 - 1)),
        mark=draw(st.integers(0, 2**32 - 1)),
        source=source,
        destination=destination,
        protocol=draw(st.sampled_from([6, 17, 132])) if has_ports else draw(st.integers(0, 255)),
        source_port=draw(ports),
        destination_port=draw(ports),
        unknown=tuple(dict.fromkeys(draw(st.sampled_from([(source,), (destination,), (source, destination)])))),
        arrived_ns=draw(st.integers(0, NOW_NS)),
    )


@given(packets(), st.integers(0, MAX_HELD - 1))
def test_a_packet_is_read_as_it_was_written(packet: HeldPacket, row: int) -> None:
    memory = bytearray(SIZE_BYTES)
    HeldTable(memory).write(row, packet)
    assert HeldTable(memory).read(NOW_NS) == {row: packet}


@given(packets())
def test_the_header_that_stands_for_a_packet_has_its_flow(packet: HeldPacket) -> None:
    """For the packet log. A protocol with ports and without them in the table is a later fragment's: it has port 0."""
    assert parse(packet.get_payload()) == packet.flow


def test_a_row_counts_from_its_first_byte_on_and_until_that_is_cleared() -> None:
    """The writer may be killed between any two bytes."""
    memory = bytearray(SIZE_BYTES)
    kept = HeldTable(memory)
    kept.write(3, held(7))
    whole = bytes(memory[HEADER_BYTES + 3 * ROW_BYTES :][:ROW_BYTES])
    kept.clear(3)
    assert kept.read(NOW_NS) == {}
    for written in range(ROW_BYTES):
        memory[HEADER_BYTES + 3 * ROW_BYTES + 1 :][:written] = whole[1 : written + 1]
        assert kept.read(NOW_NS) == {}
    assert whole[0] == 1


def test_other_unknown_addresses_replace_those_of_a_packet() -> None:
    memory = bytearray(SIZE_BYTES)
    HeldTable(memory).write(0, held(7))
    HeldTable(memory).write(0, held(7, unknown=("10.0.0.1",)))
    assert HeldTable(memory).read(NOW_NS) == {0: held(7, unknown=("10.0.0.1",))}


def test_packets_are_read_in_the_order_of_their_ids_and_none_arrives_in_the_future() -> None:
    memory = bytearray(SIZE_BYTES)
    for row, packet_id in enumerate((9, 2**32 - 1, 4)):
        HeldTable(memory).write(row, held(packet_id, arrived_ns=50))
    found = HeldTable(memory).read(40)
    assert [packet.packet_id for packet in found.values()] == [4, 9, 2**32 - 1]
    assert {packet.arrived_ns for packet in found.values()} == {40}


def test_the_numbers_in_the_header_are_kept() -> None:
    memory = bytearray(SIZE_BYTES)
    kept = HeldTable(memory)
    assert (kept.last_seen, kept.evaluated) == (0, 0)
    kept.last_seen, kept.evaluated = 2**32 - 1, 12
    assert (HeldTable(memory).last_seen, HeldTable(memory).evaluated) == (2**32 - 1, 12)
    kept.write(0, held(1))
    kept.reset()
    assert (kept.last_seen, kept.evaluated, kept.read(NOW_NS)) == (0, 0, {})


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, b"\x02"), (1, b"\x00"), (1, b"\x04"), (4, bytes(4)), (24, b"\xff"), (40, b"\xff")],
    ids=["neither free nor in use", "no end is unknown", "a third end", "no id", "two families", "two families the other way"],
)
def test_a_row_that_no_writer_leaves_is_refused(offset: int, value: bytes) -> None:
    memory = bytearray(SIZE_BYTES)
    HeldTable(memory).write(5, held(7))
    start = HEADER_BYTES + 5 * ROW_BYTES + offset
    memory[start : start + len(value)] = value
    with pytest.raises(TableError, match="row 5"):
        HeldTable(memory).read(NOW_NS)


def test_two_rows_with_one_packet_are_refused() -> None:
    memory = bytearray(SIZE_BYTES)
    HeldTable(memory).write(0, held(7))
    HeldTable(memory).write(1, held(7))
    with pytest.raises(TableError, match="two rows"):
        HeldTable(memory).read(NOW_NS)


@given(st.lists(st.tuples(st.integers(0, SIZE_BYTES - 1), st.integers(0, 255)), max_size=30))
@example([(HEADER_BYTES + 2, 1)])  # a protocol without ports in a row with ports
def test_any_bytes_are_a_table_or_an_error(changes: list[tuple[int, int]]) -> None:
    memory = bytearray(SIZE_BYTES)
    for row in range(0, MAX_HELD, 100):
        HeldTable(memory).write(row, held(row + 1))
    for offset, value in changes:
        memory[offset] = value
    try:
        found = HeldTable(memory).read(NOW_NS)
    except TableError:
        return
    assert all(packet.unknown for packet in found.values())
    # A later fragment may have the number of an extension header as its protocol; its line in the log is of no use then.
    plain = [packet for packet in found.values() if packet.protocol not in UNKEYED_PROTOCOLS]
    assert all(parse(packet.get_payload()) in {packet.flow, None} for packet in plain)


def test_the_memory_is_allocated_shared_and_cannot_be_taken_away() -> None:
    descriptor = table.make()
    assert os.fstat(descriptor).st_blocks * 512 >= SIZE_BYTES
    for size in (0, SIZE_BYTES // 2, 2 * SIZE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    other = os.dup(descriptor)
    with map_shared(descriptor) as one, map_shared(other) as another:
        assert isinstance(one, mmap.mmap)
        HeldTable(one).write(0, held(7))
        assert HeldTable(another).read(NOW_NS) == {0: held(7)}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(descriptor)


def test_a_row_has_the_size_that_these_tests_assume() -> None:
    assert SIZE_BYTES == HEADER_BYTES + MAX_HELD * ROW_BYTES
