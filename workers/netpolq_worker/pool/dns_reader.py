"""The DNS reader in the pool: one process while the supervisor names resolvers, started again when it exits.

The pool binds the DNS queue, so packets wait in it while no process reads them. dnspython is imported in the process only.
"""

import logging
import math
import os
import socket
import time

from collections.abc import Callable
from functools import partial

from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import Answer, AnswersInForce, Channel, Drain, Heartbeat, Logging, Message, Resolvers
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.fork import fork_child
from netpolq_worker.pool.restart_policy import Child, Phase, described, kill_if_silent
from netpolq_worker.pool.workers import Workers
from netpolq_worker.worker.nfqueue import Packet, PacketHandler, Queue

_SILENCE_S = 2.0
"""A reader without a heartbeat for this long hangs. It sends one every 0.25 s, and is ready within 0.2 s of its start."""

_COPY_BYTES = 0xFFFF
"""Whole packets: a message is up to 64 KiB long."""

_POLL_S = 0.002

log = logging.getLogger("pool")


class DnsReaderProcess:
    """Runs at most one DNS reader. `notify`: called with its answers, for the supervisor."""

    def __init__(self, settings: Settings, events: EventLoop, workers: Workers, notify: Callable[[Answer], object]) -> None:
        """Bind the DNS queue. Raises `NetpolqError`."""
        self._settings = settings
        self._events = events
        self._workers = workers
        self._notify = notify
        self._resolvers = Resolvers(())
        self._channel: Channel | None = None
        self._metrics_file_id: int | None = None
        # Set in the reader's process only.
        self._take: Callable[[Packet], None] | None = None
        packet_handler = self._handle_packets()
        next(packet_handler)
        self._queue = Queue(settings.dns_queue, packet_handler, fail_open=settings.fail_open, copy_bytes=_COPY_BYTES)
        self.child = Child(min_uptime_s=1.0, free_restarts=3, phase=Phase.STOPPED)

    def _handle_packets(self) -> PacketHandler:
        while True:
            packet = yield None
            if packet is not None and self._take is not None:
                self._take(packet)

    # --- the process --------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fork a reader. Raises `OSError` if the kernel refuses the process."""
        if self._metrics_file_id is None:
            self._metrics_file_id = self._workers.spawner.new_memory()
        memory = self._workers.spawner.memories[self._metrics_file_id]
        kept = (*self._queue.descriptors(), memory)
        pid, self._channel = fork_child("dns", kept, partial(self._run_reader, self._metrics_file_id, memory))
        self.child.on_start(pid, time.monotonic())
        self._channel.send(self._resolvers)
        self._events.watch(self._channel, self._on_readable)

    def _run_reader(self, metrics_file_id: int, memory: int, end: socket.socket) -> None:
        """Be the reader, in the forked child."""
        from netpolq_worker.dns.learner import Learner  # noqa: PLC0415  # dnspython takes 6 MB, which the pool and workers must not share
        from netpolq_worker.dns.loop import DnsReader  # noqa: PLC0415
        from netpolq_worker.dns.metrics import DnsMetrics  # noqa: PLC0415

        settings = self._settings
        learner = Learner(time.monotonic_ns(), settings.queues.numbers, settings.mark_mask, settings.dns_min_ttl_s)
        reader = DnsReader(self._queue, Channel(end), learner, DnsMetrics(metrics_file_id, memory))
        self._workers.spawner.sandbox.apply()
        self._take = reader.take
        reader.run()

    def on_exit(self, pid: int, code: int, now: float) -> None:
        """Record that a process has exited. Does nothing if it was no reader."""
        if pid != self.child.pid:
            return
        self._on_readable()  # its last messages
        self.child.on_exit(now)
        if self._channel is not None:
            self._events.unwatch(self._channel)
            self._channel.close()
            self._channel = None
        if code:
            log.error("DNS reader (pid %d, queue %d) %s", pid, self._queue.queue_num, described(code))

    @property
    def silence_due(self) -> float:
        """When the reader counts as hanging, in monotonic seconds; infinity: there is none."""
        return self.child.last_heartbeat_s + _SILENCE_S if self.child.pid else math.inf

    def on_heartbeat(self) -> None:
        """Record a heartbeat."""
        self.child.last_heartbeat_s = time.monotonic()

    def kill_silent(self) -> None:
        """Kill a reader that hangs. Call it at `silence_due` at the latest."""
        kill_if_silent("DNS reader", self.child, time.monotonic(), _SILENCE_S)

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def forward(self, message: Resolvers | AnswersInForce) -> None:
        """Forward a message of the supervisor. A reader runs as long as the last `Resolvers` names any."""
        self._send(message)  # without resolvers, the reader exits after a while
        if isinstance(message, Resolvers):
            self._resolvers = message
            if message.addresses:
                self.child.resume(time.monotonic())
            else:
                self.child.stop()

    def set_logging(self, wanted: Logging) -> None:
        """Set what the reader logs. The next one inherits it from the pool."""
        self._send(wanted)

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    def _on_readable(self) -> None:
        if self._channel is not None:
            self._events.read(self._channel, self._on_message)

    def _on_message(self, message: Message, _descriptor: int | None) -> None:
        match message:
            case Answer():
                self._notify(message)
            case Heartbeat():
                self.on_heartbeat()
            case _:
                log.error("unexpected message %r", message)

    # --- shutdown -----------------------------------------------------------------------------------------------------------------

    def drain(self, limit_s: float) -> None:
        """Tell the reader to move all packets to the workers and exit, and wait for that. It is not replaced."""
        self.child.stop()
        self._send(Drain())
        deadline = time.monotonic() + limit_s
        while self.child.pid and time.monotonic() < deadline and not _has_exited(self.child.pid):
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Unbind the queue. The reader must have exited."""
        self._queue.close()


def _has_exited(pid: int) -> bool:
    """Whether a child has exited. The pool reaps it later."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
