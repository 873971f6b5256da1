"""The CIDR table: rules about IP blocks, flattened into disjoint pieces of the address space in a segment tree.

Each address lies in one piece, and a look-up takes as many steps as a binary search. A list of rules for each piece could grow with the
square of the number of blocks. In the segment tree a block of one piece is stored at no more than two nodes of each level, and each node
has the port tables of the rules stored there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from netpolq.policy.peers import ADDRESS_BITS, Block
from netpolq.snapshot.ir import AddressTable, Tables


class CidrTree(NamedTuple):
    """The rules at each node of the tree, as sets of ranks. `starts` and the numbering of nodes: see `AddressTable`."""

    starts: tuple[int, ...]
    nodes: tuple[frozenset[int], ...]

    def address_table(self, tables_of: Callable[[frozenset[int]], Tables]) -> AddressTable:
        """Put the tables of the rules at the nodes."""
        number_of = {ranks: number for number, ranks in enumerate(dict.fromkeys((frozenset(), *self.nodes)))}
        tables = tuple(tables_of(ranks) for ranks in number_of if ranks)
        return AddressTable(self.starts, tuple(number_of[ranks] for ranks in self.nodes), tables)


def cidr_tree(blocks: Mapping[Block, Sequence[int]]) -> CidrTree | None:
    """The tree for blocks of one family and the ranks of their rules; None if there are no blocks."""
    bounds = {bound for block in blocks for piece in block.pieces() for bound in piece}
    if not bounds:
        return None
    starts = sorted(bounds)
    if starts[-1] == 1 << ADDRESS_BITS[next(iter(blocks)).version]:
        starts.pop()
    leaves = len(starts)
    leaf_of = {start: leaves + index for index, start in enumerate(starts)}
    nodes: list[set[int]] = [set() for _ in range(2 * leaves)]
    for block, ranks in blocks.items():
        for start, end in block.pieces():
            low, high = leaf_of[start], leaf_of.get(end, 2 * leaves)
            # From both ends upwards: a range that a parent covers is stored at the parent.
            while low < high:
                if low & 1:
                    nodes[low].update(ranks)
                    low += 1
                if high & 1:
                    high -= 1
                    nodes[high].update(ranks)
                low //= 2
                high //= 2
    return CidrTree(tuple(starts), tuple(map(frozenset, nodes)))
