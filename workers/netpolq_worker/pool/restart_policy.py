"""When children are started. A `Child` is pure: told what happened and what time it is, it says what to do.

WAITING ── due ──► RUNNING ── exit ──► WAITING (at once, or after a back-off when it keeps dying young)
RUNNING ── release ──► WAITING (its process has moved to another place)
   any ── stop ──► STOPPED ── resume ──► WAITING, or RUNNING if its last process still does
"""

import logging
import os
import signal
import time

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 10.0

_RETRY_S = 0.5
"""When to ask again for a process that the kernel has refused (a limit of processes or memory): workers that are there go on meanwhile."""

log = logging.getLogger("pool")


class Phase(Enum):
    """Where a child is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(slots=True)
class Child:
    """A child process and when it is started again.

    `min_uptime_s`: a process that ends earlier has failed; one that ran longer resets the count of failures. `free_restarts`: failures
    in a row that are followed by a restart at once, before the back-off begins. `pid`: 0 without a process. `due`: monotonic seconds from
    when the next one may be started. `starts`: processes started so far. `young_deaths`: failures in a row. `heard`: monotonic seconds of
    the last heartbeat.
    """

    min_uptime_s: float
    free_restarts: int
    phase: Phase = Phase.WAITING
    pid: int = 0
    due: float = 0.0
    started: float = 0.0
    starts: int = 0
    young_deaths: int = 0
    heard: float = 0.0

    @property
    def restarts(self) -> int:
        """How many successors there have been."""
        return max(self.starts - 1, 0)

    def is_due(self, now: float) -> bool:
        """Whether it should be started now."""
        return self.phase is Phase.WAITING and now >= self.due

    def on_start(self, pid: int, now: float) -> None:
        """A process was started."""
        if self.phase is not Phase.WAITING:
            raise ValueError(f"started while {self.phase.value}")
        self.phase = Phase.RUNNING
        self.pid = pid
        self.started = self.heard = now
        self.starts += 1

    def on_exit(self, now: float) -> None:
        """The process has ended."""
        if self.phase is Phase.RUNNING:
            self.young_deaths = self.young_deaths + 1 if now - self.started < self.min_uptime_s else 0
            self.due = now + restart_delay(self.young_deaths - self.free_restarts)
            self.phase = Phase.WAITING
        self.pid = 0

    def release(self, due: float) -> None:
        """The process goes on in another place; from `due` on, this one may be filled again."""
        if self.phase is Phase.RUNNING:
            self.phase, self.due = Phase.WAITING, due
        self.pid = self.young_deaths = 0

    def stop(self) -> None:
        """Start no more processes."""
        self.phase = Phase.STOPPED

    def resume(self, now: float) -> None:
        """Start processes again, after `stop`."""
        if self.phase is Phase.STOPPED:
            self.phase = Phase.RUNNING if self.pid else Phase.WAITING
            self.due = now


def restart_delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row; none for zero or fewer."""
    if failures <= 0:
        return 0.0
    return float(min(_FIRST_DELAY_S * 2 ** min(failures - 1, 16), _MAX_DELAY_S))


def attempt(child: Child, start: Callable[[], None]) -> None:
    """Start a child, or see to it that this is tried again."""
    try:
        start()
    except OSError as error:
        log.error("no process can be started: %s", error.strerror)
        child.due = time.monotonic() + _RETRY_S


def described(code: int) -> str:
    """How a process has ended, by its exit code; negative: the number of a signal."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def is_killed_for_silence(name: str, child: Child, now: float, limit_s: float) -> bool:
    """Kill a child if it has been silent for longer than the limit. Returns whether it has."""
    silence_s = now - child.heard
    if not child.pid or silence_s <= limit_s:
        return False
    log.error("%s (pid %d) has been silent for %.0f s and is killed", name, child.pid, silence_s)
    child.heard = now
    os.kill(child.pid, signal.SIGKILL)
    return True
