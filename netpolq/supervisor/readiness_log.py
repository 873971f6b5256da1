"""Lines of the log that say when the agent becomes ready, and when and why it is not."""

import asyncio
import logging
import time

from collections.abc import Callable

_LOOK_S = 0.25
_PATIENCE_S = 10.0
"""A start that takes longer than this is worth a line: what it waits for is likely to be missing."""

log = logging.getLogger("supervisor")


class ReadyLog:
    """Writes a line at each change. `not_ready`: why the agent is not ready; empty when it is. `clock`: seconds, monotonic."""

    def __init__(self, not_ready: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._not_ready = not_ready
        self._clock = clock
        self._started_s = clock()
        self._was_ready = False
        self._told: list[str] | None = None

    async def watch(self) -> None:
        """ScanResult until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Write what is new. Reasons differ in figures (seconds, versions), so only the first ones after a change are told."""
        reasons = self._not_ready()
        if not reasons:
            if self._told is not None or not self._was_ready:
                log.info("ready" if self._was_ready else "ready, %.1f s after the start", *self._since_start())
            self._was_ready, self._told = True, None
        elif self._told is None and (self._was_ready or self._clock() - self._started_s > _PATIENCE_S):
            self._told = reasons
            log.warning("not ready: %s", "; ".join(reasons))

    def _since_start(self) -> tuple[float, ...]:
        return () if self._was_ready else (self._clock() - self._started_s,)
