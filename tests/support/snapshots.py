"""The canonical form of a snapshot: its bytes decoded back to a value, numbered in sorted order, and encoded from scratch.

A patched snapshot may have the same meaning as a fresh one with other ids and offsets. The meaning must not depend on history, and this
form contains nothing else.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from netpolq.enums import Protocol, Tier
from netpolq.policy.compiler import Compiler
from netpolq.policy.program_compiler import PeerSelector
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import AddressTable, Identity, PortName, PortRange, PortTable, Program, Rule, TierProgram
from netpolq.snapshot.layout import RULE_WORDS, Section
from netpolq.snapshot.reader import SnapshotReader
from netpolq.snapshot.sections import CELLS
from tests.support.images import Endpoint, Image, encode


def canonical(compiler: Compiler) -> bytes:
    """Return the meaning of a compiler's snapshot, as bytes that depend on nothing else."""
    return encode(image_of(compiler.builder, compiler.selectors), version=1, created_ns=0)


def image_of(builder: SnapshotBuilder, selectors: Mapping[int, PeerSelector]) -> Image:
    """The value of a snapshot. `selectors`: its selectors by id."""
    view = SnapshotReader(builder.encoded(version=1, created_ns=0))
    try:
        return _Reader(view, selectors).image()
    finally:
        view.close()


class _Reader:
    def __init__(self, view: SnapshotReader, selectors: Mapping[int, PeerSelector]) -> None:
        self._view = view
        self._words = view._words
        self._selectors = selectors
        ordered = sorted(selectors.values())
        self._canonical_number = {number: ordered.index(selector) for number, selector in selectors.items()}
        self._rules = sorted(set(self._all_rules()), key=lambda rule: (rule.tier, rule.policy.split("/"), *rule[2:]))
        self._rule_number = {rule: number for number, rule in enumerate(self._rules)}

    def image(self) -> Image:
        contents = {key: self._identity(self._view._identities[number]) for key, number in self._cells(Section.ADDRESSES)}
        identities = sorted(set(contents.values()))
        nodes = {key: tuple(sorted(self._view.own_node_addresses(key))) for key, _place in self._cells(Section.NODE_OF)}
        all_nodes = sorted(set(nodes.values()))
        return Image(
            rules=tuple(self._rules),
            selectors=tuple(sorted(self._selectors.values())),
            identities=tuple(identities),
            addresses={key: identities.index(content) for key, content in contents.items()},
            endpoints={key: Endpoint(*map(self._program, self._view.programs(key))) for key in self._endpoints()},
            nodes=tuple(all_nodes),
            node_of={key: all_nodes.index(node) for key, node in nodes.items()},
            pod_names={key: self._view.pod_name(key) or "" for key, _place in self._cells(Section.POD_NAMES)},
        )

    def _cells(self, section: Section) -> Iterator[tuple[bytes, int]]:
        """Every key of a hash table and its value, each of which the view must find, too."""
        view, cell = self._view, CELLS[section]
        offset, length, _slots = view._sections[section]
        for key, value in cell.iter_unpack(view._memory[offset : offset + length]):
            if value:
                assert view._find(section, key) == value, "a key that no search finds"
                yield key, value

    def _endpoints(self) -> Iterator[bytes]:
        return (key for key, _programs in self._cells(Section.ENDPOINTS))

    def _identity(self, offset: int) -> Identity:
        assert offset, "an address with an identity that is not in use"
        words = self._words
        count = words[offset]
        first = offset + count + 2
        ports = [words[place : place + 2] for place in range(first, first + 2 * words[first - 1], 2)]
        return Identity(
            tuple(sorted(self._canonical_number[number] for number in words[offset + 1 : offset + 1 + count])),
            tuple(sorted((self._view.string(name), Protocol(port >> 16), port & 0xFFFF) for name, port in ports)),
        )

    def _tiers(self, program: int) -> list[int]:
        return list(self._words[program + 1 : program + 1 + self._words[program]])

    def _all_rules(self) -> Iterator[Rule]:
        for key in self._endpoints():
            for program in self._view.programs(key):
                for tier in self._tiers(program) if program else ():
                    yield from (self._rule(tier, rank) for table in self._tables(tier) for rank in self._ranks(table))

    def _rule(self, tier: int, rank: int) -> Rule:
        record = self._view.rule(self._words[tier + 6] + RULE_WORDS * rank)
        return Rule(record.tier, record.policy, record.direction, record.position, record.action)

    def _tables(self, tier: int) -> Iterator[int]:
        words, count = self._words, self._words[tier + 5]
        if words[tier + 2]:
            yield words[tier + 2]
        yield from words[tier + 7 + count : tier + 7 + 2 * count]
        for table, width in ((words[tier + 3], 1), (words[tier + 4], 4)):
            if table:
                yield from filter(None, self._nodes(table, width))

    def _ranks(self, table: int) -> Iterator[int]:
        words, ranges, names = self._words, self._words[table + 3], self._words[table + 4]
        if words[table]:
            yield words[table] - 1
        yield from words[table + 5 + ranges : table + 5 + 2 * ranges]
        yield from (words[table + 5 + 2 * ranges + 3 * name + 2] for name in range(names))

    def _program(self, program: int) -> Program | None:
        return tuple(self._tier(tier) for tier in self._tiers(program)) if program else None

    def _tier(self, tier: int) -> TierProgram:
        words, count = self._words, self._words[tier + 5]
        numbers = list(words[tier + 7 : tier + 7 + count])
        assert numbers == sorted(numbers), "the view searches them"
        tables = words[tier + 7 + count : tier + 7 + 2 * count]
        selectors = {
            self._canonical_number[number]: self._table(tier, table) for number, table in zip(numbers, tables, strict=True)
        }
        isolated_by = words[tier + 1]
        return TierProgram(
            tier=Tier(words[tier]),
            isolated_by=tuple(
                self._view.string(number) for number in words[isolated_by + 1 : isolated_by + 1 + words[isolated_by]]
            ),
            any_peer=self._table(tier, words[tier + 2]) if words[tier + 2] else None,
            selectors=tuple(sorted(selectors.items())),
            ipv4=self._address_table(tier, words[tier + 3], 1),
            ipv6=self._address_table(tier, words[tier + 4], 4),
        )

    def _table(self, tier: int, table: int) -> PortTable:
        words, ranges = self._words, self._words[table + 3]
        bounds, ranks, names = table + 5, table + 5 + ranges, table + 5 + 2 * ranges

        def rule(rank: int) -> int:
            return self._rule_number[self._rule(tier, rank)]

        by_protocol = []
        for protocol, (start, end) in zip(Protocol, pairwise((0, *words[table + 1 : table + 4])), strict=True):
            found = tuple(
                PortRange(words[bounds + place] >> 16, words[bounds + place] & 0xFFFF, rule(words[ranks + place]))
                for place in range(start, end)
            )
            if found:
                by_protocol.append((protocol, found))
        return PortTable(
            every=rule(words[table] - 1) if words[table] else None,
            ranges=tuple(by_protocol),
            names=tuple(
                sorted(
                    PortName(Protocol(words[place + 1]), self._view.string(words[place]), rule(words[place + 2]))
                    for place in range(names, names + 3 * words[table + 4], 3)
                )
            ),
        )

    def _address_table(self, tier: int, table: int, width: int) -> AddressTable | None:
        if not table:
            return None
        words, count = self._words, self._words[table]
        first = table + 1
        end = first + width * count
        starts = tuple(
            int.from_bytes(b"".join(word.to_bytes(4) for word in words[place : place + width]))
            for place in range(first, end, width)
        )
        assert list(starts) == sorted(set(starts)), "the view searches them"
        nodes = self._nodes(table, width)
        tables = [node for node in dict.fromkeys(nodes) if node]
        number_of = {0: 0, **{node: number for number, node in enumerate(tables, 1)}}
        return AddressTable(starts, tuple(number_of[node] for node in nodes), tuple(self._table(tier, node) for node in tables))

    def _nodes(self, table: int, width: int) -> list[int]:
        """The port tables at the nodes of an address table, 0 for none."""
        count = self._words[table]
        first = table + 1 + width * count
        return list(self._words[first : first + 2 * count])
