"""What one reflector does after a request that failed: renew credentials, and wait for the next attempt."""

import asyncio

from collections.abc import Callable

from netpolq.sources.kubernetes.attempts import Attempts
from netpolq.sources.kubernetes.connection import Connection, is_about_certificates
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError

_NOT_ABOUT_THE_VERSION = frozenset({401, 403, 408, 429})
"""Refusals that say nothing about the version that a watch goes on from. A server that starts answers 403 until it knows the roles."""

_PAUSE_S = 0.5
"""At most this long after the server was reached, at random, the others ask, too: agents of many nodes not all at the same moment."""


class Recovery:
    """Failures of the requests for one kind. `noise`: random numbers from 0 to 1."""

    def __init__(self, kind: str, connection: Connection, timing: Timing, noise: Callable[[], float]) -> None:
        self._connection = connection
        self._timing = timing
        self._noise = noise
        self._attempts = Attempts(kind, timing, noise)

    @property
    def problem(self) -> str | None:
        """What keeps the reflector from reading at the moment."""
        return self._attempts.problem

    def must_drop_version(self) -> bool:
        """See `Attempts.must_drop_version`."""
        return self._attempts.must_drop_version()

    def succeed(self) -> None:
        """The server has answered."""
        if self._attempts.succeed():
            self._connection.note_reached()

    def on_nonsense(self, error: StreamError) -> float:
        """The answer is not what was asked for. Returns how long to wait."""
        return self._attempts.fail(str(error), is_version_suspect=True)

    async def on_refusal(self, error: StatusError, generation: int) -> float:
        """The server refuses. Returns how long to wait. `generation`: of the connection when the request was made."""
        problem = str(error)
        if error.code == 401:
            problem += await self._renew(generation)
        is_version_suspect = error.code not in _NOT_ABOUT_THE_VERSION and (error.is_event or error.code < 500)
        delay_s = self._attempts.fail(problem, is_version_suspect=is_version_suspect)
        return max(delay_s, min(error.retry_after_s or 0.0, self._timing.max_delay_s))

    async def wait_until_reachable(self, error: Exception, generation: int, reached: int) -> None:
        """Wait until the next attempt: until the back-off has passed, or another reflector has reached the server."""
        problem = str(error) or type(error).__name__
        if is_about_certificates(error):
            problem += await self._renew(generation)
        delay_s = self._attempts.fail(problem)
        await self._connection.wait_until_reached(reached, delay_s)
        # Also after a wait that was cut short: an attempt that fails at once is never repeated without a pause.
        await asyncio.sleep(self._noise() * min(delay_s, _PAUSE_S))

    async def _renew(self, generation: int) -> str:
        """Read credentials and authorities again. Returns what is to be added to the problem."""
        try:
            await self._connection.renew(generation)
        except Exception as failure:  # noqa: BLE001  # whatever a plugin or parser raises, the old credentials are still there
            return f"; credentials cannot be read again: {failure}"
        return ""
