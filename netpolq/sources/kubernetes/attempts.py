"""Failed attempts of one reflector: the current problem, and the back-off before the next attempt."""

import logging
import re

from collections.abc import Callable

from netpolq.sources.kubernetes.timing import Timing

_QUERY = re.compile(r"\?[^\s'\"]*")
"""The query of a URL in a message."""

log = logging.getLogger("reflector")


class Attempts:
    """Counts consecutive failures. `kind`: for the log. `noise`: random numbers from 0 to 1. `problem`: None after a success."""

    def __init__(self, kind: str, timing: Timing, noise: Callable[[], float]) -> None:
        self._kind = kind
        self._timing = timing
        self._noise = noise
        self._failures = 0
        self._suspect_failures = 0
        self.problem: str | None = None

    def fail(self, problem: str, *, is_version_suspect: bool = False) -> float:
        """Note a failure. Returns the delay in seconds, which grows with each failure and is random, so that agents do not retry together.

        `is_version_suspect`: the known version may be the cause; after some such failures the reflector lists everything again.
        """
        self._failures += 1
        self._suspect_failures += is_version_suspect
        problem = _QUERY.sub("", problem)
        if self.problem != problem:
            log.warning("%s: %s; trying again", self._kind, problem)
        self.problem = problem
        max_s: float = min(self._timing.first_delay_s * 2.0 ** min(self._failures - 1, 10), self._timing.max_delay_s)
        return max_s * (0.5 + self._noise() / 2)

    def must_drop_version(self) -> bool:
        """Whether the known version is suspect after too many failures. Resets their count if so."""
        if self._suspect_failures < self._timing.failures_before_relist:
            return False
        self._suspect_failures = 0
        return True

    def succeed(self) -> bool:
        """Note a success. Returns whether it is the first one after a failure."""
        was_failing = self.problem is not None
        if was_failing:
            log.info("%s: the API server answers again", self._kind)
        self._failures = 0
        self._suspect_failures = 0
        self.problem = None
        return was_failing
