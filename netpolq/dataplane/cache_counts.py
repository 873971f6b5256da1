"""Counts of look-ups in the verdict cache, derived from the counters of the ruleset."""

from collections.abc import Mapping
from typing import NamedTuple

from netpolq.dataplane.ruleset_names import CACHE_ACCEPTS, CACHE_LOOKUPS, CACHE_MISSES


class CacheCounts(NamedTuple):
    """Results of the look-ups of packets in the verdict cache."""

    accepts: int
    drops: int
    misses: int

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "CacheCounts":
        """From the ruleset's counters. Packets may arrive between their reads: a negative difference becomes 0."""
        accepts, misses = counters.get(CACHE_ACCEPTS, 0), counters.get(CACHE_MISSES, 0)
        return cls(accepts, max(counters.get(CACHE_LOOKUPS, 0) - accepts - misses, 0), misses)

    def not_below(self, earlier: "CacheCounts") -> "CacheCounts":
        """The same counts with at least the earlier number of drops: a difference may decrease, a counter must not.

        If another counter has decreased, the table was created again, and all counters start at zero.
        """
        if self.accepts < earlier.accepts or self.misses < earlier.misses:
            return self
        return self._replace(drops=max(self.drops, earlier.drops))

    @property
    def hits(self) -> int:
        """Packets that needed no worker."""
        return self.accepts + self.drops
