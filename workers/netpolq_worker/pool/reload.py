"""The reload of settings on SIGHUP: it reads them again, and decides which can change while the workers run."""

import json
import logging
import subprocess
import sys

from typing import NamedTuple

from netpolq.ipc.channel import Logging
from netpolq_worker.pool.args import PoolOptions, parse_options

_CHANGEABLE = frozenset({"--takeover", "--no-takeover", "--v", "--log-denied", "--no-log-denied", "--"})

log = logging.getLogger("reload")


class Reloaded(NamedTuple):
    """The settings that have changed. `supervisor`: the new command line of the supervisor."""

    supervisor: tuple[str, ...]
    logging: Logging


class Reload:
    """A program that resolves the settings again, as at the start, and prints the command line that the pool would be started with now."""

    def __init__(self, options: PoolOptions) -> None:
        """Start it. Raises `OSError` if the kernel refuses the process."""
        self._options = options
        queues = f"{options.queues.start}:{options.queues.stop - 1}"
        self._process = subprocess.Popen([sys.executable, "-m", "netpolq", "reload", queues], stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def finish(self, code: int, supervisor: tuple[str, ...]) -> Reloaded | None:
        """Read the result, after the program has exited with this code. Returns None if nothing is to change.

        `supervisor`: the present command line of the supervisor. The settings of the pool and its workers cannot change while they run.
        If one of those differs, no setting changes, so that the settings in force are always one whole set.
        """
        self._process.returncode = code  # reaped by the pool; Popen must not wait for it again
        text, _ = self._process.communicate()
        try:
            wanted = json.loads(text) if code == 0 else None
        except ValueError:
            wanted = None
        if not isinstance(wanted, list):
            log.error("SIGHUP: cannot read the settings; those in force stay")
            return None
        separator = wanted.index("--")
        ours, theirs = tuple(wanted[: separator + 1]), tuple(wanted[separator + 1 :])
        if _as_flags(ours) != _as_flags(self._options.argv):
            changed = sorted(_as_flags(ours) ^ _as_flags(self._options.argv))
            log.error(
                "SIGHUP: no setting changes, because %s needs a restart, or another agent with --takeover", ", ".join(changed)
            )
            return None
        if theirs == supervisor:
            log.info("SIGHUP: nothing has changed")
            return None
        log.info("SIGHUP: restarting the supervisor with %s", ", ".join(sorted(set(theirs) - set(supervisor))))
        return Reloaded(theirs, parse_options(wanted).logging)


def _as_flags(argv: tuple[str, ...]) -> frozenset[str]:
    """Flags with their values as one string each, without the flags that may change while the pool runs.

    --takeover only matters at the start. What is logged can change at any time.
    """
    found: list[str] = []
    for argument in argv:
        if argument.startswith("--") or not found:
            found.append(argument)
        else:
            found[-1] += f" {argument}"
    return frozenset(flag for flag in found if flag.split()[0] not in _CHANGEABLE)
