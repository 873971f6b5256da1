"""Log lines about changes of readiness."""

import asyncio
import logging
import time

from collections.abc import Callable

_CHECK_INTERVAL_S = 0.25
_MAX_QUIET_START_S = 10.0
"""A start that takes longer than this is logged with its reasons."""

log = logging.getLogger("supervisor")


class ReadyLog:
    """Writes a line at each change. `not_ready`: returns the reasons, empty if the agent is ready. `clock`: seconds, monotonic."""

    def __init__(self, not_ready: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._not_ready = not_ready
        self._clock = clock
        self._started_s = clock()
        self._was_ready = False
        self._logged: list[str] | None = None

    async def watch(self) -> None:
        """Check readiness every 250 ms until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_CHECK_INTERVAL_S)

    def look(self) -> None:
        """Log a change. Reasons contain figures (seconds, versions) that keep changing, so only the first ones are logged."""
        reasons = self._not_ready()
        if not reasons:
            if self._logged is not None or not self._was_ready:
                log.info("ready" if self._was_ready else "ready, %.1f s after the start", *self._since_start())
            self._was_ready, self._logged = True, None
        elif self._logged is None and (self._was_ready or self._clock() - self._started_s > _MAX_QUIET_START_S):
            self._logged = reasons
            log.warning("not ready: %s", "; ".join(reasons))

    def _since_start(self) -> tuple[float, ...]:
        return () if self._was_ready else (self._clock() - self._started_s,)
