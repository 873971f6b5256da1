"""The workers in the pool: one on each queue, the waiting process, and a standby worker that replaces one that exits.

Every worker process holds the bound queue sockets, so no packet that waits in them is lost.
"""

import logging
import math
import os
import signal
import time

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import Counters, Drain, FlowMemory, Heartbeat, Hints, Logging, Message, Refusal, Report, Serve
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.restart_policy import Child, attempt, described, kill_if_silent
from netpolq_worker.pool.spawn import SnapshotHandle, WorkerProcess, WorkerSpawner
from netpolq_worker.worker.nfqueue import Queue

_SILENCE_S = 2.0
"""A worker without a heartbeat for this long hangs. A worker reports every 0.25 s, idle or not, from the loop that evaluates packets; a
standby worker sends a heartbeat every 0.5 s."""

_PAUSE_S = 0.5
"""If the pool itself did not run for this much longer than `_SILENCE_S`, the machine stood still or was overloaded: no worker is killed."""

_RETRY_S = 1.0
"""Delay before a worker that has refused a snapshot is sent the newest one: it may have had no descriptor or no memory left."""

_SUSPECT_EXITS = 2
"""After this many early exits in a row, the packets that the workers read may be the cause."""

_STANDBY_DELAY_S = 0.05
"""Delay before the next standby worker is forked: on a small machine the fork would compete with the replacement, which has waiting
packets to evaluate."""

log = logging.getLogger("pool")


@dataclass(slots=True)
class _Slot:
    """A queue and the worker that serves it, or the waiting process. `name`: for the log.

    `drop_unanswered`: the next worker drops the packets that the last one had read, because one of them may have ended it.
    """

    number: int
    name: str
    queue: Queue
    child: Child = field(default_factory=lambda: Child(min_uptime_s=0.1, free_restarts=3))
    last_report: Report | None = None
    drop_unanswered: bool = False

    def report(self) -> Report:
        """State of the slot. `acked_version` is 0 until the present process has reported."""
        last = self.last_report
        alive = last is not None and last.pid == self.child.pid
        return Report(
            slot=self.number,
            pid=self.child.pid,
            queue_num=self.queue.queue_num,
            acked_version=last.acked_version if last is not None and alive else 0,
            packets=last.packets if last is not None else 0,
            restarts=self.child.restarts,
            held=last.held if last is not None and alive else 0,
        )


class Workers:
    """Binds the queues and keeps a worker on each, in the last slot the waiting process.

    `notify`: called with messages for the supervisor: reports, hints, refusals.

    `snapshot`: the newest one, which the workers evaluate with. `is_draining`: `drain` was called.
    """

    def __init__(self, settings: Settings, events: EventLoop, notify: Callable[[Message], object]) -> None:
        """Raises `NetpolqError`."""
        self._events = events
        self._notify = notify
        self._spawner = WorkerSpawner(settings)
        *queues, waiting_queue = self._spawner.queues
        self._waiting = _Slot(len(queues), "waiting process", waiting_queue)
        self._slots = [*(_Slot(number, f"worker {number}", queue) for number, queue in enumerate(queues)), self._waiting]
        self._workers: dict[int, WorkerProcess] = {}
        self._standby = Child(min_uptime_s=1.0, free_restarts=1, due=time.monotonic() + _STANDBY_DELAY_S)
        self._last_check = time.monotonic()
        self.is_draining = False
        self._successor_queue: int | None = None
        self.snapshot = SnapshotHandle()

    @property
    def children(self) -> list[Child]:
        """All children, the standby worker first, the waiting process last."""
        return [self._standby, *(slot.child for slot in self._slots)]

    def reports(self) -> list[Report]:
        """State of each worker, and of the waiting process."""
        return [slot.report() for slot in self._slots]

    @property
    def spawner(self) -> WorkerSpawner:
        """What forks the workers."""
        return self._spawner

    @property
    def memories(self) -> list[tuple[Counters | FlowMemory, int]]:
        """The memories of the workers and the DNS reader that the supervisor reads, with their descriptors. The list only grows."""
        return self._spawner.announced

    @property
    def held_table(self) -> int:
        """Descriptor of the table of held packets."""
        return self._spawner.held_table

    def start_due(self, now: float) -> None:
        """Start each worker that is due, and the standby worker."""
        for slot in self._slots:
            if slot.child.is_due(now):
                attempt(slot.child, partial(self._start_worker, slot))
        if self._standby.is_due(now):
            attempt(self._standby, self._start_standby)

    def _start_standby(self) -> None:
        self._standby.on_start(self._spawn().pid, time.monotonic())

    def _start_worker(self, slot: _Slot) -> None:
        """Let the standby worker serve a slot, or a new process if there is no standby worker with the newest snapshot."""
        now = time.monotonic()
        order = Serve(slot.number, slot.last_report.packets if slot.last_report is not None else 0, slot.drop_unanswered)
        worker = None if self.is_draining else self._workers.get(self._standby.pid)  # which ends when the workers drain
        if worker is not None and not worker.behind and worker.channel.send(order):
            self._standby.release(now + _STANDBY_DELAY_S)
        else:
            worker = self._spawn()
            worker.channel.send(order)
        worker.slot = slot.number
        slot.drop_unanswered = False
        slot.child.on_start(worker.pid, now)

    def _spawn(self) -> WorkerProcess:
        worker = self._spawner.spawn(self.snapshot)
        self._workers[worker.pid] = worker
        self._events.watch(worker.channel, partial(self._on_readable, worker))
        return worker

    # --- heartbeats and exits ----------------------------------------------------------------------------------------------------------

    @property
    def silence_dues(self) -> list[float]:
        """When each worker counts as hanging, in monotonic seconds."""
        return [child.last_heartbeat_s + _SILENCE_S for child in self.children if child.pid]

    def kill_silent(self) -> bool:
        """Kill workers that hang. Call it at the first of `silence_dues` at the latest. Returns whether the pool itself stood still."""
        now = time.monotonic()
        # Heartbeats bound every wait of the pool. A longer pause means that the pool did not get to run.
        stood_still = now - self._last_check > _SILENCE_S + _PAUSE_S
        if stood_still:
            for child in self.children:
                child.last_heartbeat_s = now
        self._last_check = now
        for slot in self._slots:
            slot.drop_unanswered |= kill_if_silent(slot.name, slot.child, now, _SILENCE_S)
        kill_if_silent("standby worker", self._standby, now, _SILENCE_S)
        return stood_still

    def on_exit(self, pid: int, code: int, now: float) -> None:
        """Record that a process has exited. If it was a worker, start a replacement, at once if the restart policy allows it."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self._on_readable(worker)  # its last messages
        self._events.unwatch(worker.channel)
        self._spawner.reap(worker)
        if worker.slot is None:
            if pid == self._standby.pid:
                self._standby.on_exit(now)
            if not self.is_draining:
                log.error("standby worker (pid %d) %s", pid, described(code))
            return
        slot = self._slots[worker.slot]
        slot.child.on_exit(now)
        # SIGKILL comes from outside, so packets are not the cause, unless it happens repeatedly (the kernel kills for lack of memory).
        slot.drop_unanswered |= code != -signal.SIGKILL or slot.child.early_exits >= _SUSPECT_EXITS
        if not self.is_draining or (slot is self._waiting and code):
            if slot.child.is_due(now):
                attempt(slot.child, partial(self._start_worker, slot))
            log.error("%s (pid %d, queue %d) %s", slot.name, pid, slot.queue.queue_num, described(code))
            self._notify(slot.report())
        if self.is_draining:
            self._drain_waiting()

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _on_readable(self, worker: WorkerProcess) -> None:
        self._events.read(worker.channel, partial(self._on_message, worker))

    def _on_message(self, worker: WorkerProcess, message: Message, _descriptor: int | None) -> None:
        match message:
            case Report() if worker.slot is not None:
                slot = self._slots[worker.slot]
                slot.last_report = message
                slot.child.last_heartbeat_s = time.monotonic()
                self._notify(slot.report())
                self._on_acknowledged(worker, message.acked_version)
            case Heartbeat(version):
                if worker.pid == self._standby.pid:
                    self._standby.last_heartbeat_s = time.monotonic()
                self._on_acknowledged(worker, version)
            case Hints():
                self._notify(message)  # a busy supervisor misses it, and the worker sends the hint again
            case Refusal():
                log.error("%s refuses snapshot %d: %s", self._slots[message.slot].name, message.version, message.message)
                worker.refused(message.version, time.monotonic() + _RETRY_S)
                self._notify(message)
            case _:
                log.error("unexpected message %r", message)

    def _on_acknowledged(self, worker: WorkerProcess, version: int) -> None:
        worker.has_read(version)
        if worker.behind and time.monotonic() >= worker.retry_due:
            worker.publish(self.snapshot, None)

    @property
    def logging(self) -> Logging:
        """What the workers log."""
        return self._spawner.logging

    def set_logging(self, wanted: Logging) -> None:
        """Set what all present and future workers log. A worker that misses the message hangs, and `kill_silent` ends it."""
        self._spawner.logging = wanted
        for worker in self._workers.values():
            worker.channel.send(wanted)

    def load(self, snapshot: SnapshotHandle, changed: tuple[bytes, ...] | None = None) -> None:
        """Publish another snapshot, which has been validated, to all workers. Owns its descriptor now. `changed` as in `Publish`."""
        if self.snapshot.version:
            os.close(self.snapshot.descriptor)
        self.snapshot = snapshot
        for worker in self._workers.values():
            worker.publish(snapshot, changed)

    # --- shutdown ------------------------------------------------------------------------------------------------------------------

    def drain(self, successor_queue: int | None) -> None:
        """Tell all workers to evaluate the packets in their queues and exit. They are not replaced.

        The waiting process is the last, because workers move packets to it until their end. What it holds then moves to the waiting
        queue of the agent that takes over. None: there is none, and the failure mode decides.
        """
        if self._waiting.child.is_due(math.inf):
            attempt(self._waiting.child, partial(self._start_worker, self._waiting))
        self.is_draining, self._successor_queue = True, successor_queue
        for child in self.children[:-1]:
            child.stop()
        for worker in self._workers.values():
            if worker.slot != self._waiting.number:
                worker.channel.send(Drain())
        self._drain_waiting()

    def _drain_waiting(self) -> None:
        """Tell the waiting process to end, if all workers have."""
        waiting = self._workers.get(self._waiting.child.pid)
        if waiting is not None and not any(slot.child.pid for slot in self._slots[:-1]):
            waiting.channel.send(Drain(self._successor_queue))

    def close(self) -> None:
        """Unbind the queues. The workers must have exited."""
        for slot in self._slots:
            slot.queue.close()
        self.spawner.close()
