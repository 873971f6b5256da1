"""Programs → words. A program is encoded once, as if it stood alone, and moved to its place whenever programs are put together.

So one that has not changed costs a copy and an addition for each offset in it.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from netpolq.enums import Protocol
from netpolq.snapshot.image import Block, PortTable, Program, Rule, TierProgram

_PROTOCOL_ORDER = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class Code(NamedTuple):
    """Words that may be put anywhere. `pointers`: places of the words that are offsets, counted from the first word.

    `entry`: where to begin to read.
    """

    words: "array[int]"
    pointers: "array[int]"
    entry: int

    def moved(self, base: int) -> "array[int]":
        """The words as they must be from an offset on."""
        words = self.words[:]
        for place in self.pointers:
            words[place] += base
        return words


def encode_program(program: Program, rules: Sequence[Rule], number_of_name: Callable[[str], int]) -> Code:
    """The words of a program. `rules`: what its rule numbers stand for; `number_of_name`: of policies and named ports in use."""
    coder = _Coder(number_of_name)
    tiers = [coder.tier(tier, rules) for tier in program]
    entry = coder.place([len(tiers), *tiers], range(1, 1 + len(tiers)))
    return Code(coder.words, coder.pointers, entry)


def encode_addresses(addresses: Sequence[bytes]) -> Code:
    """The words of a node's addresses."""
    words = array("I", [len(addresses)])
    for address in addresses:
        words.frombytes(address)
    return Code(words, array("I"), 0)


class _Coder:
    """Words while they grow. Equal structures are stored once."""

    def __init__(self, number_of_name: Callable[[str], int]) -> None:
        self.words = array("I")
        self.pointers = array("I")
        self._number_of_name = number_of_name
        self._placed: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._ranks: dict[int, int] = {}
        self._port_tables: dict[PortTable, int] = {}

    def place(self, cells: Sequence[int], pointers: Iterable[int] = ()) -> int:
        """Store cells; `pointers`: which of them are offsets of what was stored before. Returns their offset."""
        key = tuple(cells), tuple(pointers)
        offset = self._placed.get(key)
        if offset is None:
            offset = self._placed[key] = len(self.words)
            self.words.extend(cells)
            self.pointers.extend(offset + place for place in key[1])
        return offset

    def tier(self, tier: TierProgram, rules: Sequence[Rule]) -> int:
        used = sorted({number for table in tables_of(tier) for number in rules_of(table)})
        self._ranks = {number: rank for rank, number in enumerate(used)}
        self._port_tables = {}
        any_peer = 0 if tier.any_peer is None else self._port_table(tier.any_peer)
        blocks = [self._blocks(tier, version=4), self._blocks(tier, version=6)]
        count = len(tier.selectors)
        cells = [
            tier.tier,
            self.place([len(tier.isolated_by), *map(self._number_of_name, tier.isolated_by)]),
            any_peer,
            *blocks,
            count,
            self._rules([rules[number] for number in used]),
            *(selector for selector, _table in tier.selectors),
            *(self._port_table(table) for _selector, table in tier.selectors),
        ]
        present = [place for place, has in ((2, tier.any_peer is not None), *_present(tier)) if has]
        return self.place(cells, [1, *present, 6, *range(7 + count, 7 + 2 * count)])

    def _rules(self, rules: Sequence[Rule]) -> int:
        cells: list[int] = []
        for rule in rules:
            flags = rule.tier << 16 | rule.direction << 8 | rule.action
            cells += (self._number_of_name(rule.policy), flags, rule.position)
        return self.place(cells)

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
        offset = self._port_tables[table] = self.place(cells)
        return offset

    def _blocks(self, tier: TierProgram, *, version: int) -> int:
        by_length: dict[int, dict[int, list[tuple[Block, PortTable]]]] = {}
        for block, table in tier.blocks:
            if block.version == version:
                by_length.setdefault(block.prefix_length, {}).setdefault(block.network, []).append((block, table))
        if not by_length:
            return 0
        cells = [len(by_length)]
        for prefix_length in sorted(by_length):
            networks = by_length[prefix_length]
            numbers: list[int] = []
            lists: list[int] = []
            for network in sorted(networks):
                numbers += _number_words(network, version)
                block_list = [len(networks[network])]
                for block, table in networks[network]:
                    block_list += (self._port_table(table), self._exceptions(block))
                lists.append(self.place(block_list, range(1, len(block_list))))
            cells += (prefix_length, len(networks), self.place(numbers), self.place(lists, range(len(lists))))
        return self.place(cells, [place for first in range(3, len(cells), 4) for place in (first, first + 1)])

    def _exceptions(self, block: Block) -> int:
        cells = [len(block.except_)]
        for low, high in block.except_:
            cells += (*_number_words(low, block.version), *_number_words(high, block.version))
        return self.place(cells)


def _present(tier: TierProgram) -> Iterable[tuple[int, bool]]:
    versions = {block.version for block, _table in tier.blocks}
    return (3, 4 in versions), (4, 6 in versions)


def _number_words(number: int, version: int) -> tuple[int, ...]:
    if version == 4:
        return (number,)
    return tuple(number >> shift & 0xFFFFFFFF for shift in (96, 64, 32, 0))


def tables_of(tier: TierProgram) -> Iterable[PortTable]:
    """All port tables of a tier."""
    if tier.any_peer is not None:
        yield tier.any_peer
    for _selector, table in tier.selectors:
        yield table
    for _block, table in tier.blocks:
        yield table


def rules_of(table: PortTable) -> Iterable[int]:
    """All rules that a port table may answer with."""
    if table.every is not None:
        yield table.every
    for _protocol, ranges in table.ranges:
        for port_range in ranges:
            yield port_range.rule
    for name in table.names:
        yield name.rule
