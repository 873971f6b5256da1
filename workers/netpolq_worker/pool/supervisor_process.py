"""The supervisor as the pool sees it: a program that is started, spoken to, and started again. It leaves when its channel ends."""

import os
import signal
import subprocess
import time

from collections.abc import Callable, Sequence

from netpolq.ipc.channel import Channel, Message
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.restart_policy import Child, is_killed_for_silence

_STAND_DOWN_S = 3.0

_SILENCE_S = 15.0
"""The supervisor beats once a second from the loop that does all of its work. The longest step of that loop, and the imports at its start,
take some seconds in a large cluster on a busy machine; workers go on meanwhile."""


class SupervisorProcess:
    """One supervisor at a time. `on_message` is given what it says, with a descriptor if one came along.

    `words`: its command line; another one is for the next start.
    """

    def __init__(self, words: tuple[str, ...], events: EventLoop, on_message: Callable[[Message, int | None], None]) -> None:
        self.child = Child(min_uptime_s=5.0, free_restarts=0)
        self.words = words
        self._events = events
        self._on_message = on_message
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stand_down_due = 0.0
        # Its own counters live and die with it; the multiprocess mode is the workers'.
        self._environment = {name: text for name, text in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}

    def start(self) -> None:
        """Start one. Raises `OSError` where no process can be had."""
        ours, theirs = Channel.pair()
        with theirs:
            # The channel is the supervisor's standard input: nothing to agree on, and nothing it inherits by accident.
            self._process = subprocess.Popen[bytes](self.words, stdin=theirs.fileno(), env=self._environment)
        self.child.on_start(self._process.pid, time.monotonic())
        self._channel = ours
        self._events.watch(ours, self._on_readable)

    def _on_readable(self) -> None:
        if self._channel is not None:
            self._events.read(self._channel, self._on_message)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Say something, if there is a supervisor; one that is too busy to read misses it. Returns False then."""
        return self._channel is not None and self._channel.send(message, descriptors)

    def heard(self) -> None:
        """It has given a sign of life, or cannot have."""
        self.child.heard = time.monotonic()

    @property
    def silence_due(self) -> float | None:
        """When it will have been silent for too long; None: there is none."""
        return self.child.heard + _SILENCE_S if self.child.pid else None

    def kill_silent(self) -> None:
        """Kill a supervisor that hangs, also one that was to leave. To be called at `silence_due` at the latest."""
        is_killed_for_silence("supervisor", self.child, time.monotonic(), _SILENCE_S)

    def let_go(self) -> None:
        """Have it leave, which it does when it sees the end of the channel."""
        if self._channel is not None:
            self._events.unwatch(self._channel)
            self._channel.close()
            self._channel = None

    def replace(self, words: tuple[str, ...]) -> None:
        """Have one with another command line take its place."""
        self.words = words
        self.child.due = 0.0
        self.let_go()

    def on_exit(self, code: int, now: float) -> bool:
        """It has ended, with this exit code. Returns whether it was let go."""
        was_let_go = self._channel is None
        self._on_readable()  # what it said last
        self.child.on_exit(now)
        self.let_go()
        if self._process is not None:
            self._process.returncode = code  # reaped by the pool; Popen must not wait for it again
        return was_let_go

    # --- for the time of a takeover -----------------------------------------------------------------------------------------------

    def stand_down(self) -> None:
        """Have it leave for good. May be asked for again and again until it has."""
        self.child.stop()
        self.let_go()
        if not self._stand_down_due:
            self._stand_down_due = time.monotonic() + _STAND_DOWN_S

    def resume(self) -> None:
        """Have one again after all."""
        self._stand_down_due = 0.0
        self.child.resume(time.monotonic())

    @property
    def due(self) -> float | None:
        """When `kill_if_due` is to be called; None: there is nobody who is to stand down."""
        return self._stand_down_due if self._stand_down_due and self.child.pid else None

    def kill_if_due(self, now: float) -> None:
        """Kill one that takes too long to leave."""
        if self.due is not None and now >= self.due:
            os.kill(self.child.pid, signal.SIGKILL)
            self._stand_down_due = now + _STAND_DOWN_S
