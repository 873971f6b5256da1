"""The program reader: evaluates one direction of a flow with a program, in the words of a snapshot (`netpolq.snapshot.layout`).

An evaluation has two steps. `candidates` finds the port tables for a peer, which depend on its identity and address and not on the port.
`decide` finds the rule for a protocol and port in them. A cache may keep the result of the first step.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from netpolq.addresses import IPV4_MAPPED_PREFIX
from netpolq.enums import Action, Protocol, Tier
from netpolq.snapshot.layout import (
    NO_DECISION,
    TABLE_LIST,
    DecisionWord,
    PortNameWord,
    PortTableWord,
    ProgramWord,
    TierWord,
)

Candidates = Sequence[Sequence[int]]
"""Offsets of port tables, for each tier program of a program."""

# Plain integers, because arithmetic with members of an IntEnum is slow.
_COUNT, _FIRST_TIER, _DENIAL = (word.value for word in (ProgramWord.COUNT, ProgramWord.FIRST_TIER, ProgramWord.DENIAL))
_RULES, _ANY_PEER, _IPV4, _IPV6 = (word.value for word in (TierWord.RULES, TierWord.ANY_PEER, TierWord.IPV4, TierWord.IPV6))
_SELECTOR_COUNT, _FIRST_SELECTOR = TierWord.SELECTOR_COUNT.value, TierWord.FIRST_SELECTOR.value
_SCTP_END, _NAME_COUNT, _FIRST_RANGE = (
    word.value for word in (PortTableWord.SCTP_END, PortTableWord.NAME_COUNT, PortTableWord.FIRST_RANGE)
)
_RANGE_END = {
    Protocol.TCP.value: PortTableWord.TCP_END.value,
    Protocol.UDP.value: PortTableWord.UDP_END.value,
    Protocol.SCTP.value: PortTableWord.SCTP_END.value,
}
_NAME_WORDS = len(PortNameWord)
_DECISION_WORDS = len(DecisionWord)
_NETWORK_POLICY = Tier.NETWORK_POLICY.value
_PASS = Action.PASS.value
_NO_RANK = 0xFFFFFFFF


class ProgramReader:
    """Programs, and what they refer to. `programs`, `contents`, `decisions`: the words of these sections. `name`: UTF-8 of a string."""

    def __init__(self, programs: memoryview, contents: memoryview, decisions: memoryview, name: Callable[[int], bytes]) -> None:
        self._words = programs
        self._contents = contents
        self._decisions = decisions
        self._name = name
        self._tiers: dict[int, list[int]] = {}

    def action(self, decision: int) -> int:
        """The action of a decision; meaningless for `NO_DECISION`."""
        action: int = self._decisions[decision * _DECISION_WORDS] & 0xFF
        return action

    def tiers(self, program: int) -> list[int]:
        """The offsets of the tier programs of a program."""
        tiers = self._tiers.get(program)
        if tiers is None:
            words = self._words
            tiers = words[program + _FIRST_TIER : program + _FIRST_TIER + words[program + _COUNT]].tolist()
            self._tiers[program] = tiers
        return tiers

    # --- the port tables for a peer -----------------------------------------------------------------------------------------------

    def candidates(self, program: int, peer: bytes, peer_identity: int) -> Candidates:
        """The port tables for a peer. `peer_identity`: offset of its identity, 0: none."""
        return [[*self._of_identity(tier, peer_identity), *self._of_address(tier, peer)] for tier in self.tiers(program)]

    def tables_of_address(self, program: int, peer: bytes) -> tuple[int, ...]:
        """Those of the candidates that depend on the peer's address and not on its identity."""
        return tuple(table for tier in self.tiers(program) for table in self._of_address(tier, peer))

    def starts(self, program: int, *, ipv4: bool, most: int) -> list[int] | None:
        """Addresses of one family, as numbers and sorted, at which `tables_of_address` may change; None: more than `most`."""
        words = self._words
        found: set[int] = set()
        for tier in self.tiers(program):
            offset = words[tier + (_IPV4 if ipv4 else _IPV6)]
            if not offset:
                continue
            table = tier + offset
            if words[table] > most:
                return None
            first, end = table + 1, table + 1 + words[table] * (1 if ipv4 else 4)
            found.update(words[first:end] if ipv4 else map(self._wide_number, range(first, end, 4)))
        return sorted(found) if len(found) <= most else None

    def _of_identity(self, tier: int, peer_identity: int) -> list[int]:
        words, contents = self._words, self._contents
        tables = self._listed(tier, words[tier + _ANY_PEER])
        count = words[tier + _SELECTOR_COUNT]
        if not peer_identity or not count:
            return tables
        start = tier + _FIRST_SELECTOR
        end = start + count
        mine = peer_identity + 1
        mine_end = mine + contents[peer_identity]
        # Walk the shorter list and search the longer one: policies may make either of them long.
        if mine_end - mine <= count:
            for selector in contents[mine:mine_end]:
                index = bisect_left(words, selector, start, end)
                if index < end and words[index] == selector:
                    tables += self._listed(tier, words[index + count])
        else:
            for index in range(start, end):
                found = bisect_left(contents, words[index], mine, mine_end)
                if found < mine_end and contents[found] == words[index]:
                    tables += self._listed(tier, words[index + count])
        return tables

    def _of_address(self, tier: int, peer: bytes) -> list[int]:
        words = self._words
        is_ipv4 = peer.startswith(IPV4_MAPPED_PREFIX)
        offset = words[tier + (_IPV4 if is_ipv4 else _IPV6)]
        if not offset:
            return []
        table = tier + offset
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
                if listed := words[nodes + node]:
                    if listed < TABLE_LIST:
                        tables.append(tier + listed)
                    else:
                        tables += self._listed(tier, listed)
                node //= 2
        return tables

    def _listed(self, tier: int, tables: int) -> list[int]:
        """The offsets of port tables; `tables`: a reference in a tier program, 0: none."""
        if tables < TABLE_LIST:
            return [tier + tables] if tables else []
        words, first = self._words, tier + tables - TABLE_LIST
        return [tier + table for table in words[first + 1 : first + 1 + words[first]]]

    def _wide_number(self, offset: int) -> int:
        words = self._words
        return words[offset] << 96 | words[offset + 1] << 64 | words[offset + 2] << 32 | words[offset + 3]

    # --- the rule for a port ------------------------------------------------------------------------------------------------------

    def decide(
        self,
        program: int,
        candidates: Candidates,
        destination_identity: int,
        protocol: int,
        port: int,
        passes: list[int] | None = None,
    ) -> int:
        """The decision of a program: of the first tier in which a rule accepts or denies. `NO_DECISION`: no policy decides.

        `passes`: gets the decisions that left the flow to the next tier.
        """
        words = self._words
        tier = best = -1
        for offset, tables in zip(self.tiers(program), candidates, strict=True):
            if words[offset] != tier:
                if best > NO_DECISION and not self._is_pass(best, passes):
                    return best
                if best == NO_DECISION and tier == _NETWORK_POLICY:
                    break
                tier, best = words[offset], NO_DECISION
            found = self._first_rule(offset, tables, destination_identity, protocol, port) if tables else NO_DECISION
            if found and (not best or self._precedes(found, best)):
                best = found
        if best > NO_DECISION:
            return NO_DECISION if self._is_pass(best, passes) else best
        return words[program + _DENIAL] if tier == _NETWORK_POLICY else NO_DECISION

    def _is_pass(self, decision: int, passes: list[int] | None) -> bool:
        """Whether a rule leaves the flow to the next tier. Adds it to `passes` then."""
        if self.action(decision) != _PASS:
            return False
        if passes is not None:
            passes.append(decision)
        return True

    def is_isolation(self, program: int, decision: int) -> bool:
        """Whether a decision of a program is its isolation by NetworkPolicies."""
        return decision != NO_DECISION and decision == self._words[program + _DENIAL]

    def _first_rule(self, tier: int, tables: Sequence[int], destination_identity: int, protocol: int, port: int) -> int:
        """The decision of the first rule of a tier program that matches; `NO_DECISION`: none does."""
        rank = _NO_RANK
        for table in tables:
            found = self._rank(table, destination_identity, protocol, port)
            rank = min(rank, found)
        if rank == _NO_RANK:
            return NO_DECISION
        words = self._words
        decision: int = words[tier + words[tier + _RULES] + rank]
        return decision

    def _record(self, decision: int) -> memoryview:
        """The words of a decision, see `DecisionWord`."""
        first = decision * _DECISION_WORDS
        return self._decisions[first : first + _DECISION_WORDS]

    def _precedes(self, one: int, other: int) -> bool:
        """Whether a rule precedes another one of its tier that is in another tier program."""
        return self._precedence(one) < self._precedence(other)

    def _precedence(self, decision: int) -> tuple[int, bytes, int]:
        _flags, policy, position, priority, _rule_name = self._record(decision)
        return priority, self._name(policy), position  # the bytes of UTF-8 sort as the characters do

    def port_bounds(self, table: int, destination_identity: int, protocol: int) -> Iterator[int]:
        """Ports at which the answer of a port table may change: each is the first port of a new range."""
        words, contents = self._words, self._contents
        end_cell = _RANGE_END.get(protocol)
        if end_cell is None:
            return
        bounds = table + _FIRST_RANGE
        for bound in words[bounds + (words[table + end_cell - 1] if end_cell > 1 else 0) : bounds + words[table + end_cell]]:
            yield bound >> 16
            yield (bound & 0xFFFF) + 1
        if words[table + _NAME_COUNT] and destination_identity:
            ports = destination_identity + 1 + contents[destination_identity]
            for carried in contents[ports + 2 : ports + 2 + 2 * contents[ports] : 2]:
                if carried >> 16 == protocol:
                    yield carried & 0xFFFF
                    yield (carried & 0xFFFF) + 1

    def _rank(self, table: int, destination_identity: int, protocol: int, port: int) -> int:
        """The lowest rank of a rule of a port table for a protocol and port."""
        words = self._words
        every = words[table]
        best: int = every - 1 if every else _NO_RANK
        end_cell = _RANGE_END.get(protocol)
        if end_cell is None:
            return best
        ranges = words[table + _SCTP_END]
        bounds = table + _FIRST_RANGE
        low = bounds + (words[table + end_cell - 1] if end_cell > 1 else 0)
        high = bounds + words[table + end_cell]
        if low < high:
            index = bisect_right(words, port << 16 | 0xFFFF, low, high) - 1
            if index >= low and words[index] & 0xFFFF >= port:
                best = min(best, words[index + ranges])
        names = words[table + _NAME_COUNT]
        if names and destination_identity:
            best = min(best, self._named_rank(bounds + 2 * ranges, names, destination_identity, protocol << 16 | port))
        return best

    def _named_rank(self, first: int, names: int, destination_identity: int, wanted: int) -> int:
        words, contents = self._words, self._contents
        best = _NO_RANK
        ports = destination_identity + 1 + contents[destination_identity]
        carried = {
            contents[index] for index in range(ports + 1, ports + 1 + 2 * contents[ports], 2) if contents[index + 1] == wanted
        }
        if carried:
            for index in range(first, first + _NAME_WORDS * names, _NAME_WORDS):
                if words[index] in carried and words[index + PortNameWord.PROTOCOL] == wanted >> 16:
                    best = min(best, words[index + PortNameWord.RANK])
        return best
