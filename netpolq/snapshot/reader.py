"""The snapshot reader: read-only access to the bytes of a snapshot, and the evaluation of flows. Nothing is deserialised as a whole.

Workers use it on a mapped memfd, and `netpolq explain` on plain bytes, so both give the same verdict.
"""

import zlib

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple, cast

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq.enums import Action, Direction, Protocol, Reason, Tier, Verdict
from netpolq.snapshot.layout import ADDRESS_CELL, ENDPOINT_CELL, NAME_LENGTH, RULE_WORDS, Section
from netpolq.snapshot.sections import CELLS, check

NO_RULE = 0xFFFFFFFF
_KEY_BYTES = 16
_RANGE_END = {Protocol.TCP: 1, Protocol.UDP: 2, Protocol.SCTP: 3}
_PORT_TABLE_HEAD = 5


class Decision(NamedTuple):
    """A verdict on a flow. `direction`: the one that denies, None when accepted. `rule`: the last deciding rule, `NO_RULE` if none did;
    a number that is valid for `rule` of this reader only.
    """

    verdict: Verdict
    reason: Reason
    direction: Direction | None
    rule: int


class RuleRecord(NamedTuple):
    """A rule as stored; see `netpolq.snapshot.ir.Rule`."""

    policy: str
    tier: Tier
    direction: Direction
    action: Action
    position: int


_NOT_ISOLATED = Decision(Verdict.ACCEPT, Reason.NOT_ISOLATED, None, NO_RULE)
_SAME_ADDRESS = Decision(Verdict.ACCEPT, Reason.SAME_ADDRESS, None, NO_RULE)


class SnapshotReader:
    """A validated snapshot. `buffer` must not change while the reader is in use."""

    def __init__(self, buffer: bytes | mmap, *, is_validated: bool = False) -> None:
        """See `netpolq.snapshot.sections.check`. Raises `SnapshotError`."""
        contents = check(buffer, is_validated=is_validated)
        self._buffer = buffer
        self._memory = memoryview(buffer)
        self.version = contents.version
        self.created_ns = contents.created_ns
        self._sections = contents.sections
        self._words = self._cells(Section.WORDS, self._sections[Section.WORDS].entries)
        self._identities = self._cells(Section.IDENTITIES, self._sections[Section.IDENTITIES].entries)
        self._string_ends = self._cells(Section.STRINGS, self._sections[Section.STRINGS].entries + 1)
        self._address_base, _, self._address_slots = self._sections[Section.ADDRESSES]
        self._endpoint_base, _, self._endpoint_slots = self._sections[Section.ENDPOINTS]

    def _cells(self, section: Section, count: int) -> memoryview:
        offset = self._sections[section].offset
        return self._memory[offset : offset + 4 * count].cast("I")

    def close(self) -> None:
        """Release the memory. The reader must not be used afterwards."""
        for memory in (self._words, self._identities, self._string_ends, self._memory):
            memory.release()
        if isinstance(self._buffer, mmap):
            self._buffer.close()

    # --- the decision -------------------------------------------------------------------------------------------------------------

    def evaluate(self, source: bytes, destination: bytes, protocol: int, port: int) -> Decision:
        """Evaluate a flow in both directions: egress of the source, then ingress of the destination, as far as they are endpoints.

        Addresses: 16-byte keys. `protocol`: IANA number. `port`: destination port, 0 unless TCP, UDP or SCTP.
        """
        if source == destination:
            return _SAME_ADDRESS
        egress = self.programs(source)[Direction.EGRESS]
        ingress = self.programs(destination)[Direction.INGRESS]
        if not egress and not ingress:
            return _NOT_ISOLATED
        destination_identity = self.identity(destination)
        rule = NO_RULE
        if egress:
            allowed, rule = self.run(egress, destination, destination_identity, destination_identity, protocol, port)
            if not allowed:
                return Decision(Verdict.DROP, Reason.DENIED, Direction.EGRESS, rule)
        if ingress:
            allowed, rule = self.run(ingress, source, self.identity(source), destination_identity, protocol, port)
            if not allowed:
                return Decision(Verdict.DROP, Reason.DENIED, Direction.INGRESS, rule)
        return Decision(Verdict.ACCEPT, Reason.ALLOWED, None, rule)

    def run(
        self, program: int, peer: bytes, peer_identity: int, destination_identity: int, protocol: int, port: int
    ) -> tuple[bool, int]:
        """Run one program. Identities are word offsets (0: none). Returns whether the flow is allowed, and the deciding rule."""
        words = self._words
        for tier in range(program + 1, program + 1 + words[program]):
            offset = words[tier]
            rank = self._first_rule(offset, peer, peer_identity, destination_identity, protocol, port)
            if rank != NO_RULE:
                rule = words[offset + 6] + RULE_WORDS * rank
                action = self._rule_flags(rule) & 0xFF
                if action != Action.PASS:
                    return action == Action.ACCEPT, rule
            elif words[words[offset + 1]]:
                return False, NO_RULE
        return True, NO_RULE

    def _first_rule(self, tier: int, peer: bytes, peer_identity: int, destination_identity: int, protocol: int, port: int) -> int:
        """The lowest rank of a rule of a tier that matches, `NO_RULE` if none does."""
        tables = [*self._tables_of_identity(tier, peer_identity), *self._tables_of_address(tier, peer)]
        return min((self._match(table, destination_identity, protocol, port) for table in tables), default=NO_RULE)

    def _tables_of_identity(self, tier: int, peer_identity: int) -> list[int]:
        """The port tables of a tier for a peer with this identity (0: none)."""
        words = self._words
        tables = [words[tier + 2]] if words[tier + 2] else []
        count = words[tier + 5]
        if not peer_identity or not count:
            return tables
        start = tier + 7
        end = start + count
        mine = peer_identity + 1
        mine_end = mine + words[peer_identity]
        # Walk the shorter list and search the longer one: policies may make either of them long.
        if mine_end - mine <= count:
            for selector in words[mine:mine_end]:
                index = bisect_left(words, selector, start, end)
                if index < end and words[index] == selector:
                    tables.append(words[index + count])
        else:
            for index in range(start, end):
                found = bisect_left(words, words[index], mine, mine_end)
                if found < mine_end and words[found] == words[index]:
                    tables.append(words[index + count])
        return tables

    def _tables_of_address(self, tier: int, peer: bytes) -> list[int]:
        """The port tables of a tier's IP blocks that contain a peer's address."""
        words = self._words
        is_ipv4 = peer.startswith(IPV4_MAPPED_PREFIX)
        table = words[tier + (3 if is_ipv4 else 4)]
        if not table:
            return []
        first, count = table + 1, words[table]
        if is_ipv4:
            nodes = first + count
            node = bisect_right(words, int.from_bytes(peer[12:]), first, nodes) - 1 - first
        else:
            nodes = first + 4 * count
            node = bisect_right(range(first, nodes, 4), int.from_bytes(peer), key=self._wide_number) - 1
        tables: list[int] = []
        if node >= 0:
            node += count
            while node:
                if found := words[nodes + node]:
                    tables.append(found)
                node //= 2
        return tables

    def _wide_number(self, offset: int) -> int:
        words = self._words
        return words[offset] << 96 | words[offset + 1] << 64 | words[offset + 2] << 32 | words[offset + 3]

    def tables(self, program: int, peer: bytes, peer_identity: int) -> list[int]:
        """All port tables of a program for a peer: between their bounds, the port does not change the result of `run`."""
        words = self._words
        return [
            table
            for tier in words[program + 1 : program + 1 + words[program]]
            for table in (*self._tables_of_identity(tier, peer_identity), *self._tables_of_address(tier, peer))
        ]

    def tables_of_address(self, program: int, peer: bytes) -> tuple[int, ...]:
        """Those of `tables` that depend on the peer's address and not on its identity."""
        words = self._words
        return tuple(
            table for tier in words[program + 1 : program + 1 + words[program]] for table in self._tables_of_address(tier, peer)
        )

    def starts(self, program: int, *, ipv4: bool, most: int) -> list[int] | None:
        """Addresses of one family, as numbers and sorted, at which the answer of `tables_of_address` may change; None: more than `most`."""
        words = self._words
        found: set[int] = set()
        for tier in words[program + 1 : program + 1 + words[program]]:
            table = words[tier + (3 if ipv4 else 4)]
            if not table:
                continue
            if words[table] > most:
                return None
            first, end = table + 1, table + 1 + words[table] * (1 if ipv4 else 4)
            found.update(words[first:end] if ipv4 else map(self._wide_number, range(first, end, 4)))
        return sorted(found)

    def port_bounds(self, table: int, destination_identity: int, protocol: int) -> Iterator[int]:
        """Ports at which the answer of a port table may change: each is the first port of a new range."""
        words = self._words
        end_cell = _RANGE_END.get(cast("Protocol", protocol))
        if end_cell is None:
            return
        bounds = table + _PORT_TABLE_HEAD
        for bound in words[bounds + (words[table + end_cell - 1] if end_cell > 1 else 0) : bounds + words[table + end_cell]]:
            yield bound >> 16
            yield (bound & 0xFFFF) + 1
        if words[table + 4] and destination_identity:
            ports = destination_identity + 1 + words[destination_identity]
            for carried in words[ports + 2 : ports + 2 + 2 * words[ports] : 2]:
                if carried >> 16 == protocol:
                    yield carried & 0xFFFF
                    yield (carried & 0xFFFF) + 1

    def _match(self, table: int, destination_identity: int, protocol: int, port: int) -> int:
        """The lowest rank of a rule of a port table for a protocol and port."""
        words = self._words
        every = words[table]
        best = every - 1 if every else NO_RULE
        end_cell = _RANGE_END.get(cast("Protocol", protocol))
        if end_cell is None:
            return best
        ranges = words[table + 3]
        bounds = table + _PORT_TABLE_HEAD
        low = bounds + (words[table + end_cell - 1] if end_cell > 1 else 0)
        high = bounds + words[table + end_cell]
        if low < high:
            index = bisect_right(words, port << 16 | 0xFFFF, low, high) - 1
            if index >= low and words[index] & 0xFFFF >= port:
                best = min(best, words[index + ranges])
        names = words[table + 4]
        if names and destination_identity:
            best = min(best, self._match_names(bounds + 2 * ranges, names, destination_identity, protocol << 16 | port))
        return best

    def _match_names(self, first: int, names: int, destination_identity: int, wanted: int) -> int:
        words = self._words
        best = NO_RULE
        ports = destination_identity + 1 + words[destination_identity]
        carried = {words[index] for index in range(ports + 1, ports + 1 + 2 * words[ports], 2) if words[index + 1] == wanted}
        if carried:
            for index in range(first, first + 3 * names, 3):
                if words[index] in carried and words[index + 1] == wanted >> 16:
                    best = min(best, words[index + 2])
        return best

    # --- look-ups -----------------------------------------------------------------------------------------------------------------

    def identity(self, address: bytes) -> int:
        """Word offset of an address's identity, 0 if it has none."""
        buffer = self._buffer
        position = self._address_base + (zlib.crc32(address) * self._address_slots >> 32) * ADDRESS_CELL.size
        while True:
            key, number = ADDRESS_CELL.unpack_from(buffer, position)
            if not number:
                return 0
            if key == address:
                identity: int = self._identities[number]
                return identity
            position += ADDRESS_CELL.size

    def programs(self, address: bytes) -> tuple[int, int]:
        """Word offsets of an address's egress and ingress programs (in the order of `Direction`), 0 where it is not isolated."""
        buffer = self._buffer
        position = self._endpoint_base + (zlib.crc32(address) * self._endpoint_slots >> 32) * ENDPOINT_CELL.size
        while True:
            key, programs = ENDPOINT_CELL.unpack_from(buffer, position)
            if key == address or not programs:
                return programs & 0xFFFFFFFF, programs >> 32
            position += ENDPOINT_CELL.size

    def _find(self, section: Section, address: bytes) -> int:
        """The value of an address in a hash table, 0 if it has none."""
        cell = CELLS[section]
        offset, _, slots = self._sections[section]
        position = offset + (zlib.crc32(address) * slots >> 32) * cell.size
        while True:
            key, value = cell.unpack_from(self._buffer, position)
            if key == address or not value:
                return cast("int", value)
            position += cell.size

    def endpoints(self) -> Iterator[tuple[bytes, int, int]]:
        """Address, egress program and ingress program of every isolated local pod, in no order."""
        start = self._endpoint_base
        with self._memory[start : start + self._sections[Section.ENDPOINTS].length] as memory:
            for key, programs in ENDPOINT_CELL.iter_unpack(memory):
                if programs:
                    yield key, programs & 0xFFFFFFFF, programs >> 32

    def own_node_addresses(self, address: bytes) -> frozenset[bytes]:
        """Addresses of the node that runs the pod with this address; empty in the snapshot of a single node."""
        node = self._find(Section.NODE_OF, address)
        if not node:
            return frozenset()
        count = self._words[node]
        cells = self._words[node + 1 : node + 1 + 4 * count].tobytes()
        return frozenset(cells[start : start + _KEY_BYTES] for start in range(0, len(cells), _KEY_BYTES))

    def pod_name(self, address: bytes) -> str | None:
        """ns/name of the pod with this address; None for an address without a pod, and in a snapshot without names."""
        name = self._find(Section.POD_NAMES, address)
        if not name:
            return None
        start = self._sections[Section.NAMES].offset + name - 1
        (length,) = NAME_LENGTH.unpack_from(self._buffer, start)
        return self._buffer[start + NAME_LENGTH.size : start + NAME_LENGTH.size + length].decode()

    def isolated_by(self, program: int) -> list[str]:
        """The policies that isolate in a program's NetworkPolicy tier; empty for program 0."""
        words = self._words
        if not program:
            return []
        for tier in range(program + 1, program + 1 + words[program]):
            offset = words[tier]
            if words[offset] == Tier.NETWORK_POLICY:
                policies = words[offset + 1]
                return [self.string(number) for number in words[policies + 1 : policies + 1 + words[policies]]]
        return []

    def rule(self, number: int) -> RuleRecord:
        """A rule by the number in a decision of this reader."""
        policy, flags, index = self._words[number : number + RULE_WORDS]
        return RuleRecord(self.string(policy), Tier(flags >> 16), Direction(flags >> 8 & 0xFF), Action(flags & 0xFF), index)

    def _rule_flags(self, number: int) -> int:
        return self._words[number + 1]

    def string(self, number: int) -> str:
        """A name by number."""
        offset, _, entries = self._sections[Section.STRINGS]
        base = offset + 4 * (entries + 1)
        return self._buffer[base + self._string_ends[number] : base + self._string_ends[number + 1]].decode()
