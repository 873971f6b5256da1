"""The supervisor process in the pool: started as a program, restarted when it exits. It exits when its channel is closed."""

import math
import os
import signal
import subprocess
import time

from collections.abc import Callable, Sequence

from netpolq.ipc import settings_document
from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import Channel, Message
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.restart_policy import Child, kill_if_silent

_SILENCE_S = 15.0
"""The supervisor sends a heartbeat once a second, from the loop that does all of its work. The longest step of that loop, and the imports
at its start, take some seconds in a large cluster on a busy machine. Workers go on meanwhile."""


class SupervisorProcess:
    """Runs one supervisor at a time.

    `command`: its command line, without the settings. `settings`: a new value applies from the next start on. `on_message`: called with
    each message, and the descriptor that came with it.
    """

    def __init__(
        self, command: Sequence[str], settings: Settings, events: EventLoop, on_message: Callable[[Message, int | None], None]
    ) -> None:
        self.child = Child(min_uptime_s=5.0, free_restarts=0)
        self.settings = settings
        self._command = command
        self._events = events
        self._on_message = on_message
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # The supervisor's own counters end with its process; only workers use the multiprocess mode.
        self._environment = {name: text for name, text in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}

    def start(self) -> None:
        """Start a supervisor. Raises `OSError` if the kernel refuses the process."""
        ours, theirs = Channel.pair()
        with theirs:
            # The channel is the standard input: no number to agree on, and no other descriptor is inherited.
            argv = [*self._command, settings_document.encode(self.settings)]
            self._process = subprocess.Popen[bytes](argv, stdin=theirs.fileno(), env=self._environment)
        self.child.on_start(self._process.pid, time.monotonic())
        self._channel = ours
        self._events.watch(ours, self._on_readable)

    def _on_readable(self) -> None:
        if self._channel is not None:
            self._events.read(self._channel, self._on_message)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message. Returns False if there is no supervisor, or if it is too busy to read: the message is lost then."""
        return self._channel is not None and self._channel.send(message, descriptors)

    def on_heartbeat(self) -> None:
        """Record a heartbeat."""
        self.child.last_heartbeat_s = time.monotonic()

    @property
    def silence_due(self) -> float:
        """When the supervisor counts as hanging, in monotonic seconds; infinity: there is no supervisor."""
        return self.child.last_heartbeat_s + _SILENCE_S if self.child.pid else math.inf

    def kill_silent(self) -> None:
        """Kill a supervisor that hangs, also after `disconnect`. Call it at `silence_due` at the latest."""
        kill_if_silent("supervisor", self.child, time.monotonic(), _SILENCE_S)

    def disconnect(self) -> None:
        """Close the channel. The supervisor exits when it sees the end of the channel."""
        if self._channel is not None:
            self._events.unwatch(self._channel)
            self._channel.close()
            self._channel = None

    def replace(self, settings: Settings) -> None:
        """Replace the supervisor by one with other settings."""
        self.settings = settings
        self.child.due = 0.0
        self.disconnect()

    def on_exit(self, code: int, now: float) -> bool:
        """Record that the supervisor has exited with this code. Returns whether the pool had disconnected it before."""
        was_disconnected = self._channel is None
        self._on_readable()  # its last messages
        self.child.on_exit(now)
        self.disconnect()
        if self._process is not None:
            self._process.returncode = code  # reaped by the pool; Popen must not wait for it again
        return was_disconnected

    # --- during a takeover, and at the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the supervisor and start no other."""
        self.child.stop()
        self.disconnect()

    def kill(self) -> None:
        """Kill the supervisor if one runs."""
        if self.child.pid:
            os.kill(self.child.pid, signal.SIGKILL)

    def resume(self) -> None:
        """Run a supervisor again, after `stop`."""
        self.child.resume(time.monotonic())
