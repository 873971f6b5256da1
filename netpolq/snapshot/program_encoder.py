"""The program enencoder: programs as relocatable u32 arrays.

A program is encoded once, at offset 0, and relocated whenever programs are put together. An unchanged program costs a copy and an
addition for each offset in it.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from netpolq.enums import Protocol
from netpolq.snapshot.ir import AddressTable, PortTable, Program, Rule, TierProgram

_PROTOCOL_ORDER = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class RelocatableProgram(NamedTuple):
    """An encoded program at offset 0. `pointers`: indices of the words that are offsets. `entry`: index of the first word to read."""

    words: "array[int]"
    pointers: "array[int]"
    entry: int

    def relocate(self, base: int) -> "array[int]":
        """Return the words for a start at offset `base`."""
        words = self.words[:]
        for index in self.pointers:
            words[index] += base
        return words


def encode_program(program: Program, rules: Sequence[Rule], number_of_name: Callable[[str], int]) -> RelocatableProgram:
    """Encode a program. `rules`: its rules by number; `number_of_name`: string ids of the policies and named ports in use."""
    encoder = _Enencoder(number_of_name)
    tiers = [encoder.tier(tier, rules) for tier in program]
    entry = encoder.store([len(tiers), *tiers], range(1, 1 + len(tiers)))
    return RelocatableProgram(encoder.words, encoder.pointers, entry)


def encode_addresses(addresses: Sequence[bytes]) -> RelocatableProgram:
    """Encode the addresses of a node."""
    words = array("I", [len(addresses)])
    for address in addresses:
        words.frombytes(address)
    return RelocatableProgram(words, array("I"), 0)


class _Enencoder:
    """The words of one program during encoding. Equal structures are stored once."""

    def __init__(self, number_of_name: Callable[[str], int]) -> None:
        self.words = array("I")
        self.pointers = array("I")
        self._number_of_name = number_of_name
        self._placed: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._ranks: dict[int, int] = {}
        self._port_tables: dict[PortTable, int] = {}

    def store(self, cells: Sequence[int], pointers: Iterable[int] = ()) -> int:
        """Store cells and return their offset. `pointers`: indices of the cells that are offsets of structures stored earlier."""
        key = tuple(cells), tuple(pointers)
        offset = self._placed.get(key)
        if offset is None:
            offset = self._placed[key] = len(self.words)
            self.words.extend(cells)
            self.pointers.extend(offset + index for index in key[1])
        return offset

    def tier(self, tier: TierProgram, rules: Sequence[Rule]) -> int:
        used = sorted({number for table in tables_of(tier) for number in rules_of(table)})
        self._ranks = {number: rank for rank, number in enumerate(used)}
        self._port_tables = {}
        any_peer = 0 if tier.any_peer is None else self._port_table(tier.any_peer)
        addresses = [self._address_table(tier.ipv4, width=1), self._address_table(tier.ipv6, width=4)]
        count = len(tier.selectors)
        cells = [
            tier.tier,
            self.store([len(tier.isolated_by), *map(self._number_of_name, tier.isolated_by)]),
            any_peer,
            *addresses,
            count,
            self._rules([rules[number] for number in used]),
            *(selector for selector, _table in tier.selectors),
            *(self._port_table(table) for _selector, table in tier.selectors),
        ]
        present = [index for index, table in ((2, tier.any_peer), (3, tier.ipv4), (4, tier.ipv6)) if table is not None]
        return self.store(cells, [1, *present, 6, *range(7 + count, 7 + 2 * count)])

    def _rules(self, rules: Sequence[Rule]) -> int:
        cells: list[int] = []
        for rule in rules:
            flags = rule.tier << 16 | rule.direction << 8 | rule.action
            cells += (self._number_of_name(rule.policy), flags, rule.position)
        return self.store(cells)

    def _port_table(self, table: PortTable) -> int:
        offset = self._port_tables.get(table)
        if offset is not None:
            return offset
        ranges = dict(table.ranges)
        ends: list[int] = []
        bounds: list[int] = []
        ranks: list[int] = []
        for protocol in _PROTOCOL_ORDER:
            for port_range in ranges.get(protocol, ()):
                bounds.append(port_range.low << 16 | port_range.high)
                ranks.append(self._ranks[port_range.rule])
            ends.append(len(bounds))
        cells = [0 if table.every is None else self._ranks[table.every] + 1, *ends, len(table.names), *bounds, *ranks]
        for name in table.names:
            cells += (self._number_of_name(name.name), name.protocol, self._ranks[name.rule])
        offset = self._port_tables[table] = self.store(cells)
        return offset

    def _address_table(self, table: AddressTable | None, *, width: int) -> int:
        if table is None:
            return 0
        offsets = [0, *map(self._port_table, table.tables)]
        numbers = [word for start in table.starts for word in _number_words(start, width)]
        first = 1 + len(numbers)
        cells = [len(table.starts), *numbers, *(offsets[index] for index in table.nodes)]
        return self.store(cells, [first + node for node, index in enumerate(table.nodes) if index])


def _number_words(number: int, width: int) -> tuple[int, ...]:
    return tuple(number >> 32 * index & 0xFFFFFFFF for index in reversed(range(width)))


def tables_of(tier: TierProgram) -> Iterable[PortTable]:
    """Yield all port tables of a tier."""
    if tier.any_peer is not None:
        yield tier.any_peer
    for _selector, table in tier.selectors:
        yield table
    for addresses in (tier.ipv4, tier.ipv6):
        if addresses is not None:
            yield from addresses.tables


def rules_of(table: PortTable) -> Iterable[int]:
    """Yield all rules that a port table may return."""
    if table.every is not None:
        yield table.every
    for _protocol, ranges in table.ranges:
        for port_range in ranges:
            yield port_range.rule
    for name in table.names:
        yield name.rule
