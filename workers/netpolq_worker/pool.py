"""The parent of all: binds the queues, keeps one worker on each and one supervisor, and passes messages between them.

It never parses a packet or a policy. Beside the workers that serve there is a spare one, which takes the place of whichever dies; every
process that may serve holds the bound queue sockets, so nothing that waits in them is lost. One loop: signals → children that ended →
children that are due → messages.
"""

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import subprocess
import time

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from netpolq.channel import (
    Alone,
    Channel,
    Drain,
    Hints,
    InPlace,
    Message,
    Publish,
    Refusal,
    Report,
    Serve,
    StandDown,
    StoodDown,
    Welcome,
)
from netpolq.errors import ExitCode, SnapshotError
from netpolq.instance import Conversation
from netpolq.snapshot.region import load, open_view, seal
from netpolq_worker.forks import Forks, Snapshot, WorkerProcess
from netpolq_worker.lifecycle import Child, Phase
from netpolq_worker.nfqueue import Queue
from netpolq_worker.options import PoolOptions
from netpolq_worker.reload import Reload
from netpolq_worker.takeover import Place

_SILENCE_S = 2.0
"""A worker reports every quarter of a second, idle or not, from the loop that judges. One that is silent for so long hangs."""

_PAUSE_S = 0.5
"""If the pool itself did not get to run for so long, nobody's silence means anything: the machine stood still, or was overloaded."""

_SUSPECT_DEATHS = 2
"""So many successors in a row that died at once: what they read may be what killed them."""

_SPARE_DELAY_S = 0.05
"""A spare has gone to serve what waited: another is forked when that is done, because on a small machine it would take turns with it."""

_RETRY_S = 0.5
"""When to ask again for a process that the kernel has refused (a limit of processes or memory): workers that are there go on meanwhile."""

_DRAIN_S = 3.0
_SETTLE_S = 0.1
"""After another's rules are in place: until packets that met ours are in our queues for certain."""

_ENDING = frozenset((signal.SIGTERM, signal.SIGINT))
_HALTING = frozenset((ExitCode.USAGE, ExitCode.PRIVILEGES, ExitCode.KERNEL, ExitCode.BOOT))
"""Exit codes with which a supervisor that never served ends the pool; a later one is only started again."""

log = logging.getLogger("pool")


@dataclass(slots=True)
class _Slot:
    """A queue and the worker that serves it. `suspect`: the last worker may have died of a packet that it had read."""

    number: int
    queue: Queue
    child: Child = field(default_factory=lambda: Child(young_s=0.1, free_deaths=3))
    worker: WorkerProcess | None = None
    last_report: Report | None = None
    suspect: bool = False


class Pool:
    """The process tree. Construct, then `run`."""

    def __init__(self, options: PoolOptions) -> None:
        """Become the agent of this network namespace, or the one to come, and bind the queues. Raises `NetpolqError`."""
        self._options = options
        self._place = Place(self, options.queues, takeover=options.takeover)
        self._forks = Forks(options)
        self._slots = [_Slot(number, queue) for number, queue in enumerate(self._forks.queues)]
        self._workers: dict[int, WorkerProcess] = {}
        self._spare = Child(young_s=1.0, free_deaths=1, due=time.monotonic() + _SPARE_DELAY_S)
        self._supervisor = Child(young_s=5.0, free_deaths=0)
        self._supervisor_channel: Channel | None = None
        self._supervisor_process: subprocess.Popen[bytes] | None = None
        # Its own counters live and die with it; the directory is the workers'.
        self._supervisor_environment = {name: text for name, text in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
        self._snapshot = Snapshot()
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._exit_code: int | None = None
        self._stand_down_due = 0.0
        self._supervisor_words = options.supervisor
        self._reload: Reload | None = None
        self._last_turn = time.monotonic()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, or until the supervisor says that it cannot start. Returns the exit code."""
        self._load_kept_snapshot()
        wakeup_read, wakeup_write = socket.socketpair()
        for end in (wakeup_read, wakeup_write):
            end.setblocking(False)
        for number in (*_ENDING, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        self._selector.register(wakeup_read, selectors.EVENT_READ, partial(_drain_wakeups, wakeup_read))
        self._place.open()
        gc.collect()
        gc.freeze()  # objects that exist now are left alone, so that forked workers go on sharing their pages
        try:
            while self._exit_code is None:
                self._start_due()
                self._turn(self._wait_s())
                self._on_signals()
                self._reap()
                self._kill_silent_workers()
        finally:
            self._shut_down()
        if self._place.is_given_up and os.getpid() == 1:
            # A container whose process ends is started again, and would take over in its turn.
            log.info("waiting for SIGTERM")
            while _ENDING.isdisjoint(self._signals):
                self._turn()
        return self._exit_code

    def _turn(self, limit_s: float | None = None) -> None:
        """Wait for something to read, and have it read."""
        for key, _events in self._selector.select(limit_s):
            key.data()

    def _kill_silent_workers(self) -> None:
        now = time.monotonic()
        # Waiting is bounded by the beats of the workers, so a longer pause was not of our choosing.
        if now - self._last_turn > _SILENCE_S + _PAUSE_S:
            for slot in self._slots:
                slot.child.heard = now
        self._last_turn = now
        for slot in self._slots:
            if slot.child.pid and now - slot.child.heard > _SILENCE_S:
                log.error(
                    "worker %d (pid %d) has been silent for %.0f s and is killed",
                    slot.number,
                    slot.child.pid,
                    now - slot.child.heard,
                )
                slot.suspect = True
                slot.child.heard = now
                os.kill(slot.child.pid, signal.SIGKILL)

    def _load_kept_snapshot(self) -> None:
        """Take the snapshot that an earlier pool left, so that workers judge by it until the first one is published."""
        path = self._options.image_path
        try:
            image = load(path)
        except FileNotFoundError:
            return
        except (OSError, SnapshotError) as error:
            log.warning("%s is of no use and ignored: %s", path, error)
            return
        descriptor = seal(image)
        view = open_view(descriptor)
        self._snapshot = Snapshot(view.version, descriptor)
        view.close()
        log.info("judging by snapshot %d of the last run until the first sync", self._snapshot.version)

    # --- children -----------------------------------------------------------------------------------------------------------------

    def _wait_s(self) -> float | None:
        dues = [child.due for child in self._children() if child.phase is Phase.WAITING]
        if self._is_standing_down:
            dues.append(self._stand_down_due)
        dues += [slot.child.heard + _SILENCE_S for slot in self._slots if slot.child.pid]
        return max(min(dues) - time.monotonic(), 0.0) if dues else None

    @property
    def _is_standing_down(self) -> bool:
        return self._place.is_given_up and bool(self._supervisor.pid)

    def _children(self) -> list[Child]:
        return [self._supervisor, self._spare, *(slot.child for slot in self._slots)]

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.child.is_due(now):
                self._attempt(slot.child, partial(self._start_worker, slot))
        if self._spare.is_due(now):
            self._attempt(self._spare, self._start_spare)
        if self._supervisor.is_due(now):
            self._attempt(self._supervisor, self._spawn_supervisor)
        if self._is_standing_down and now >= self._stand_down_due:
            os.kill(self._supervisor.pid, signal.SIGKILL)
            self._stand_down_due = now + _DRAIN_S

    def _attempt(self, child: Child, start: Callable[[], None]) -> None:
        try:
            start()
        except OSError as error:
            log.error("no process can be started: %s", error.strerror)
            child.due = time.monotonic() + _RETRY_S

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
        slot.worker = worker
        slot.suspect = False
        slot.child.on_start(worker.pid, now)

    def _fork(self) -> WorkerProcess:
        worker = self._forks.fork(self._snapshot)
        self._workers[worker.pid] = worker
        self.watch(worker.channel, partial(self._on_worker_readable, worker))
        return worker

    def _spawn_supervisor(self) -> None:
        ours, theirs = Channel.pair()
        with theirs:
            # The channel is the supervisor's standard input: nothing to agree on, and nothing it inherits by accident.
            self._supervisor_process = subprocess.Popen[bytes](
                self._supervisor_words, stdin=theirs.fileno(), env=self._supervisor_environment
            )
        self._supervisor.on_start(self._supervisor_process.pid, time.monotonic())
        self._supervisor_channel = ours
        self.watch(ours, self._on_supervisor_readable)
        ours.send(Welcome(self._snapshot.version, self._supervisor.restarts))
        for slot in self._slots:
            self._tell_supervisor(slot)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._on_exit(pid, os.waitstatus_to_exitcode(status))

    def _on_exit(self, pid: int, code: int) -> None:
        now = time.monotonic()
        if self._reload is not None and pid == self._reload.pid:
            reload, self._reload = self._reload, None
            self._take_up(reload.finish(code, self._supervisor_words))
            return
        if pid == self._supervisor.pid:
            self._supervisor.on_exit(now)
            is_our_wish = self._supervisor_channel is None
            self._forget(self._supervisor_channel)
            self._supervisor_channel = None
            if self._supervisor_process is not None:
                self._supervisor_process.returncode = code  # reaped here; Popen must not wait for it again
            if self._place.is_given_up:
                self._place.has_stood_down()
            elif code in _HALTING and self._supervisor.starts == 1:
                self._exit_code = code  # it has said why; trying again would not help
            elif self._exit_code is None and not is_our_wish:
                log.error("supervisor %d %s; workers go on with snapshot %d", pid, _end(code), self._snapshot.version)
            return
        worker = self._workers.pop(pid, None)
        if worker is not None:
            self._on_worker_exit(worker, code, now)

    def _on_worker_exit(self, worker: WorkerProcess, code: int, now: float) -> None:
        self._on_worker_readable(worker)  # what it said last
        self.unwatch(worker.channel)
        self._forks.bury(worker)
        if worker.slot is None:
            if worker.pid == self._spare.pid:
                self._spare.on_exit(now)
            if self._exit_code is None:
                log.error("spare worker (pid %d) %s", worker.pid, _end(code))
            return
        slot = self._slots[worker.slot]
        slot.child.on_exit(now)
        slot.worker = None
        # Killed by somebody else, it is not the packets' fault, unless that goes on and on (the kernel kills for lack of memory).
        slot.suspect |= code != -signal.SIGKILL or slot.child.young_deaths >= _SUSPECT_DEATHS
        if self._exit_code is None:
            if slot.child.is_due(now):
                self._attempt(slot.child, partial(self._start_worker, slot))
            log.error("worker %d (pid %d, queue %d) %s", slot.number, worker.pid, slot.queue.queue_num, _end(code))
            self._tell_supervisor(slot)

    def _forget(self, channel: Channel | None) -> None:
        if channel is not None:
            self.unwatch(channel)
            channel.close()

    def watch(self, source: Channel | Conversation | socket.socket, on_readable: Callable[[], None]) -> None:
        """Have something called whenever there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, on_readable)

    def unwatch(self, source: Channel | Conversation | socket.socket) -> None:
        """Not any more."""
        with contextlib.suppress(KeyError):  # whose end was seen before is not watched any more
            self._selector.unregister(source)

    # --- the place of the one agent; see `netpolq_worker.takeover.Tenant` ---------------------------------------------------------

    def on_stood_down(self) -> None:
        """Nobody else changes the ruleset."""
        if self._supervisor_channel is not None:
            self._supervisor_channel.send(StoodDown())

    def on_alone(self) -> None:
        """The agent whose place we took has left."""
        if self._supervisor_channel is not None:
            self._supervisor_channel.send(Alone())

    def stand_down(self) -> None:
        """Have the supervisor leave, and start no other."""
        self._supervisor.stop()
        self._forget(self._supervisor_channel)  # it leaves when it sees the end of the channel
        self._supervisor_channel = None
        if not self._stand_down_due:  # it is asked for again and again until it is done
            self._stand_down_due = time.monotonic() + _DRAIN_S
        if not self._supervisor.pid:
            self._place.has_stood_down()

    def leave(self) -> None:
        """Drain and end."""
        self._exit_code = ExitCode.OK

    def resume(self) -> None:
        """Have a supervisor again."""
        self._stand_down_due = 0.0
        self._supervisor.resume(time.monotonic())

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _on_supervisor_readable(self) -> None:
        if self._supervisor_channel is not None:
            self._read(self._supervisor_channel, self._on_supervisor_message)

    def _on_worker_readable(self, worker: WorkerProcess) -> None:
        self._read(worker.channel, partial(self._on_worker_message, worker))

    def _read(self, channel: Channel, take: Callable[[Message, int | None], None]) -> None:
        try:
            while (received := channel.receive()) is not None:
                take(*received)
        except EOFError:
            self.unwatch(channel)  # the rest is told by SIGCHLD
        except ValueError as error:
            log.error("message ignored: %s", error)

    def _on_supervisor_message(self, message: Message, descriptor: int | None) -> None:
        match message:
            case Publish() if descriptor is not None:
                self._publish(message, descriptor)
            case StandDown():
                self._place.ask_to_stand_down()
            case InPlace():
                self._place.ask_to_leave()
            case _:
                log.error("unexpected message %r", message)

    def _on_worker_message(self, worker: WorkerProcess, message: Message, _descriptor: int | None) -> None:
        match message:
            case Report() if worker.slot is not None:
                slot = self._slots[worker.slot]
                slot.last_report = message
                slot.child.heard = time.monotonic()
                self._tell_supervisor(slot)
                if worker.behind:
                    worker.publish(self._snapshot, None)
            case Hints():
                if self._supervisor_channel is not None:
                    self._supervisor_channel.send(message)  # one that is busy misses it, and a worker will hint again
            case Refusal():
                log.error("worker %d refuses snapshot %d: %s", message.slot, message.version, message.message)
                if self._supervisor_channel is not None:
                    self._supervisor_channel.send(message)
            case _:
                log.error("unexpected message %r", message)

    def _publish(self, message: Publish, descriptor: int) -> None:
        if message.version <= self._snapshot.version:
            log.error("snapshot %d is not newer than %d and ignored", message.version, self._snapshot.version)
            os.close(descriptor)
            return
        try:
            # A snapshot that cannot be read must not become what successors start with.
            open_view(descriptor).close()
        except (SnapshotError, OSError) as error:
            log.error("snapshot %d is refused: %s", message.version, error)
            os.close(descriptor)
            return
        if self._snapshot.version:
            os.close(self._snapshot.descriptor)
        self._snapshot = Snapshot(message.version, descriptor)
        for worker in self._workers.values():
            worker.publish(self._snapshot, message.changed)
            if worker.behind and worker.slot is None:
                os.kill(worker.pid, signal.SIGKILL)  # a spare that does not read is none

    def _tell_supervisor(self, slot: _Slot) -> None:
        if self._supervisor_channel is None:
            return
        last = slot.last_report
        alive = last is not None and last.pid == slot.child.pid
        self._supervisor_channel.send(
            Report(
                slot=slot.number,
                pid=slot.child.pid,
                queue_num=slot.queue.queue_num,
                acked_version=last.acked_version if last is not None and alive else 0,
                packets=last.packets if last is not None else 0,
                restarts=slot.child.restarts,
            )
        )

    # --- the end ------------------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in _ENDING and self._exit_code is None:
                log.info("%s: draining the queues", signal.Signals(number).name)
                self._exit_code = ExitCode.OK
            elif number == signal.SIGHUP and self._reload is None and not self._place.is_given_up:
                try:
                    self._reload = Reload(self._options)
                except OSError as error:
                    log.error("SIGHUP: no process can be started: %s", error.strerror)

    def _take_up(self, supervisor: tuple[str, ...] | None) -> None:
        """Have a supervisor with these words take the place of the one that runs; None: nothing has changed that could."""
        if supervisor is None:
            return
        self._supervisor_words = supervisor
        self._supervisor.due = 0.0
        self._forget(self._supervisor_channel)  # it leaves when it sees the end of the channel, and is succeeded
        self._supervisor_channel = None

    def _shut_down(self) -> None:
        if self._place.is_given_up:
            time.sleep(_SETTLE_S)
        for child in self._children():
            child.stop()
        self._forget(self._supervisor_channel)  # the end of the channel tells the supervisor to leave
        self._supervisor_channel = None
        for worker in self._workers.values():
            worker.channel.send(Drain())
        self._wait_for_children(_DRAIN_S)
        for child in self._children():
            if child.pid:
                log.error("process %d did not leave in %.0f s and is killed", child.pid, _DRAIN_S)
                os.kill(child.pid, signal.SIGKILL)
        self._wait_for_children(_DRAIN_S)
        for slot in self._slots:
            slot.queue.close()
        self._place.close()
        if self._place.is_given_up:
            log.info("stopped; the agent that took over goes on")
            return
        if self._options.fail_open:
            consequence = "new connections of isolated pods pass unjudged until an agent runs again"
        else:
            consequence = "new connections of isolated pods are dropped until an agent runs again"
        log.info("stopped. The ruleset stays in place: %s. `netpolq cleanup` removes it.", consequence)

    def _wait_for_children(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while any(child.pid for child in self._children()) and time.monotonic() < deadline:
            self._reap()
            self._selector.select(0.02)


def _drain_wakeups(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while end.recv(4096):
            pass


def _end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
