"""When everything is listed again because it could not be proved that the server still has the same history."""

import time

from collections.abc import Callable

from netpolq.sources.cluster.timing import Timing


class DelayedList:
    """A list to come, at a random time, so that the agents of many nodes do not all list at once. `noise`: random numbers from 0 to 1."""

    def __init__(self, timing: Timing, noise: Callable[[], float]) -> None:
        self._timing = timing
        self._noise = noise
        self._due: float | None = None

    def schedule(self, size: int) -> None:
        """List later; the more objects (`size`), the later. What is scheduled already stays."""
        if self._due is None:
            most_s = min(size * self._timing.relist_s_per_object, self._timing.most_relist_s)
            self._due = time.monotonic() + most_s * self._noise()

    def cancel(self) -> None:
        """Everything has been listed."""
        self._due = None

    @property
    def remaining_s(self) -> float | None:
        """The time until the list, 0 if it is due; None if none is scheduled."""
        return None if self._due is None else max(self._due - time.monotonic(), 0.0)
