"""The snapshot builder: applies changes of the compiled policy to the sections of the next snapshot, in place.

It knows nothing of policies: its input is a `CompiledDelta`. A change to one address costs the same whatever the size of the cluster.
"""

import zlib

from netpolq.snapshot.decision_table import DecisionTable
from netpolq.snapshot.hash_table import HashTable
from netpolq.snapshot.identity_table import IdentityTable
from netpolq.snapshot.ir import CompiledDelta
from netpolq.snapshot.layout import (
    ADDRESS_CELL,
    BYTE_ORDER_MARK,
    HEADER,
    LAYOUT_VERSION,
    MAGIC,
    PREFIX_BYTES,
    SECTION,
    Section,
)
from netpolq.snapshot.memfd import Piece
from netpolq.snapshot.pod_names import PodNames
from netpolq.snapshot.program_area import ProgramArea
from netpolq.snapshot.string_table import StringTable


class SnapshotBuilder:
    """The contents of a snapshot. `apply` changes them, `pieces` returns the bytes."""

    def __init__(self) -> None:
        self._strings = StringTable()
        self._decisions = DecisionTable(self._strings)
        self._identities = IdentityTable(self._strings)
        self._programs = ProgramArea(self._strings, self._decisions)
        self._addresses = HashTable(ADDRESS_CELL)
        self._pod_names = PodNames()
        self._checksums: dict[Section, int] = {}
        self._names = b""

    def apply(self, delta: CompiledDelta) -> None:
        """Apply a change."""
        for number, identity in delta.identities.items():
            self._identities.set(number, identity)
        if len(delta.addresses) > len(self._addresses):
            self._addresses.reserve(len(delta.addresses))
        for address, number in delta.addresses.items():
            self._addresses.set(address, number)
        for tier, tier_program in delta.tiers.items():
            self._programs.set_tier(tier, tier_program)
        for number, program in delta.programs.items():
            self._programs.set_program(number, program)
        for address, endpoint in delta.endpoints.items():
            self._programs.set_endpoint(address, endpoint)
        for address, endpoint in delta.shadows.items():
            self._programs.set_shadow(address, endpoint)
        for address, addresses in delta.node_addresses.items():
            self._programs.set_node_addresses(address, addresses)
        for address, name in delta.pod_names.items():
            self._pod_names.set(address, name)

    @property
    def has_rejections(self) -> bool:
        """Whether denied packets are answered, of any decision."""
        return self._decisions.has_rejections

    @property
    def is_touched(self) -> bool:
        """Whether `pieces` would return other bytes than at its last call, apart from version and time."""
        self._complete()
        return any(touched for _section, touched in self._touched())

    def _complete(self) -> None:
        """Put together what changed and free what is no longer in use. Released numbers are not reused before this."""
        self._programs.assemble()
        self._decisions.collect_garbage()
        self._identities.collect_garbage()
        self._strings.collect_garbage()
        self._pod_names.collect_garbage()

    def pieces(self, *, version: int, created_ns: int) -> list[Piece]:
        """Return the snapshot bytes, in pieces valid until the next change. `version`: increasing; `created_ns`: Unix time."""
        self._complete()
        if self._strings.is_touched:
            self._names = self._strings.encoded()
        programs, identities, pod_names = self._programs, self._identities, self._pod_names
        sections: dict[Section, tuple[Piece, int]] = {
            Section.ADDRESSES: (self._addresses.cells, self._addresses.slots),
            Section.ENDPOINTS: (programs.endpoints.cells, programs.endpoints.slots),
            Section.SHADOWS: (programs.shadows.cells, programs.shadows.slots),
            Section.NODE_OF: (programs.node_of.cells, programs.node_of.slots),
            Section.POD_NAMES: (pod_names.table.cells, pod_names.table.slots),
            Section.IDENTITIES: (identities.offsets, len(identities.offsets)),
            Section.CONTENTS: (identities.cells, len(identities.cells)),
            Section.PROGRAMS: (programs.words, len(programs.words)),
            Section.DECISIONS: (self._decisions.words, len(self._decisions)),
            Section.STRINGS: (self._names, len(self._strings)),
            Section.NAMES: (pod_names.texts, len(pod_names.texts)),
        }
        for section, touched in self._touched():
            if touched or section not in self._checksums:
                self._checksums[section] = zlib.crc32(sections[section][0])
        self._mark_clean()
        table = b""
        body: list[Piece] = []
        end = PREFIX_BYTES
        for section in Section:
            piece, entries = sections[section]
            length = memoryview(piece).nbytes
            table += SECTION.pack(end, length, self._checksums[section], entries)
            padding = bytes(-length % 8)
            body += [piece, padding] if padding else [piece]
            end += length + len(padding)

        def header(checksum: int) -> bytes:
            return HEADER.pack(MAGIC, LAYOUT_VERSION, BYTE_ORDER_MARK, version, end, created_ns, len(Section), checksum)

        return [header(zlib.crc32(header(0) + table)) + table, *body]

    def encoded(self, *, version: int, created_ns: int) -> bytes:
        """Return the bytes of the snapshot in one piece, for evaluation in the same process."""
        return b"".join(bytes(piece) for piece in self.pieces(version=version, created_ns=created_ns))

    def _touched(self) -> list[tuple[Section, bool]]:
        names, programs = self._pod_names, self._programs
        return [
            (Section.ADDRESSES, self._addresses.is_touched),
            (Section.ENDPOINTS, programs.endpoints.is_touched),
            (Section.SHADOWS, programs.shadows.is_touched),
            (Section.NODE_OF, programs.node_of.is_touched),
            (Section.POD_NAMES, names.table.is_touched),
            (Section.IDENTITIES, self._identities.is_touched),
            (Section.CONTENTS, self._identities.is_touched),
            (Section.PROGRAMS, programs.is_touched),
            (Section.DECISIONS, self._decisions.is_touched),
            (Section.STRINGS, self._strings.is_touched),
            (Section.NAMES, names.table.is_touched),
        ]

    def _mark_clean(self) -> None:
        programs = self._programs
        parts = (
            self._addresses,
            programs,
            programs.endpoints,
            programs.shadows,
            programs.node_of,
            self._pod_names.table,
            self._identities,
            self._decisions,
            self._strings,
        )
        for part in parts:
            part.is_touched = False
