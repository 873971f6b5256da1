"""The tier encoder: tier programs as words that can be moved. Offsets in them count from their first word."""

from array import array
from collections.abc import Sequence

from netpolq.enums import Protocol
from netpolq.snapshot.decision_table import DecisionTable
from netpolq.snapshot.ir import AddressTable, PortTable, Rule, Tables, TierProgram
from netpolq.snapshot.layout import TABLE_LIST, TierWord
from netpolq.snapshot.string_table import StringTable

_PROTOCOL_ORDER = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)


class EncodedTier:
    """An encoded tier program. It holds references to strings and decisions until `release`."""

    __slots__ = ("_decisions", "_names", "_rules", "_strings", "words")

    def __init__(self, program: TierProgram, strings: StringTable, decisions: DecisionTable) -> None:
        self._strings, self._decisions = strings, decisions
        self._names = (*program.isolated_by, *sorted({name.name for table in tables_of(program) for name in table.names}))
        self._rules: tuple[Rule, ...] = program.rules
        for name in self._names:
            strings.acquire(name)
        self.words = _Encoder(strings, [decisions.acquire(rule) for rule in program.rules]).encode(program)

    def release(self) -> None:
        """Remove the references."""
        for name in self._names:
            self._strings.release(name)
        for rule in self._rules:
            self._decisions.release(rule)


class _Encoder:
    """The words of one tier program during encoding. Equal structures are stored once."""

    def __init__(self, strings: StringTable, decisions: Sequence[int]) -> None:
        self._strings = strings
        self._decisions = decisions
        self._words = array("I")
        self._offsets: dict[tuple[int, ...], int] = {}
        # By identity: the same table is at many nodes of an address table, and hashing all of its ranges each time takes seconds.
        self._table_offsets: dict[int, int] = {}

    def encode(self, program: TierProgram) -> "array[int]":
        """Return the words of a tier program."""
        count = len(program.selectors)
        head = array("I", bytes(4 * (TierWord.FIRST_SELECTOR + 2 * count)))
        self._words.extend(head)
        isolated_by = [len(program.isolated_by), *map(self._strings.number, program.isolated_by)]
        head[TierWord.TIER] = program.tier
        head[TierWord.ISOLATED_BY] = self._store(isolated_by)
        head[TierWord.RULES] = self._store(self._decisions)
        head[TierWord.ANY_PEER] = self._tables(program.any_peer)
        head[TierWord.IPV4] = self._address_table(program.ipv4, width=1)
        head[TierWord.IPV6] = self._address_table(program.ipv6, width=4)
        head[TierWord.SELECTOR_COUNT] = count
        for index, (selector, tables) in enumerate(program.selectors, TierWord.FIRST_SELECTOR):
            head[index] = selector
            head[index + count] = self._tables(tables)
        self._words[: len(head)] = head
        return self._words

    def _store(self, cells: Sequence[int]) -> int:
        """Store cells and return their offset."""
        key = tuple(cells)
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = len(self._words)
            self._words.extend(cells)
        return offset

    def _tables(self, tables: Tables) -> int:
        if not tables:
            return 0
        offsets = list(map(self._port_table, tables))
        return offsets[0] if len(offsets) == 1 else TABLE_LIST + self._store([len(offsets), *offsets])

    def _port_table(self, table: PortTable) -> int:
        offset = self._table_offsets.get(id(table))
        if offset is not None:
            return offset
        ranges = dict(table.ranges)
        ends: list[int] = []
        bounds: list[int] = []
        ranks: list[int] = []
        for protocol in _PROTOCOL_ORDER:
            for low, high, rank in ranges.get(protocol, ()):
                bounds.append(low << 16 | high)
                ranks.append(rank)
            ends.append(len(bounds))
        cells = [0 if table.every is None else table.every + 1, *ends, len(table.names), *bounds, *ranks]
        for name in table.names:
            cells += (self._strings.number(name.name), name.protocol, name.rank)
        offset = self._table_offsets[id(table)] = self._store(cells)
        return offset

    def _address_table(self, table: AddressTable | None, *, width: int) -> int:
        if table is None:
            return 0
        offsets = [0, *map(self._tables, table.tables)]
        numbers = [word for start in table.starts for word in _number_words(start, width)]
        return self._store([len(table.starts), *numbers, *(offsets[index] for index in table.nodes)])


def _number_words(number: int, width: int) -> tuple[int, ...]:
    return tuple(number >> 32 * index & 0xFFFFFFFF for index in reversed(range(width)))


def tables_of(program: TierProgram) -> list[PortTable]:
    """The port tables of a tier program, each object once."""
    lists = [program.any_peer, *(tables for _selector, tables in program.selectors)]
    lists += [tables for addresses in (program.ipv4, program.ipv6) if addresses is not None for tables in addresses.tables]
    return list({id(table): table for tables in lists for table in tables}.values())
