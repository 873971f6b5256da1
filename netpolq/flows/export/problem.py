"""Why an exporter does not export at present, and its log lines, which are few whatever happens."""

import logging
import time

from collections.abc import Callable

from netpolq.logs import one_line

LINE_INTERVAL_S = 60.0
"""Minimum time between two warnings of one exporter."""
_MAX_TEXT = 400


class Problem:
    """The present problem of the exporter of `target`. `text`: None if there is none."""

    def __init__(self, log: logging.Logger, target: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._target = target
        self._clock = clock
        self._logged_s: float | None = None
        self._is_logged = False
        self.text: str | None = None

    def set(self, reason: str) -> None:
        """Note the reason, and log it unless a line was logged a short time ago."""
        self.text = f"{self._target}: {one_line(reason)[:_MAX_TEXT]}"
        now_s = self._clock()
        if self._logged_s is None or now_s - self._logged_s >= LINE_INTERVAL_S:
            self._logged_s = now_s
            self._is_logged = True
            self._log.warning("%s", self.text)

    def clear(self) -> None:
        """Note that the export works. Logged if the problem was."""
        if self._is_logged:
            self._log.info("%s: flow records are exported again", self._target)
        self._is_logged = False
        self.text = None
