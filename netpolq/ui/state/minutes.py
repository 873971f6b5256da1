"""Counts of the last hour by minute. Pure. A minute is a number: Unix time in seconds, divided by 60."""

from netpolq.flows.table import HISTORY_S

MINUTE_S = 60
KEPT_MINUTES = HISTORY_S // MINUTE_S + 1
"""The present minute, and an hour before it."""


def minute_of(time_s: float) -> int:
    """The minute of a Unix time."""
    return int(time_s // MINUTE_S)


class MinuteCounts:
    """Sums by minute, in a ring. `newest`: the newest minute that was counted in. What is older than the ring is not counted."""

    __slots__ = ("_counts", "newest")

    def __init__(self) -> None:
        self._counts = [0] * KEPT_MINUTES
        self.newest = 0

    def add(self, minute: int, count: int) -> None:
        """Add to a minute; a negative count takes away what was added before."""
        if minute > self.newest:
            for later in range(max(self.newest + 1, minute - KEPT_MINUTES + 1), minute + 1):
                self._counts[later % KEPT_MINUTES] = 0
            self.newest = minute
        elif minute <= self.newest - KEPT_MINUTES:
            return
        self._counts[minute % KEPT_MINUTES] += count

    def since(self, minute: int) -> int:
        """The sum of a minute and of those after it."""
        if minute > self.newest:
            return 0
        if minute <= self.newest - KEPT_MINUTES + 1:
            return sum(self._counts)
        if minute == self.newest:
            return self._counts[minute % KEPT_MINUTES]
        first, last = minute % KEPT_MINUTES, self.newest % KEPT_MINUTES
        if first <= last:
            return sum(self._counts[first : last + 1])
        return sum(self._counts[first:]) + sum(self._counts[: last + 1])
