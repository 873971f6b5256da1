"""Schedule of the list that follows a lost contact when the server could not prove that its history is the same."""

import time

from collections.abc import Callable

from netpolq.sources.kubernetes.timing import Timing


class DelayedList:
    """A list at a random time, so that the agents of many nodes do not all list at once. `noise`: random numbers from 0 to 1.

    Where contact is lost often, as behind a proxy that cuts silent connections every minute, such lists are `max_relist_s` apart.
    """

    def __init__(self, timing: Timing, noise: Callable[[], float]) -> None:
        self._timing = timing
        self._noise = noise
        self._due: float | None = None
        self._earliest = 0.0

    def schedule(self, size: int) -> None:
        """Schedule a list; the more objects (`size`), the later. Keeps an earlier schedule."""
        if self._due is None:
            max_s = min(size * self._timing.relist_s_per_object, self._timing.max_relist_s)
            self._due = max(time.monotonic() + max_s * self._noise(), self._earliest)

    def finish(self) -> None:
        """Clear the schedule after a complete list, whatever its reason."""
        if self._due is not None:
            self._earliest = time.monotonic() + self._timing.max_relist_s
        self._due = None

    @property
    def remaining_s(self) -> float | None:
        """The time until the list, 0 if it is due; None if none is scheduled."""
        return None if self._due is None else max(self._due - time.monotonic(), 0.0)
