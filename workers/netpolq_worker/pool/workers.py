"""The workers as the pool sees them: one on each queue, and a spare that takes the place of whichever dies.

Every process that may serve holds the bound queue sockets, so nothing that waits in them is lost.
"""

import logging
import os
import signal
import time

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from netpolq.ipc.channel import Counters, Drain, Heartbeat, Hints, Logging, Message, Refusal, Report, Serve
from netpolq_worker.pool.args import PoolOptions
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.restart_policy import Child, attempt, described, is_killed_for_silence
from netpolq_worker.pool.spawn import Snapshot, WorkerProcess, WorkerSpawner
from netpolq_worker.worker.nfqueue import Queue

_SILENCE_S = 2.0
"""A worker reports every quarter of a second, idle or not, from the loop that judges; a spare one every half. One that is silent for so
long hangs."""

_PAUSE_S = 0.5
"""If the pool itself did not get to run for so long, nobody's silence means anything: the machine stood still, or was overloaded."""

_RETRY_S = 1.0
"""When a worker that has refused a snapshot is sent the newest one: it may have had no descriptor left, or no memory."""

_SUSPECT_DEATHS = 2
"""So many successors in a row that died at once: what they read may be what killed them."""

_SPARE_DELAY_S = 0.05
"""A spare has gone to serve what waited: another is forked when that is done, because on a small machine it would take turns with it."""

log = logging.getLogger("pool")


@dataclass(slots=True)
class _Slot:
    """A queue and the worker that serves it. `suspect`: the last worker may have died of a packet that it had read."""

    number: int
    queue: Queue
    child: Child = field(default_factory=lambda: Child(min_uptime_s=0.1, free_restarts=3))
    last_report: Report | None = None
    suspect: bool = False

    def report(self) -> Report:
        """What is known of it. `acked_version` is 0 until the process that is there now has reported."""
        last = self.last_report
        alive = last is not None and last.pid == self.child.pid
        return Report(
            slot=self.number,
            pid=self.child.pid,
            queue_num=self.queue.queue_num,
            acked_version=last.acked_version if last is not None and alive else 0,
            packets=last.packets if last is not None else 0,
            restarts=self.child.restarts,
        )


class Workers:
    """Binds the queues and keeps them served. `tell` is given what the supervisor is to know: reports, hints, refusals.

    `snapshot`: the newest one, by which they judge.
    """

    def __init__(self, options: PoolOptions, events: EventLoop, tell: Callable[[Message], None]) -> None:
        """Raises `NetpolqError`."""
        self._events = events
        self._tell = tell
        self._spawner = WorkerSpawner(options)
        self._slots = [_Slot(number, queue) for number, queue in enumerate(self._spawner.queues)]
        self._workers: dict[int, WorkerProcess] = {}
        self._spare = Child(min_uptime_s=1.0, free_restarts=1, due=time.monotonic() + _SPARE_DELAY_S)
        self._last_look = time.monotonic()
        self._is_leaving = False
        self.snapshot = Snapshot()

    @property
    def children(self) -> list[Child]:
        """All places, the spare's first."""
        return [self._spare, *(slot.child for slot in self._slots)]

    def reports(self) -> list[Report]:
        """What is known of each worker."""
        return [slot.report() for slot in self._slots]

    @property
    def counters(self) -> list[tuple[Counters, int]]:
        """The memories in which workers count, with their descriptors. There may be more later, never fewer."""
        return [(Counters(seat), descriptor) for seat, descriptor in enumerate(self._spawner.memories)]

    def start_due(self, now: float) -> None:
        """Fill the places that are to be filled."""
        for slot in self._slots:
            if slot.child.is_due(now):
                attempt(slot.child, partial(self._start_worker, slot))
        if self._spare.is_due(now):
            attempt(self._spare, self._start_spare)

    def _start_spare(self) -> None:
        self._spare.on_start(self._fork().pid, time.monotonic())

    def _start_worker(self, slot: _Slot) -> None:
        """Have the spare serve a slot, or a new process where there is none that could."""
        now = time.monotonic()
        order = Serve(slot.number, slot.last_report.packets if slot.last_report is not None else 0, slot.suspect)
        worker = self._workers.get(self._spare.pid)
        if worker is not None and not worker.behind and worker.channel.send(order):
            self._spare.release(now + _SPARE_DELAY_S)
        else:
            worker = self._fork()
            worker.channel.send(order)
        worker.slot = slot.number
        slot.suspect = False
        slot.child.on_start(worker.pid, now)

    def _fork(self) -> WorkerProcess:
        worker = self._spawner.fork(self.snapshot)
        self._workers[worker.pid] = worker
        self._events.watch(worker.channel, partial(self._on_readable, worker))
        return worker

    # --- signs of life ------------------------------------------------------------------------------------------------------------

    @property
    def silence_dues(self) -> list[float]:
        """When each worker will have been silent for too long."""
        return [child.heard + _SILENCE_S for child in self.children if child.pid]

    def kill_silent(self) -> bool:
        """Kill workers that hang. To be called at the first of `silence_dues` at the latest. Returns whether the pool stood still."""
        now = time.monotonic()
        # Waiting is bounded by the beats of the workers, so a longer pause was not of our choosing.
        stood_still = now - self._last_look > _SILENCE_S + _PAUSE_S
        if stood_still:
            for child in self.children:
                child.heard = now
        self._last_look = now
        for slot in self._slots:
            slot.suspect |= is_killed_for_silence(f"worker {slot.number}", slot.child, now, _SILENCE_S)
        is_killed_for_silence("spare worker", self._spare, now, _SILENCE_S)
        return stood_still

    def on_exit(self, pid: int, code: int, now: float) -> None:
        """A process has ended. If it was a worker it is succeeded, at once where it may be."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        self._on_readable(worker)  # what it said last
        self._events.unwatch(worker.channel)
        self._spawner.bury(worker)
        if worker.slot is None:
            if pid == self._spare.pid:
                self._spare.on_exit(now)
            if not self._is_leaving:
                log.error("spare worker (pid %d) %s", pid, described(code))
            return
        slot = self._slots[worker.slot]
        slot.child.on_exit(now)
        # Killed by somebody else, it is not the packets' fault, unless that goes on and on (the kernel kills for lack of memory).
        slot.suspect |= code != -signal.SIGKILL or slot.child.young_deaths >= _SUSPECT_DEATHS
        if not self._is_leaving:
            if slot.child.is_due(now):
                attempt(slot.child, partial(self._start_worker, slot))
            log.error("worker %d (pid %d, queue %d) %s", slot.number, pid, slot.queue.queue_num, described(code))
            self._tell(slot.report())

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _on_readable(self, worker: WorkerProcess) -> None:
        self._events.read(worker.channel, partial(self._on_message, worker))

    def _on_message(self, worker: WorkerProcess, message: Message, _descriptor: int | None) -> None:
        match message:
            case Report() if worker.slot is not None:
                slot = self._slots[worker.slot]
                slot.last_report = message
                slot.child.heard = time.monotonic()
                self._tell(slot.report())
                self._on_read(worker, message.acked_version)
            case Heartbeat(version):
                if worker.pid == self._spare.pid:
                    self._spare.heard = time.monotonic()
                self._on_read(worker, version)
            case Hints():
                self._tell(message)  # a supervisor that is busy misses it, and the worker will hint again
            case Refusal():
                log.error("worker %d refuses snapshot %d: %s", message.slot, message.version, message.message)
                worker.refused(message.version, time.monotonic() + _RETRY_S)
                self._tell(message)
            case _:
                log.error("unexpected message %r", message)

    def _on_read(self, worker: WorkerProcess, version: int) -> None:
        worker.has_read(version)
        if worker.behind and time.monotonic() >= worker.retry_due:
            worker.publish(self.snapshot, None)

    @property
    def logging(self) -> Logging:
        """What workers log."""
        return self._spawner.logging

    def set_logging(self, wanted: Logging) -> None:
        """Have all workers, and those that come, log this. One that does not read is silent, too, and will be killed for that."""
        self._spawner.logging = wanted
        for worker in self._workers.values():
            worker.channel.send(wanted)

    def load(self, snapshot: Snapshot, changed: tuple[bytes, ...] | None = None) -> None:
        """Judge by another snapshot, which has been validated. Takes over its descriptor. `changed` as in `Publish`."""
        if self.snapshot.version:
            os.close(self.snapshot.descriptor)
        self.snapshot = snapshot
        for worker in self._workers.values():
            worker.publish(snapshot, changed)

    # --- the end ------------------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Have all workers judge what waits, and leave; nobody succeeds them."""
        self._is_leaving = True
        for child in self.children:
            child.stop()
        for worker in self._workers.values():
            worker.channel.send(Drain())

    def close(self) -> None:
        """Let go of the queues. The workers have left."""
        for slot in self._slots:
            slot.queue.close()
