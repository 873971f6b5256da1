"""Counts of look-ups in the verdict cache, derived from the counters of the ruleset."""

from collections.abc import Mapping
from typing import NamedTuple

from netpolq.dataplane.ruleset_names import CACHE_ACCEPTS, CACHE_LOOKUPS, CACHE_MISSES


class CacheCounts(NamedTuple):
    """What became of the packets that were looked up in the kernel's verdict cache."""

    accepts: int
    drops: int
    misses: int

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "CacheCounts":
        """From the ruleset's counters. These are read one after the other: packets in between must not make a number negative."""
        accepts, misses = counters.get(CACHE_ACCEPTS, 0), counters.get(CACHE_MISSES, 0)
        return cls(accepts, max(counters.get(CACHE_LOOKUPS, 0) - accepts - misses, 0), misses)

    def not_below(self, earlier: "CacheCounts") -> "CacheCounts":
        """The same with no fewer drops than earlier: these are a difference, which may fall, and a counter may not.

        If another counter has fallen, the table was made again, and all of them begin at zero.
        """
        if self.accepts < earlier.accepts or self.misses < earlier.misses:
            return self
        return self._replace(drops=max(self.drops, earlier.drops))

    @property
    def hits(self) -> int:
        """Packets that needed no worker."""
        return self.accepts + self.drops
