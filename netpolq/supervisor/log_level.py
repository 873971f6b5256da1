"""Log verbosity at run time: server and client of `netpolq loglevel`.

The supervisor sends a change to the pool, which forwards it to all present and later workers. If the change switches packet lines on or
off, the pool also restarts the supervisor: pod names in the snapshot and the verdict cache depend on it.
"""

import logging

from pathlib import Path

from netpolq import logs
from netpolq.errors import NetpolqError
from netpolq.ipc.channel import Channel, Logging
from netpolq.settings.definitions import VERBOSITY
from netpolq.supervisor.status_client import request

LOGLEVEL_PATH = "/loglevel"

log = logging.getLogger("supervisor")


class Verbosity:
    """The present verbosity. `channel`: to the pool. `log_denied`: whether denied packets are logged."""

    def __init__(self, present: int, channel: Channel, *, log_denied: bool) -> None:
        self.present = present
        self._channel = channel
        self._log_denied = log_denied

    def change(self, text: str) -> int:
        """Change the verbosity. Returns the previous one.

        Raises `ValueError` for an invalid value, and `ConnectionError` if the pool cannot be reached. Both leave it unchanged.
        """
        try:
            wanted = VERBOSITY.value_type.parse(text)
        except ValueError:
            raise ValueError(f"invalid value {text[:40]!r}; allowed: {VERBOSITY.value_type.allowed}") from None
        if not self._channel.send(Logging(wanted, self._log_denied)):
            raise ConnectionError("the pool is busy; try again")
        before, self.present = self.present, wanted
        logs.set_verbosity(wanted)
        return before


def fetch(run_dir: Path) -> int:
    """The verbosity of the agent that uses this run directory. Raises `NetpolqError`."""
    return _number(run_dir, "GET", "")


def change(run_dir: Path, verbosity: int) -> int:
    """Change the verbosity of the agent that uses this run directory. Returns the previous one. Raises `NetpolqError`."""
    return _number(run_dir, "PUT", str(verbosity))


def _number(run_dir: Path, method: str, text: str) -> int:
    answer = request(run_dir, method, LOGLEVEL_PATH, text).decode(errors="replace")
    try:
        return int(answer)
    except ValueError:
        raise NetpolqError(f"the agent's answer {answer[:40]!r} is no verbosity; is the agent of another version?") from None
