"""Recovery of a reflector from a failed request: renews credentials and waits for the next attempt."""

import asyncio

from collections.abc import Callable

from netpolq.sources.kubernetes.attempts import Attempts
from netpolq.sources.kubernetes.connection import Connection, is_about_certificates
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError

_NOT_ABOUT_THE_VERSION = frozenset({401, 403, 408, 429})
"""Status codes that do not concern the version of a watch. A starting server answers 403 until it has loaded the roles."""

_PAUSE_S = 0.5
"""Upper limit of the random pause after another reflector reached the server, so that agents of many nodes do not ask at once."""


class Recovery:
    """Handles failed requests for one kind. `permission`: what a role must permit, in words. `noise`: random numbers from 0 to 1."""

    def __init__(self, kind: str, permission: str, connection: Connection, timing: Timing, noise: Callable[[], float]) -> None:
        self._kind = kind
        self._permission = permission
        self._connection = connection
        self._timing = timing
        self._noise = noise
        self._attempts = Attempts(kind, timing, noise)

    @property
    def problem(self) -> str | None:
        """The current problem, or None."""
        return self._attempts.problem

    def must_drop_version(self) -> bool:
        """See `Attempts.must_drop_version`."""
        return self._attempts.must_drop_version()

    def succeed(self) -> None:
        """Note a valid answer."""
        if self._attempts.succeed():
            self._connection.note_reached()

    def on_invalid_answer(self, error: StreamError) -> float:
        """Note an answer that is invalid. Returns the delay in seconds."""
        return self._attempts.fail(str(error), is_version_suspect=True)

    async def on_refusal(self, error: StatusError, generation: int) -> float:
        """Note a refusal. Returns the delay in seconds. `generation`: of the connection when the request was made."""
        problem = str(error)
        if error.code == 401:
            problem += await self._renew(generation)
        if error.code == 403:
            problem = f"{self._kind} cannot be read: {problem}; the role of the agent must permit {self._permission}"
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
        """Read credentials and authorities again. Returns a suffix for the problem, empty on success."""
        try:
            await self._connection.renew(generation)
        except Exception as failure:  # noqa: BLE001  # plugins and parsers raise any type; the old credentials stay
            return f"; credentials cannot be read again: {failure}"
        return ""
