"""The hash tables of a snapshot under any sequence of changes: a search finds what is there, and the table stays small."""

import random

from struct import Struct
from zlib import crc32

import pytest

from netpolq.snapshot.hash_table import HashTable
from netpolq.snapshot.layout import ADDRESS_CELL, ENDPOINT_CELL


def key_of(number: int) -> bytes:
    return b"\x00" * 10 + b"\xff\xff" + (0x0A000000 + number).to_bytes(4)


def searched(table: HashTable, cell: Struct, key: bytes) -> int:
    """The value that a reader finds by the layout alone."""
    place = (crc32(key) * table.slots >> 32) * cell.size
    while True:
        found, value = cell.unpack_from(table.cells, place)
        if found == key or not value:
            return int(value)
        place += cell.size


@pytest.mark.parametrize("cell", [ADDRESS_CELL, ENDPOINT_CELL])
@pytest.mark.parametrize("seed", range(4))
def test_what_was_set_last_is_found_and_nothing_else(seed: int, cell: Struct) -> None:
    rng = random.Random(seed)
    table, expected = HashTable(cell), dict[bytes, int]()
    for round_number in range(8):
        grows = round_number % 2 == 0
        for _ in range(600):
            key = key_of(rng.randrange(2000))
            value = rng.randrange(1, 1000) if rng.random() < (0.8 if grows else 0.1) else 0
            table.set(key, value)
            if value:
                expected[key] = value
            else:
                expected.pop(key, None)
        assert len(table) == len(expected)
        for number in range(2000):
            key = key_of(number)
            assert searched(table, cell, key) == table.get(key) == expected.get(key, 0)
        assert not any(table.cells[-cell.size :]), "a search must come to an end"


def test_a_large_table_takes_no_more_than_45_bytes_an_address_whether_it_grew_or_shrank() -> None:
    table = HashTable(ADDRESS_CELL)
    most = 0.0
    for number in range(20_000):
        table.set(key_of(number), 1)
        if number > 1000:
            most = max(most, len(table.cells) / len(table))
    for number in range(19_000):
        table.set(key_of(number), 0)
        most = max(most, len(table.cells) / len(table))
    assert 30 < most < 45.5


def test_setting_the_same_again_touches_nothing() -> None:
    table = HashTable(ADDRESS_CELL)
    table.set(key_of(1), 7)
    table.is_touched = False
    table.set(key_of(1), 7)
    table.set(key_of(2), 0)
    assert not table.is_touched
    table.set(key_of(1), 8)
    assert table.is_touched


def test_keys_that_all_belong_to_the_last_slot_find_room_behind_it() -> None:
    table = HashTable(ADDRESS_CELL)
    keys = [key for number in range(400_000) if crc32(key := key_of(number)) * 64 >> 32 == 63][:60]
    table.reserve(60)
    for number, key in enumerate(keys, 1):
        table.set(key, number)
    assert [searched(table, ADDRESS_CELL, key) for key in keys] == list(range(1, len(keys) + 1))
    for key in keys[::2]:
        table.set(key, 0)
    assert [searched(table, ADDRESS_CELL, key) for key in keys[1::2]] == list(range(2, len(keys) + 1, 2))
