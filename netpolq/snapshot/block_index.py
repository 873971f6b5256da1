"""Which IP blocks an address lies in, from a few dictionary look-ups: the blocks of one program and family, unpacked."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class StoredBlock(NamedTuple):
    """A block as it stands in a snapshot. `bits`: of an address; `exceptions`: sorted, disjoint, both ends included; `table`: its ports."""

    bits: int
    prefix_length: int
    network: int
    exceptions: tuple[tuple[int, int], ...]
    table: int


class BlockIndex:
    """`tables` answers like `SnapshotView.tables_of_address`, in another order. `is_empty`: it does so always with nothing."""

    def __init__(self, blocks: Iterable[StoredBlock]) -> None:
        by_shift: dict[int, dict[int, list[tuple[int, list[int]]]]] = {}
        for bits, prefix_length, network, exceptions, table in blocks:
            shift = bits - prefix_length
            # A number lies in an exception if an odd count of these bounds is at or below it.
            bounds = [bound for low, high in exceptions for bound in (low, high + 1)]
            by_shift.setdefault(shift, {}).setdefault(network >> shift, []).append((table, bounds))
        self._by_shift = tuple(sorted(by_shift.items()))
        self.is_empty = not by_shift

    def tables(self, number: int) -> tuple[int, ...]:
        """Port tables of the blocks that hold an address, given as a number."""
        found: tuple[int, ...] = ()
        for shift, networks in self._by_shift:
            blocks = networks.get(number >> shift)
            if blocks is not None:
                for table, bounds in blocks:
                    if not bounds or not bisect_right(bounds, number) & 1:
                        found += (table,)
        return found
