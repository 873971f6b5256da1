"""The restart policy of a child process. `Child` is pure: time is an argument, and it starts nothing itself.

WAITING ── due ──► RUNNING ── exit ──► WAITING (due at once, or after a back-off when it keeps exiting early)
RUNNING ── release ──► WAITING (its process serves elsewhere)
   any ── stop ──► STOPPED ── resume ──► WAITING, or RUNNING if its last process is still there
"""

import logging
import os
import signal
import time

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 10.0

_RETRY_S = 0.5
"""Delay before the next attempt when the kernel has refused a process (a limit of processes or memory). Other workers go on meanwhile."""

log = logging.getLogger("pool")


class Phase(Enum):
    """State of a child."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(slots=True)
class Child:
    """A child process and when it is started again.

    `min_uptime_s`: a process that exits earlier has failed; one that ran longer resets the count of failures. `free_restarts`: failures
    in a row that are followed by a restart at once, before the back-off begins. `pid`: 0 without a process. `due`: monotonic seconds from
    when the next process may be started. `starts`: processes started so far. `early_exits`: failures in a row. `last_heartbeat_s`:
    monotonic seconds.
    """

    min_uptime_s: float
    free_restarts: int
    phase: Phase = Phase.WAITING
    pid: int = 0
    due: float = 0.0
    started: float = 0.0
    starts: int = 0
    early_exits: int = 0
    last_heartbeat_s: float = 0.0

    @property
    def restarts(self) -> int:
        """Number of processes started after the first."""
        return max(self.starts - 1, 0)

    def is_due(self, now: float) -> bool:
        """Whether a process should be started now."""
        return self.phase is Phase.WAITING and now >= self.due

    def on_start(self, pid: int, now: float) -> None:
        """Record that a process was started. The start counts as a heartbeat."""
        if self.phase is not Phase.WAITING:
            raise ValueError(f"started while {self.phase.value}")
        self.phase = Phase.RUNNING
        self.pid = pid
        self.started = self.last_heartbeat_s = now
        self.starts += 1

    def on_exit(self, now: float) -> None:
        """Record that the process has exited."""
        if self.phase is Phase.RUNNING:
            self.early_exits = self.early_exits + 1 if now - self.started < self.min_uptime_s else 0
            self.due = now + restart_delay(self.early_exits - self.free_restarts)
            self.phase = Phase.WAITING
        self.pid = 0

    def release(self, due: float) -> None:
        """Record that the process serves elsewhere. The next one may be started from `due` on."""
        if self.phase is Phase.RUNNING:
            self.phase, self.due = Phase.WAITING, due
        self.pid = self.early_exits = 0

    def stop(self) -> None:
        """Start no more processes."""
        self.phase = Phase.STOPPED

    def resume(self, now: float) -> None:
        """Start processes again, after `stop`."""
        if self.phase is Phase.STOPPED:
            self.phase = Phase.RUNNING if self.pid else Phase.WAITING
            self.due = now


def restart_delay(failures: int) -> float:
    """Seconds to wait after this many failures in a row; 0 for zero or fewer."""
    if failures <= 0:
        return 0.0
    return float(min(_FIRST_DELAY_S * 2 ** min(failures - 1, 16), _MAX_DELAY_S))


def attempt(child: Child, start: Callable[[], None]) -> None:
    """Start a child. If the kernel refuses the process, the child is due again after a delay."""
    try:
        start()
    except OSError as error:
        log.error("cannot start a process: %s", error.strerror)
        child.due = time.monotonic() + _RETRY_S


def exited_children() -> Iterator[tuple[int, int]]:
    """Reap every child of this process that has exited: its pid and its exit code, negative for a signal."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def described(code: int) -> str:
    """How a process has ended, from its exit code; negative: the number of a signal."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def kill_if_silent(name: str, child: Child, now: float, limit_s: float) -> bool:
    """Kill a child whose last heartbeat is older than the limit. Returns whether it did."""
    silence_s = now - child.last_heartbeat_s
    if not child.pid or silence_s <= limit_s:
        return False
    log.error("%s (pid %d) sent no heartbeat for %.0f s: killing it", name, child.pid, silence_s)
    child.last_heartbeat_s = now
    os.kill(child.pid, signal.SIGKILL)
    return True
