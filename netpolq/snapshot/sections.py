"""The validation of a snapshot: header, section table, bounds and checksums. Every reader starts with it."""

import zlib

from mmap import mmap
from typing import NamedTuple

from netpolq.errors import SnapshotError
from netpolq.snapshot.layout import (
    ADDRESS_CELL,
    BYTE_ORDER_MARK,
    ENDPOINT_CELL,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    MAX_SNAPSHOT_BYTES,
    NODE_OF_CELL,
    POD_NAME_CELL,
    PREFIX_BYTES,
    SECTION,
    DecisionWord,
    Section,
)

CELLS = {
    Section.ADDRESSES: ADDRESS_CELL,
    Section.ENDPOINTS: ENDPOINT_CELL,
    Section.SHADOWS: ENDPOINT_CELL,
    Section.NODE_OF: NODE_OF_CELL,
    Section.POD_NAMES: POD_NAME_CELL,
}
"""The cell format of each hash table."""

_ENTRY_BYTES = {
    Section.IDENTITIES: 4,
    Section.CONTENTS: 4,
    Section.PROGRAMS: 4,
    Section.DECISIONS: 4 * len(DecisionWord),
    Section.NAMES: 1,
}


class SectionInfo(NamedTuple):
    """Offset and length of a section in bytes, and its number of entries."""

    offset: int
    length: int
    entries: int


class Contents(NamedTuple):
    """The values of the header and the section table."""

    version: int
    created_ns: int
    sections: dict[Section, SectionInfo]


def check(buffer: bytes | mmap, *, is_validated: bool) -> Contents:
    """Check magic, layout, bounds and every checksum. Raises `SnapshotError` naming what is wrong.

    `is_validated`: another process has validated these bytes, so the section checksums are not computed again.
    """
    size = len(buffer)
    if not PREFIX_BYTES <= size <= MAX_SNAPSHOT_BYTES:
        raise SnapshotError(f"invalid size of a snapshot: {size} bytes")
    magic, layout, order, version, total, created_ns, sections, checksum = HEADER.unpack_from(buffer)
    if magic != MAGIC:
        raise SnapshotError("not a snapshot (wrong magic)")
    if layout != LAYOUT_VERSION or order != BYTE_ORDER_MARK or sections != len(Section):
        raise SnapshotError(f"layout {layout} is not supported: must be {LAYOUT_VERSION}")
    if total != size:
        raise SnapshotError(f"{size} bytes, the header says {total}")
    prefix = bytearray(buffer[:PREFIX_BYTES])
    prefix[HEADER.size - 4 : HEADER.size] = bytes(4)
    if zlib.crc32(prefix) != checksum:
        raise SnapshotError("checksum of the header does not match")
    found: dict[Section, SectionInfo] = {}
    with memoryview(buffer) as memory:
        for section in Section:
            offset, length, checksum, entries = SECTION.unpack_from(buffer, HEADER.size + section * SECTION.size)
            if offset < PREFIX_BYTES or offset % 8 or offset + length > size:
                raise SnapshotError(f"section {section.name} lies outside the snapshot")
            with memory[offset : offset + length] as data:
                _check_entries(section, data, entries)
                if not is_validated and zlib.crc32(data) != checksum:
                    raise SnapshotError(f"checksum of section {section.name} does not match")
            found[section] = SectionInfo(offset, length, entries)
    return Contents(version, created_ns, found)


def _check_entries(section: Section, data: memoryview, entries: int) -> None:
    length = len(data)
    if section in CELLS:
        # A search reads up to the next empty cell, so there must be one behind the last slot.
        cell = CELLS[section]
        if entries == 0 or length % cell.size or length // cell.size <= entries:
            raise SnapshotError(f"section {section.name} has {length} bytes for {entries} slots")
        if cell.unpack_from(data, length - cell.size)[1]:
            raise SnapshotError(f"section {section.name} has no empty cell at its end")
    elif section in _ENTRY_BYTES:
        if length != entries * _ENTRY_BYTES[section]:
            raise SnapshotError(f"section {section.name} has {length} bytes for {entries} entries")
    elif length < (entries + 1) * 4:
        raise SnapshotError(f"section {section.name} is too short for {entries} entries")
