"""The reload of settings on SIGHUP: it reads them again, and decides which can change while the workers run."""

import logging
import subprocess
import sys

from collections.abc import Callable, Mapping

from netpolq.errors import SettingsError
from netpolq.ipc import settings_document
from netpolq.ipc.agent_settings import QueueRange, Settings

_FIXED: Mapping[str, Callable[[Settings], object]] = {
    "--fail-open": lambda settings: settings.fail_open,
    "--hold-timeout": lambda settings: settings.hold_timeout_s,
    "--hold-unknown-peers": lambda settings: settings.hold_unknown_peers,
    "--logging-format": lambda settings: settings.logging_format,
    "--mark-mask": lambda settings: settings.mark_mask,
    "--nfqueue-id": lambda settings: settings.queue_first,
    "--run-dir": lambda settings: settings.run_dir,
    "--verdict-cache": lambda settings: settings.hints,
    "--workers": lambda settings: settings.queue_count,
}
"""What pool and workers use, and cannot change while they run."""

log = logging.getLogger("reload")


class Reload:
    """A program that resolves the settings again, as at the start, and prints the document that the pool would be started with now."""

    def __init__(self, queues: QueueRange) -> None:
        """Start it. `queues`: those in use. Raises `OSError` if the kernel refuses the process."""
        argv = [sys.executable, "-m", "netpolq", "reload", str(queues)]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def finish(self, code: int, present: Settings) -> Settings | None:
        """Return the new settings, after the program has exited with this code; None if nothing is to change.

        `present`: those of the supervisor. If a setting has changed that pool or workers use, no setting changes, so that the settings in
        force are always one whole set. What is logged is the exception: it can change at any time.
        """
        self._process.returncode = code  # reaped by the pool; Popen must not wait for it again
        text, _ = self._process.communicate()
        try:
            wanted = settings_document.decode(text) if code == 0 else None
        except SettingsError as error:
            log.error("SIGHUP: %s", error)
            wanted = None
        if wanted is None:
            log.error("SIGHUP: cannot read the settings; those in force stay")
            return None
        fixed = [flag for flag, value in _FIXED.items() if value(wanted) != value(present)]
        if fixed:
            log.error(
                "SIGHUP: no setting changes, because %s needs a restart, or another agent with --takeover", ", ".join(fixed)
            )
            return None
        changes = settings_document.changed_flags(present, wanted)
        if not changes:
            log.info("SIGHUP: nothing has changed")
            return None
        log.info(
            "SIGHUP: restarting the supervisor with %s", ", ".join(f"{flag}={text}" for flag, text in sorted(changes.items()))
        )
        return wanted
