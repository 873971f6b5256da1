"""The snapshot builder: the sections of the next snapshot, patched in place and copied when it is published.

A change to one address costs the same whatever the size of the cluster. Ids of identities and strings are allocated on demand, so the
bytes may depend on earlier contents; the meaning of the bytes does not.
"""

import zlib

from array import array
from collections.abc import Mapping, Sequence

from netpolq.snapshot.hash_table import HashTable
from netpolq.snapshot.identity_table import IdentityTable
from netpolq.snapshot.layout import (
    ADDRESS_CELL,
    BYTE_ORDER_MARK,
    ENDPOINT_CELL,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    NODE_OF_CELL,
    PREFIX_BYTES,
    SECTION,
    Section,
)
from netpolq.snapshot.memfd import Piece
from netpolq.snapshot.pod_names import PodNames
from netpolq.snapshot.program_encoder import RelocatableProgram
from netpolq.snapshot.string_table import StringTable


class SnapshotBuilder:
    """The contents of a snapshot. After a change the caller calls `collect_garbage`, then `pieces` for the bytes.

    `addresses`: address key → identity id. `is_touched`: whether anything changed since the last call of `pieces`.
    """

    def __init__(self) -> None:
        self.addresses = HashTable(ADDRESS_CELL)
        self.pod_names = PodNames()
        self.strings = StringTable()
        self.identities = IdentityTable(self.strings.number)
        self._endpoints = HashTable(ENDPOINT_CELL)
        self._node_of = HashTable(NODE_OF_CELL)
        self._programs: Sequence[RelocatableProgram] = ()
        self._nodes: Sequence[RelocatableProgram] = ()
        self._programs_at: Mapping[bytes, tuple[int, int]] = {}
        self._node_at: Mapping[bytes, int] = {}
        self._words = array("I")
        self._words_base = 0
        self._words_touched = True
        self._checksums: dict[Section, int] = {}
        self._names = b""

    def set_programs(self, programs: Sequence[RelocatableProgram], endpoints: Mapping[bytes, tuple[int, int]]) -> None:
        """Replace the programs. `endpoints`: address key → indices in `programs` of egress and ingress, -1: not isolated."""
        self._programs, self._programs_at = programs, endpoints
        self._words_base = 0

    def set_nodes(self, nodes: Sequence[RelocatableProgram], node_of: Mapping[bytes, int]) -> None:
        """Replace the node addresses. `node_of`: address key of a pod → index in `nodes`."""
        self._nodes, self._node_at = nodes, node_of
        self._words_base = 0

    @property
    def is_touched(self) -> bool:
        return any(touched for _section, touched in self._touched())

    def collect_garbage(self) -> None:
        """Free what is no longer in use and relocate programs. Ids of released items are not reused before this."""
        self.strings.collect_garbage()
        self.identities.collect_garbage()
        self.pod_names.collect_garbage()
        if self._words_base != len(self.identities.cells):
            self._assemble(len(self.identities.cells))

    def _assemble(self, base: int) -> None:
        """Put the programs behind the identities, and set the program offsets of the endpoints."""
        self._words_base = base
        words = array("I")
        entries = []
        for program in (*self._programs, *self._nodes):
            entries.append(base + len(words) + program.entry)
            words.extend(program.relocate(base + len(words)))
        if words.tobytes() != self._words.tobytes():
            self._words, self._words_touched = words, True
        none = [0]
        programs, nodes = entries[: len(self._programs)] + none, entries[len(self._programs) :]
        endpoints = {key: programs[egress] | programs[ingress] << 32 for key, (egress, ingress) in self._programs_at.items()}
        self._endpoints = _rewritten(self._endpoints, HashTable(ENDPOINT_CELL), endpoints)
        node_of = {key: nodes[index] for key, index in self._node_at.items()}
        self._node_of = _rewritten(self._node_of, HashTable(NODE_OF_CELL), node_of)

    def pieces(self, *, version: int, created_ns: int) -> list[Piece]:
        """Return the snapshot bytes, in pieces valid until the next change. `version`: increasing; `created_ns`: Unix time."""
        if self.strings.is_touched:
            self._names = self.strings.encoded()
        sections: dict[Section, tuple[list[Piece], int]] = {
            Section.ADDRESSES: ([self.addresses.cells], self.addresses.slots),
            Section.ENDPOINTS: ([self._endpoints.cells], self._endpoints.slots),
            Section.NODE_OF: ([self._node_of.cells], self._node_of.slots),
            Section.POD_NAMES: ([self.pod_names.table.cells], self.pod_names.table.slots),
            Section.IDENTITIES: ([self.identities.offsets], len(self.identities.offsets)),
            Section.WORDS: ([self.identities.cells, self._words], len(self.identities.cells) + len(self._words)),
            Section.STRINGS: ([self._names], len(self.strings)),
            Section.NAMES: ([self.pod_names.texts], len(self.pod_names.texts)),
        }
        for section, touched in self._touched():
            if touched or section not in self._checksums:
                checksum = 0
                for piece in sections[section][0]:
                    checksum = zlib.crc32(piece, checksum)
                self._checksums[section] = checksum
        self._mark_clean()
        table = b""
        body: list[Piece] = []
        end = PREFIX_BYTES
        for section in Section:
            pieces, entries = sections[section]
            length = sum(memoryview(piece).nbytes for piece in pieces)
            table += SECTION.pack(end, length, self._checksums[section], entries)
            padding = bytes(-length % 8)
            body += [*pieces, padding] if padding else pieces
            end += length + len(padding)

        def header(checksum: int) -> bytes:
            return HEADER.pack(MAGIC, LAYOUT_VERSION, BYTE_ORDER_MARK, version, end, created_ns, len(Section), checksum)

        return [header(zlib.crc32(header(0) + table)) + table, *body]

    def encoded(self, *, version: int, created_ns: int) -> bytes:
        """Return the bytes of the snapshot in one piece, for evaluation in the same process."""
        return b"".join(bytes(piece) for piece in self.pieces(version=version, created_ns=created_ns))

    def _touched(self) -> list[tuple[Section, bool]]:
        names = self.pod_names
        return [
            (Section.ADDRESSES, self.addresses.is_touched),
            (Section.ENDPOINTS, self._endpoints.is_touched),
            (Section.NODE_OF, self._node_of.is_touched),
            (Section.POD_NAMES, names.table.is_touched),
            (Section.IDENTITIES, self.identities.is_touched),
            (Section.WORDS, self._words_touched or self.identities.is_touched),
            (Section.STRINGS, self.strings.is_touched),
            (Section.NAMES, names.table.is_touched),
        ]

    def _mark_clean(self) -> None:
        for part in (self.addresses, self._endpoints, self._node_of, self.pod_names.table, self.identities, self.strings):
            part.is_touched = False
        self._words_touched = False


def _rewritten(before: HashTable, after: HashTable, entries: Mapping[bytes, int]) -> HashTable:
    """Return a table with these entries: `before` if it has exactly these, else `after`, filled."""
    if len(before) == len(entries) and all(before.get(key) == value for key, value in entries.items()):
        return before
    after.reserve(len(entries))
    for key in sorted(entries):
        after.set(key, entries[key])
    return after
