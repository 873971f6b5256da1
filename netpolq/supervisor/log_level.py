"""The verbosity of the log at run time: the supervisor's side of `netpolq loglevel`, and the client's.

The supervisor tells the pool, which tells all workers and those that it starts later. Where the lines about each first packet begin or
end, the pool starts another supervisor besides: the names of pods in the snapshot and the verdict cache depend on it.
"""

import logging

from collections.abc import Callable
from pathlib import Path

from netpolq import logs
from netpolq.errors import NetpolqError
from netpolq.settings.definitions import VERBOSITY
from netpolq.supervisor.status_client import request

LOGLEVEL_PATH = "/loglevel"

log = logging.getLogger("supervisor")


class Verbosity:
    """The present verbosity. `tell`: tells the pool of another one, and returns whether that was possible."""

    def __init__(self, present: int, tell: Callable[[int], bool]) -> None:
        self.present = present
        self._tell = tell

    def change(self, text: str) -> int:
        """Have another verbosity from now on. Returns the one before.

        Raises `ValueError` for a text that is none, `ConnectionError` if the pool cannot be told: nothing has changed then.
        """
        try:
            wanted = VERBOSITY.parse(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is refused; allowed: {VERBOSITY.allowed}") from None
        if not self._tell(wanted):
            raise ConnectionError("the pool is busy and was not told; try again")
        before, self.present = self.present, wanted
        logs.set_verbosity(wanted)
        return before


def fetch(run_dir: Path) -> int:
    """The verbosity of the agent that has this run directory. Raises `NetpolqError`."""
    return _number(run_dir, "GET", "")


def change(run_dir: Path, verbosity: int) -> int:
    """Give the agent that has this run directory another verbosity. Returns the one before. Raises `NetpolqError`."""
    return _number(run_dir, "PUT", str(verbosity))


def _number(run_dir: Path, method: str, text: str) -> int:
    answer = request(run_dir, method, LOGLEVEL_PATH, text).decode(errors="replace")
    try:
        return int(answer)
    except ValueError:
        raise NetpolqError(f"the agent's answer {answer[:40]!r} is no verbosity; is the agent of another version?") from None
