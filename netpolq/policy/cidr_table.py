"""The CIDR table: rules about IP blocks, flattened into disjoint pieces of the address space in a segment tree.

Each address lies in one piece, and a look-up takes as many steps as a binary search. A list of rules for each piece could grow with the
square of the number of blocks. In the segment tree a block of one piece is stored at no more than two nodes of each level, and each node
has one port table.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from netpolq.policy.port_table import Candidate, PortTables
from netpolq.snapshot.ir import AddressTable, PortTable

MAX_ENTRIES = 1 << 17
"""Maximum number of ports at the nodes of one tree. A rule with thousands of exceptions and of ports exceeds it and is left out."""

_BITS = {4: 32, 6: 128}


class AddressRange(NamedTuple):
    """An inclusive range of addresses, as numbers within their family."""

    low: int
    high: int


class Block(NamedTuple):
    """Addresses of one prefix less some ranges. `version`: 4 or 6. `network`: the prefix as a number, host bits clear.

    `except_`: sorted, disjoint.
    """

    version: int
    prefix_length: int
    network: int
    except_: tuple[AddressRange, ...]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield the remaining ranges, as first address and the one after the last."""
        start = self.network
        for low, high in self.except_:
            if start < low:
                yield start, low
            start = high + 1
        end = self.network + (1 << _BITS[self.version] - self.prefix_length)
        if start < end:
            yield start, end


def build_address_table(
    blocks: Mapping[Block, Sequence[Candidate]], port_tables: PortTables
) -> tuple[AddressTable | None, frozenset[int]]:
    """The table for blocks of one family, and the rules that had to be left out of it because it would be too large.

    None if there are no blocks. Leaving a rule out is safe because rules accept.
    """
    bounds = {bound for block in blocks for piece in block.pieces() for bound in piece}
    if not bounds:
        return None, frozenset()
    starts = sorted(bounds)
    if starts[-1] == 1 << _BITS[next(iter(blocks)).version]:
        starts.pop()
    candidates = {candidate.rule: candidate for found in blocks.values() for candidate in found}
    nodes, left_out = _thinned(_rules_at_nodes(starts, blocks), candidates)
    numbers: dict[PortTable, int] = {}
    number_of: dict[frozenset[int], int] = {frozenset(): 0}
    for rules in nodes:
        if rules not in number_of:
            table = port_tables.of([candidates[rule] for rule in rules])
            number_of[rules] = numbers.setdefault(table, len(numbers) + 1)
    return AddressTable(tuple(starts), tuple(number_of[rules] for rules in nodes), tuple(numbers)), left_out


def _rules_at_nodes(starts: Sequence[int], blocks: Mapping[Block, Sequence[Candidate]]) -> list[frozenset[int]]:
    """The rules at each node of the tree, whose leaves are its second half; node 0 is not used."""
    leaves = len(starts)
    leaf_of = {start: leaves + index for index, start in enumerate(starts)}
    nodes: list[set[int]] = [set() for _ in range(2 * leaves)]
    for block, found in blocks.items():
        rules = [candidate.rule for candidate in found]
        for start, end in block.pieces():
            low, high = leaf_of[start], leaf_of.get(end, 2 * leaves)
            # From both ends upwards: a range that a parent covers is stored at the parent.
            while low < high:
                if low & 1:
                    nodes[low].update(rules)
                    low += 1
                if high & 1:
                    high -= 1
                    nodes[high].update(rules)
                low //= 2
                high //= 2
    return [frozenset(rules) for rules in nodes]


def _thinned(nodes: list[frozenset[int]], candidates: Mapping[int, Candidate]) -> tuple[list[frozenset[int]], frozenset[int]]:
    """Remove the rules with the most entries until the limit holds. Returns the nodes and the removed rules."""
    uses = Counter(rule for rules in set(nodes) for rule in rules)
    entries = {rule: count * len(candidates[rule].ports or (None,)) for rule, count in uses.items()}
    excess = sum(entries.values()) - MAX_ENTRIES
    left_out = set()
    for rule in sorted(entries, key=lambda rule: (-entries[rule], -rule)):
        if excess <= 0:
            break
        excess -= entries[rule]
        left_out.add(rule)
    return ([rules - left_out for rules in nodes] if left_out else nodes), frozenset(left_out)
