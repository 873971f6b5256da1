"""Settings that are read again: which of them can change while workers go on."""

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
    """What the settings say now. `supervisor`: the words of one that differs from the present one."""

    supervisor: tuple[str, ...]
    logging: Logging


class Reload:
    """A program that resolves the settings again, as at the start, and says what the pool would be started with now."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        queues = f"{options.queues.start}:{options.queues.stop - 1}"
        self._process = subprocess.Popen([sys.executable, "-m", "netpolq", "reload", queues], stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def finish(self, code: int, supervisor: tuple[str, ...]) -> Reloaded | None:
        """To be called when it has ended, with its exit code. Returns None if nothing is to change.

        What concerns the pool and its workers cannot change while they run: then nothing does, so that what is in force is always one
        whole set of settings.
        """
        self._process.returncode = code  # reaped by the pool; Popen must not wait for it again
        text, _ = self._process.communicate()
        try:
            wanted = json.loads(text) if code == 0 else None
        except ValueError:
            wanted = None
        if not isinstance(wanted, list):
            log.error("SIGHUP: the settings cannot be read; going on with those that are in force")
            return None
        place = wanted.index("--")
        ours, theirs = tuple(wanted[: place + 1]), tuple(wanted[place + 1 :])
        if _as_flags(ours) != _as_flags(self._options.words):
            changed = sorted(_as_flags(ours) ^ _as_flags(self._options.words))
            log.error(
                "SIGHUP: nothing is changed, because %s needs a restart, or another agent with --takeover", ", ".join(changed)
            )
            return None
        if theirs == supervisor:
            log.info("SIGHUP: nothing has changed")
            return None
        log.info("SIGHUP: a new supervisor takes up %s", ", ".join(sorted(set(theirs) - set(supervisor))))
        return Reloaded(theirs, parse_options(wanted).logging)


def _as_flags(words: tuple[str, ...]) -> frozenset[str]:
    """Flags with their values, each in one piece, without those that make no difference to a pool that runs.

    A takeover happens at a start alone; what is logged can change at any time.
    """
    found: list[str] = []
    for word in words:
        if word.startswith("--") or not found:
            found.append(word)
        else:
            found[-1] += f" {word}"
    return frozenset(flag for flag in found if flag.split()[0] not in _CHANGEABLE)
