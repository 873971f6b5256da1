"""One watch request: its parameters, its duration, and what its end means."""

import time

from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import EndedAtOnceError, NotResumableError

_MIN_SILENT_WATCH_S = 1.0
"""A watch that ends sooner without any data has not begun. An immediate retry would repeat without end."""

_EARLY_S = 1.0
"""A watch that ends this much before its timeout did not end normally: the server stops, or a proxy has cut the connection."""


class WatchAttempt:
    """A watch that starts now and is asked to last `asked_s` seconds. `has_data`: whether the server has sent any bytes."""

    def __init__(self, asked_s: float, timing: Timing) -> None:
        self._timing = timing
        self._timeout_s = max(int(asked_s), 1)
        self._opened = self._last_data = time.monotonic()
        self.has_data = False

    def query(self, parameters: dict[str, str]) -> dict[str, str]:
        """The query of the request, with its own parameters."""
        return {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._timeout_s),
            **parameters,
        }

    def note_data(self) -> None:
        """Note that bytes have arrived."""
        self.has_data, self._last_data = True, time.monotonic()

    @property
    def is_initial_state_overdue(self) -> bool:
        """Whether the time for a complete state has passed."""
        return time.monotonic() > self._opened + self._timing.initial_events_s

    def end(self) -> bool:
        """Whether the end means a lost contact: too early, or after too long a silence.

        Raises `EndedAtOnceError` for a watch that has not begun, and `NotResumableError` for a watch without data that missed a bookmark.
        """
        now = time.monotonic()
        lasted_s = now - self._opened
        if not self.has_data and lasted_s < _MIN_SILENT_WATCH_S:
            raise EndedAtOnceError("the watch ended as soon as it had begun")
        if not self.has_data and lasted_s >= self._timing.silent_s:
            raise NotResumableError(f"the watch delivered nothing in {lasted_s:.0f} s")
        return lasted_s < self._timeout_s - _EARLY_S or now - self._last_data >= self._timing.silent_s
