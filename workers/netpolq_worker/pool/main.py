"""The parent of all: keeps a worker on each queue and one supervisor, and passes messages between them.

It never parses a packet or a policy. One loop: signals → children that ended → children that are due → messages.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import time

from functools import partial

from netpolq.errors import ExitCode, NetpolqError, SnapshotError
from netpolq.ipc.channel import (
    Failure,
    Heartbeat,
    Logging,
    Message,
    PeerGone,
    Publish,
    RulesetInstalled,
    StandDown,
    StoodDown,
    Taken,
    Welcome,
)
from netpolq.logs import logs_packets, set_verbosity
from netpolq.snapshot.memfd import load, mark, open_view, save, seal
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.pool.args import PoolOptions
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.orphaned_ruleset import has_ruleset
from netpolq_worker.pool.reload import Reload
from netpolq_worker.pool.restart_policy import Child, Phase, attempt, described
from netpolq_worker.pool.spawn import Snapshot
from netpolq_worker.pool.supervisor_process import SupervisorProcess
from netpolq_worker.pool.takeover import AgentLock
from netpolq_worker.pool.workers import Workers

_DRAIN_S = 3.0
_POLL_S = 0.01
_SETTLE_S = 0.1
"""After another's rules are in place: until packets that met ours are in our queues for certain."""

_ENDING = frozenset((signal.SIGTERM, signal.SIGINT))
_HALTING = frozenset((ExitCode.USAGE, ExitCode.PRIVILEGES, ExitCode.KERNEL, ExitCode.BOOT))
"""Exit codes with which a supervisor that never served ends the pool; a later one is only started again."""

log = logging.getLogger("pool")


class Pool:
    """The process tree. Construct, then `run`."""

    def __init__(self, options: PoolOptions) -> None:
        """Become the agent of this network namespace, or the one to come, and bind the queues. Raises `NetpolqError`."""
        self._options = options
        self._events = EventLoop()
        self._agent_lock = AgentLock(self, self._events, options.queues, options.takeover_key_path, takeover=options.takeover)
        self._supervisor = SupervisorProcess(options.supervisor, self._events, self._on_supervisor_message)
        self._workers = Workers(options, self._events, tell=self._tell)
        self._memories_told = 0
        self._untold_refusal: Taken | None = None
        self._signals: list[int] = []
        self._exit_code: int | None = None
        self._failure = ""  # why the last supervisor ended, in its own words
        self._has_installed = False
        self._reload: Reload | None = None
        self._next_supervisor: tuple[str, ...] | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code. Raises `NetpolqError` where the supervisor cannot start."""
        self._load_kept_snapshot()
        wakeup_read, wakeup_write = socket.socketpair()
        for end in (wakeup_read, wakeup_write):
            end.setblocking(False)
        for number in (*_ENDING, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        self._events.watch(wakeup_read, partial(_drain_wakeups, wakeup_read))
        self._agent_lock.open()
        gc.collect()
        gc.freeze()  # objects that exist now are left alone, so that forked workers go on sharing their pages
        try:
            while self._exit_code is None:
                self._start_due()
                self._events.listen(self._wait_s())
                self._replace_supervisor()
                self._on_signals()
                self._reap()
                if self._workers.kill_silent():
                    self._supervisor.heard()
                self._supervisor.kill_silent()
        finally:
            self._shut_down()
        if self._agent_lock.is_given_up and os.getpid() == 1:
            # A container whose process ends is started again, and would take over in its turn.
            log.info("waiting for SIGTERM")
            while _ENDING.isdisjoint(self._signals):
                self._events.listen()
        if self._failure and self._exit_code in _HALTING:
            raise NetpolqError(self._failure, exit_code=ExitCode(self._exit_code))
        return self._exit_code

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
        self._workers.load(Snapshot(view.version, descriptor))
        log.info("judging by snapshot %d of the last run until the first sync", view.version)
        view.close()

    def _keep_snapshot(self) -> None:
        """Leave the newest snapshot for the next pool, where the supervisor has not: it may have been killed."""
        path, newest = self._options.image_path, self._workers.snapshot
        if not newest.version:
            return
        with contextlib.suppress(OSError, SnapshotError), contextlib.closing(SnapshotReader(load(path))) as kept:
            if kept.version == newest.version:
                return
        try:
            save(path, newest.descriptor)
            mark(path, is_newest=True)
        except OSError as error:
            log.warning("%s: %s; the next start will have no snapshot before its first sync", path, error.strerror)

    # --- children -----------------------------------------------------------------------------------------------------------------

    @property
    def _children(self) -> list[Child]:
        return [self._supervisor.child, *self._workers.children]

    def _wait_s(self) -> float:
        dues = [child.due for child in self._children if child.phase is Phase.WAITING]
        dues += self._workers.silence_dues
        dues.append(self._agent_lock.due)
        dues += [due for due in (self._supervisor.due, self._supervisor.silence_due) if due is not None]
        return max(min(dues) - time.monotonic(), 0.0)

    def _start_due(self) -> None:
        now = time.monotonic()
        self._workers.start_due(now)
        if self._supervisor.child.is_due(now):
            attempt(self._supervisor.child, self._start_supervisor)
        self._supervisor.kill_if_due(now)
        self._agent_lock.look_after(now)
        self._tell_what_must_arrive()

    def _start_supervisor(self) -> None:
        self._supervisor.start()
        self._memories_told, self._untold_refusal = 0, None
        self._supervisor.send(Welcome(self._workers.snapshot.version, self._supervisor.child.restarts))
        for report in self._workers.reports():
            self._supervisor.send(report)

    def _tell(self, message: Message) -> None:
        self._supervisor.send(message)

    def _tell_what_must_arrive(self) -> None:
        """Workers beat four times a second, so what a busy supervisor has no room for is said again soon."""
        for message, descriptor in self._workers.counters[self._memories_told :]:
            if not self._supervisor.send(message, [descriptor]):
                return
            self._memories_told += 1
        if self._untold_refusal is not None and self._supervisor.send(self._untold_refusal):
            self._untold_refusal = None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code, now = os.waitstatus_to_exitcode(status), time.monotonic()
            if self._reload is not None and pid == self._reload.pid:
                self._on_reload(self._reload, code)
            elif pid == self._supervisor.child.pid:
                self._on_supervisor_exit(pid, code, now)
            else:
                self._workers.on_exit(pid, code, now)

    def _on_supervisor_exit(self, pid: int, code: int, now: float) -> None:
        was_let_go = self._supervisor.on_exit(code, now)
        if self._agent_lock.is_given_up:
            self._agent_lock.has_stood_down()
        elif code in _HALTING and self._supervisor.child.starts == 1:
            self._exit_code = code  # it has said why; trying again would not help
        elif self._exit_code is None and not was_let_go:
            reason = f" ({self._failure})" if self._failure else ""
            log.error(
                "supervisor %d %s%s; workers go on with snapshot %d", pid, described(code), reason, self._workers.snapshot.version
            )
        if self._exit_code is None:
            self._failure = ""

    def _on_reload(self, reload: Reload, code: int) -> None:
        self._reload = None
        reloaded = reload.finish(code, self._supervisor.words)
        if reloaded is not None:
            self._set_logging(reloaded.logging)
            self._supervisor.replace(reloaded.supervisor)

    def _set_logging(self, wanted: Logging) -> None:
        """Log this from now on, here and in all workers."""
        if wanted != self._workers.logging:
            log.info("log verbosity is %d, denied packets are%s logged", wanted.verbosity, "" if wanted.denied else " not")
            set_verbosity(wanted.verbosity)
            self._workers.set_logging(wanted)

    def _on_logging(self, wanted: Logging) -> None:
        """The supervisor has been asked for another verbosity, and has it. Its successors are to have it, too."""
        before = self._workers.logging
        self._set_logging(wanted)
        flag = "--v="
        words = tuple(f"{flag}{wanted.verbosity}" if word.startswith(flag) else word for word in self._supervisor.words)
        if logs_packets(before.verbosity) != logs_packets(wanted.verbosity):
            # Pod names in the snapshot, and the verdict cache, depend on it.
            self._next_supervisor = words
        else:
            self._supervisor.words = words

    def _replace_supervisor(self) -> None:
        """Not while its messages are read, because its channel is closed."""
        if self._next_supervisor is not None:
            self._supervisor.replace(self._next_supervisor)
            self._next_supervisor = None

    # --- the takeover; see `netpolq_worker.pool.takeover.TakeoverCallbacks` --------------------------------------------------------

    def on_stood_down(self) -> None:
        """Nobody else changes the ruleset."""
        self._supervisor.send(StoodDown())

    def on_alone(self) -> None:
        """The agent whose place we took has left."""
        self._supervisor.send(PeerGone())

    def stand_down(self) -> None:
        """Have the supervisor leave, and start no other."""
        self._supervisor.stand_down()
        if not self._supervisor.child.pid:
            self._agent_lock.has_stood_down()

    def leave(self) -> None:
        """Drain and end."""
        self._exit_code = ExitCode.OK

    def resume(self) -> None:
        """Have a supervisor again."""
        self._supervisor.resume()

    def lose(self, reason: str) -> None:
        """End, because another is the agent of this network namespace."""
        log.error("%s", reason)
        self._exit_code = ExitCode.ALREADY_RUNNING

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def _on_supervisor_message(self, message: Message, descriptor: int | None) -> None:
        self._supervisor.heard()
        match message:
            case Publish():
                self._publish(message, descriptor)
            case Heartbeat():
                pass
            case StandDown():
                self._agent_lock.ask_to_stand_down()
            case Failure(reason):
                self._failure = reason
            case Logging():
                self._on_logging(message)
            case RulesetInstalled():
                self._has_installed = True
                self._agent_lock.ask_to_leave()
            case _:
                log.error("unexpected message %r", message)

    def _publish(self, message: Publish, descriptor: int | None) -> None:
        if descriptor is None:
            self._refuse(message, "it came without its descriptor: the pool has no room for another (RLIMIT_NOFILE)")
            return
        if message.version <= self._workers.snapshot.version:
            log.error("snapshot %d is not newer than %d and ignored", message.version, self._workers.snapshot.version)
            os.close(descriptor)
            return
        try:
            # A snapshot that cannot be read must not become what successors start with.
            open_view(descriptor).close()
        except (SnapshotError, OSError) as error:
            os.close(descriptor)
            self._refuse(message, str(error))
            return
        # What a version has changed that never came, or was refused, is not known here.
        changed = message.changed if message.version == self._workers.snapshot.version + 1 else None
        self._workers.load(Snapshot(message.version, descriptor), changed)
        self._supervisor.send(Taken(message.version, ""))

    def _refuse(self, message: Publish, problem: str) -> None:
        log.error("snapshot %d is refused: %s", message.version, problem)
        self._untold_refusal = Taken(message.version, problem)

    # --- the end ------------------------------------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in _ENDING and self._exit_code is None:
                log.info("%s: draining the queues", signal.Signals(number).name)
                self._exit_code = ExitCode.OK
            elif number == signal.SIGHUP and self._reload is None and not self._agent_lock.is_given_up:
                try:
                    self._reload = Reload(self._options)
                except OSError as error:
                    log.error("SIGHUP: no process can be started: %s", error.strerror)

    def _shut_down(self) -> None:
        if self._agent_lock.is_given_up:
            time.sleep(_SETTLE_S)
        self._supervisor.child.stop()
        self._supervisor.let_go()
        self._workers.drain()
        self._wait_for_children(_DRAIN_S)
        for child in self._children:
            if child.pid:
                log.error("process %d did not leave in %.0f s and is killed", child.pid, _DRAIN_S)
                os.kill(child.pid, signal.SIGKILL)
        self._wait_for_children(_DRAIN_S)
        if not self._agent_lock.owned_by_peer:
            self._keep_snapshot()
        self._workers.close()
        self._agent_lock.close()
        if self._agent_lock.owned_by_peer:
            log.info("stopped; the other agent goes on")
            return
        is_left = has_ruleset()
        if is_left is False or (is_left is None and not self._has_installed):
            log.info("stopped. There is no ruleset of netpolq in this network namespace: nothing is enforced.")
            return
        if self._options.fail_open:
            consequence = "new connections of isolated pods pass unjudged until an agent runs again"
        else:
            consequence = "new connections of isolated pods are dropped until an agent runs again"
        log.info("stopped. The ruleset stays in place: %s. `netpolq cleanup` removes it.", consequence)

    def _wait_for_children(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while any(child.pid for child in self._children) and time.monotonic() < deadline:
            self._reap()
            time.sleep(_POLL_S)


def _drain_wakeups(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while end.recv(4096):
            pass
