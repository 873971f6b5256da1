"""The port table: the rules for one peer, flattened into disjoint port ranges.

The table has fewer than twice as many ranges as the rules have, whatever their overlap. A look-up is one binary search.
"""

import heapq

from collections.abc import Collection
from itertools import pairwise
from typing import NamedTuple

from netpolq.enums import Protocol
from netpolq.model import PolicyPort
from netpolq.snapshot.ir import PortName, PortRange, PortTable

MAX_PORT = 65535


class Candidate(NamedTuple):
    """A rule (its number is its precedence, lowest first) and its ports; None: all."""

    rule: int
    ports: tuple[PolicyPort, ...] | None


class PortTables:
    """The tables of sets of rules of one program. Each is built once, whatever the number of its peers and address pieces."""

    def __init__(self) -> None:
        self._built: dict[frozenset[int], PortTable] = {}

    def of(self, candidates: Collection[Candidate]) -> PortTable:
        """The table of some rules."""
        rules = frozenset(candidate.rule for candidate in candidates)
        table = self._built.get(rules)
        if table is None:
            table = self._built[rules] = build_port_table(candidates)
        return table


def build_port_table(candidates: Collection[Candidate]) -> PortTable:
    """The table that returns the lowest matching rule."""
    every = min((candidate.rule for candidate in candidates if candidate.ports is None), default=None)
    ranges: dict[Protocol, list[PortRange]] = {}
    names: dict[tuple[Protocol, str], int] = {}
    for rule, ports in candidates:
        for protocol, port, end_port in ports or ():
            if isinstance(port, str):
                names[protocol, port] = min(rule, names.get((protocol, port), rule))
            elif port is None:
                ranges.setdefault(protocol, []).append(PortRange(0, MAX_PORT, rule))
            else:
                ranges.setdefault(protocol, []).append(PortRange(port, port if end_port is None else end_port, rule))
    return PortTable(
        every=every,
        ranges=tuple((protocol, _disjoint(ranges[protocol])) for protocol in sorted(ranges)),
        names=tuple(PortName(protocol, name, names[protocol, name]) for protocol, name in sorted(names)),
    )


def _disjoint(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    """Sweep over the ports: each range gets the lowest rule that covers it; neighbours with the same rule are joined."""
    ranges = sorted(ranges)
    bounds = sorted({port_range.low for port_range in ranges} | {port_range.high + 1 for port_range in ranges})
    result: list[PortRange] = []
    open_ranges: list[tuple[int, int]] = []  # (rule, high), lowest rule first
    upcoming = 0
    for low, following in pairwise(bounds):
        while upcoming < len(ranges) and ranges[upcoming].low <= low:
            heapq.heappush(open_ranges, (ranges[upcoming].rule, ranges[upcoming].high))
            upcoming += 1
        while open_ranges and open_ranges[0][1] < low:
            heapq.heappop(open_ranges)
        if open_ranges:
            rule = open_ranges[0][0]
            if result and result[-1].rule == rule and result[-1].high == low - 1:
                result[-1] = PortRange(result[-1].low, following - 1, rule)
            else:
                result.append(PortRange(low, following - 1, rule))
    return tuple(result)
