"""The matrix: for each pair of groups, which flows from the first to the second are allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netpolq.reachability.cluster import Cluster, Reach
from netpolq.reachability.grouping import Group
from netpolq.reachability.ports import PortRange

Cell = tuple[Reach, ...]
"""The result for each port range of a matrix. Empty where there is no pair of addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Cells by the names of source and destination. `ranges`: the port ranges that each cell is about."""

    groups: tuple[Group, ...]
    ranges: tuple[PortRange, ...]
    cells: Mapping[tuple[str, str], Cell]

    def ports(self, cell: Cell, reach: Reach) -> tuple[PortRange, ...]:
        """The port ranges with a result."""
        return tuple(ports for ports, found in zip(self.ranges, cell, strict=bool(cell)) if found is reach)


def matrix_of(cluster: Cluster, groups: Sequence[Group], outside: Group, ranges: Sequence[PortRange]) -> Matrix:
    """Return the matrix of the groups and of the outside. No policy decides about flows from outside to outside.

    Raises `NetpolqError` if the cluster is too large.
    """
    asked = tuple(ranges)

    def cell(source: Group, destination: Group) -> Cell:
        pairs = cluster.pairs(source.addresses, destination.addresses)
        return () if not pairs or source == destination == outside else cluster.reach(pairs, asked)

    shown = (*groups, outside)
    cells = {(source.name, destination.name): cell(source, destination) for source in shown for destination in shown}
    return Matrix(groups=shown, ranges=asked, cells=cells)
