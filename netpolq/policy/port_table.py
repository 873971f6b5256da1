"""Port tables: rules for one peer, flattened into disjoint port ranges.

A table has fewer than twice as many ranges as its rules have, whatever their overlap. A look-up is one binary search.

Peers with equal rules share a table, but thousands of peers with different rules, each with thousands of ports, could make the tables
grow with the product. So there is a limit for all merged tables of a tier program. Beyond it, the rules with the most entries are not
merged: each has one table of its own, which a look-up reads besides the merged one. No rule is left out.
"""

import heapq

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

from netpolq.enums import Protocol
from netpolq.model import PolicyPort
from netpolq.snapshot.ir import PortName, PortRange, PortTable, Tables

MAX_PORT = 65535

MAX_MERGED_ENTRIES = 1 << 17
"""Maximum number of ports in the merged tables of one tier program."""

Ports = tuple[PolicyPort, ...] | None
"""The ports of a rule; None: all."""


class TableBuilder:
    """Builds the tables of one tier program. `ports`: those of each rule, by rank. `rule_sets`: the sets of ranks to build tables for."""

    def __init__(self, ports: Sequence[Ports], rule_sets: Iterable[frozenset[int]]) -> None:
        self._ports = ports
        self._unmerged = _unmerged(ports, frozenset(rule_sets))
        self._built: dict[frozenset[int], PortTable] = {}

    def tables(self, ranks: frozenset[int]) -> Tables:
        """Return the tables of some rules. Rules that are merged in several sets have one table object in all of them."""
        merged, alone = ranks - self._unmerged, sorted(ranks & self._unmerged)
        parts = [*([merged] if merged else []), *(frozenset({rank}) for rank in alone)]
        return tuple(map(self._table, parts))

    def _table(self, ranks: frozenset[int]) -> PortTable:
        table = self._built.get(ranks)
        if table is None:
            table = self._built[ranks] = build_port_table([(rank, self._ports[rank]) for rank in sorted(ranks)])
        return table


def _unmerged(ports: Sequence[Ports], rule_sets: frozenset[frozenset[int]]) -> frozenset[int]:
    """The rules to leave out of merged tables so that the limit holds: those with the most entries, the last of equal ones first."""
    uses = Counter(rank for ranks in rule_sets for rank in ranks)
    entries = {rank: count * len(ports[rank] or (None,)) for rank, count in uses.items()}
    excess = sum(entries.values()) - MAX_MERGED_ENTRIES
    unmerged = set()
    for rank in sorted(entries, key=lambda rank: (-entries[rank], -rank)) if excess > 0 else ():
        if excess <= 0:
            break
        excess -= entries[rank]
        unmerged.add(rank)
    return frozenset(unmerged)


def build_port_table(rules: Collection[tuple[int, Ports]]) -> PortTable:
    """The table that returns the lowest matching rank of some rules."""
    every = min((rank for rank, ports in rules if ports is None), default=None)
    ranges: dict[Protocol, list[PortRange]] = {}
    names: dict[tuple[Protocol, str], int] = {}
    for rank, ports in rules:
        for protocol, port, end_port in ports or ():
            if isinstance(port, str):
                names[protocol, port] = min(rank, names.get((protocol, port), rank))
            elif port is None:
                ranges.setdefault(protocol, []).append(PortRange(0, MAX_PORT, rank))
            else:
                ranges.setdefault(protocol, []).append(PortRange(port, port if end_port is None else end_port, rank))
    return PortTable(
        every=every,
        ranges=tuple((protocol, _disjoint(ranges[protocol])) for protocol in sorted(ranges)),
        names=tuple(PortName(protocol, name, names[protocol, name]) for protocol, name in sorted(names)),
    )


def _disjoint(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    """Sweep over the ports: each range gets the lowest rank that covers it; neighbours with the same rank are joined."""
    if len(ranges) == 1:
        return tuple(ranges)
    ranges = sorted(ranges)
    bounds = sorted({port_range.low for port_range in ranges} | {port_range.high + 1 for port_range in ranges})
    result: list[PortRange] = []
    open_ranges: list[tuple[int, int]] = []  # (rank, high), lowest rank first
    upcoming = 0
    for low, following in pairwise(bounds):
        while upcoming < len(ranges) and ranges[upcoming].low <= low:
            heapq.heappush(open_ranges, (ranges[upcoming].rank, ranges[upcoming].high))
            upcoming += 1
        while open_ranges and open_ranges[0][1] < low:
            heapq.heappop(open_ranges)
        if open_ranges:
            rank = open_ranges[0][0]
            if result and result[-1].rank == rank and result[-1].high == low - 1:
                result[-1] = PortRange(result[-1].low, following - 1, rank)
            else:
                result.append(PortRange(low, following - 1, rank))
    return tuple(result)
