"""The pool, the parent of all processes: runs a worker on each queue and one supervisor, and passes messages between them.

It parses neither packets nor policies. One loop: start what is due, read messages, handle signals, reap children, kill those that hang.
"""

import gc
import logging
import os
import signal
import time

from collections.abc import Sequence

from netpolq.errors import ExitCode, NetpolqError
from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import (
    AnswersInForce,
    Failure,
    Heartbeat,
    Logging,
    Message,
    PeerGone,
    Publish,
    Resolvers,
    RulesetInstalled,
    StandDown,
    StoodDown,
)
from netpolq.ipc.run_dir import SNAPSHOT_FILE, TAKEOVER_KEY
from netpolq_worker.pool.dns_reader import DnsReaderProcess
from netpolq_worker.pool.event_loop import EventLoop
from netpolq_worker.pool.log_settings import LogSettings
from netpolq_worker.pool.orphaned_ruleset import log_consequence
from netpolq_worker.pool.outbox import Outbox
from netpolq_worker.pool.reload import Reload
from netpolq_worker.pool.restart_policy import Child, Phase, attempt, described, exited_children
from netpolq_worker.pool.signals import TERMINATION, SignalQueue
from netpolq_worker.pool.snapshots import SnapshotIntake
from netpolq_worker.pool.supervisor_process import SupervisorProcess
from netpolq_worker.pool.takeover import AgentLock
from netpolq_worker.pool.workers import Workers

_DRAIN_S = 3.0
_DNS_DRAIN_S = 1.0
_POLL_S = 0.01

_FATAL = frozenset((ExitCode.USAGE, ExitCode.PRIVILEGES, ExitCode.KERNEL, ExitCode.BOOT))
"""Exit codes with which the first supervisor ends the pool. Later supervisors are restarted whatever their exit code."""

log = logging.getLogger("pool")


class Pool:
    """The process tree. Construct, then `run`."""

    def __init__(self, settings: Settings, supervisor: Sequence[str]) -> None:
        """Acquire the agent lock of this network namespace, or connect to the agent that holds it, and bind the queues.

        `supervisor`: the command line of the supervisor, without the settings. Raises `NetpolqError`.
        """
        self._settings = settings
        self._events = EventLoop()
        self._agent_lock = AgentLock(
            self, self._events, settings.all_queues, settings.run_dir / TAKEOVER_KEY, takeover=settings.takeover
        )
        self._supervisor = SupervisorProcess(supervisor, settings, self._events, self._on_supervisor_message)
        self._workers = Workers(settings, self._events, notify=self._supervisor.send)
        self._snapshots = SnapshotIntake(self._workers, settings.run_dir / SNAPSHOT_FILE)
        self._outbox = Outbox(self._supervisor, self._workers)
        self._dns_reader = DnsReaderProcess(settings, self._events, self._workers, notify=self._outbox.answer)
        self._log_settings = LogSettings(self._workers, self._supervisor, self._dns_reader)
        self._signals = SignalQueue()
        self._exit_code: int | None = None
        self._failure = ""  # why the last supervisor ended, as it reported
        self._has_installed = False
        self._reload: Reload | None = None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit code. Raises `NetpolqError` if the first supervisor fails to start."""
        self._snapshots.load_file()
        self._signals.install(self._events)
        self._agent_lock.open()
        gc.collect()
        gc.freeze()  # the collector leaves present objects alone, so that forked workers go on sharing their pages
        try:
            while self._exit_code is None:
                self._start_due()
                self._events.poll(self._timeout_s())
                self._log_settings.replace_supervisor()
                self._on_signals()
                self._reap()
                if self._workers.kill_silent():
                    self._supervisor.on_heartbeat()
                    self._dns_reader.on_heartbeat()
                self._supervisor.kill_silent()
                self._dns_reader.kill_silent()
        finally:
            self._shut_down()
        if self._agent_lock.has_successor and os.getpid() == 1 and not self._signals.has_termination:
            # A container whose process ends is started again, and would take over in its turn.
            log.info("waiting for SIGTERM")
            while not self._signals.has_termination:
                self._events.poll()
        if self._failure and self._exit_code in _FATAL:
            raise NetpolqError(self._failure, exit_code=ExitCode(self._exit_code))
        return self._exit_code

    # --- children -----------------------------------------------------------------------------------------------------------------

    @property
    def _children(self) -> list[Child]:
        return [self._supervisor.child, self._dns_reader.child, *self._workers.children]

    def _timeout_s(self) -> float:
        dues = [child.due for child in self._children if child.phase is Phase.WAITING]
        dues += self._workers.silence_dues
        dues += [self._supervisor.silence_due, self._dns_reader.silence_due, self._agent_lock.due]
        return max(min(dues) - time.monotonic(), 0.0)

    def _start_due(self) -> None:
        now = time.monotonic()
        self._workers.start_due(now)
        if self._supervisor.child.is_due(now):
            attempt(self._supervisor.child, self._start_supervisor)
        if self._dns_reader.child.is_due(now):
            attempt(self._dns_reader.child, self._dns_reader.start)
        self._agent_lock.maintain(now)
        self._outbox.flush()

    def _start_supervisor(self) -> None:
        self._supervisor.start()
        self._outbox.greet()

    def _reap(self) -> None:
        for pid, code in exited_children():
            now = time.monotonic()
            if self._reload is not None and pid == self._reload.pid:
                self._on_reload(self._reload, code)
            elif pid == self._supervisor.child.pid:
                self._on_supervisor_exit(pid, code, now)
            else:
                self._dns_reader.on_exit(pid, code, now)
                self._workers.on_exit(pid, code, now)

    def _on_supervisor_exit(self, pid: int, code: int, now: float) -> None:
        was_disconnected = self._supervisor.on_exit(code, now)
        self._agent_lock.on_supervisor_exit()
        if code in _FATAL and self._supervisor.child.starts == 1 and not self._agent_lock.has_successor:
            self._exit_code = code  # it has reported why; another attempt would fail too
        elif self._exit_code is None and not was_disconnected:
            reason = f" ({self._failure})" if self._failure else ""
            log.error(
                "supervisor %d %s%s; workers go on with snapshot %d", pid, described(code), reason, self._workers.snapshot.version
            )
        if self._exit_code is None:
            self._failure = ""

    def _on_reload(self, reload: Reload, code: int) -> None:
        self._reload = None
        reloaded = reload.finish(code, self._supervisor.settings)
        if reloaded is not None:
            self._log_settings.apply(reloaded.logging)
            self._supervisor.replace(reloaded)

    # --- the takeover; see `netpolq_worker.pool.takeover_listener.TakeoverCallbacks` -----------------------------------------------

    def on_stood_down(self) -> None:
        """Tell the supervisor that no other agent changes the ruleset."""
        self._supervisor.send(StoodDown())

    def on_peer_gone(self) -> None:
        """Tell the supervisor that the agent before us has left."""
        self._supervisor.send(PeerGone())

    def stand_down(self) -> None:
        """Stop the supervisor, and report its exit, at once if none runs."""
        self._supervisor.stop()
        if not self._supervisor.child.pid:
            self._agent_lock.on_supervisor_exit()

    def kill_supervisor(self) -> None:
        """Kill the supervisor, which takes too long to stand down."""
        self._supervisor.kill()

    def resume(self) -> None:
        """Run a supervisor again."""
        self._supervisor.resume()

    def leave(self) -> None:
        """End."""
        self._exit_code = ExitCode.OK

    def drain(self, after_s: float) -> None:
        """After a delay, stop the supervisor and tell DNS reader and workers to finish the waiting packets and exit.

        The DNS reader goes first: it moves its packets to the workers.
        """
        time.sleep(after_s)
        self._supervisor.stop()
        self._dns_reader.drain(_DNS_DRAIN_S)
        self._workers.drain(self._agent_lock.successor_waiting_queue)

    def on_lock_lost(self, reason: str) -> None:
        """End, because another process is the agent of this network namespace."""
        log.error("%s", reason)
        self._exit_code = ExitCode.ALREADY_RUNNING

    # --- messages and signals -----------------------------------------------------------------------------------------------------

    def _on_supervisor_message(self, message: Message, descriptor: int | None) -> None:
        self._supervisor.on_heartbeat()
        match message:
            case Publish():
                self._publish(message, descriptor)
            case Heartbeat():
                pass
            case StandDown():
                self._agent_lock.request_stand_down()
            case Failure(reason):
                self._failure = reason
            case Resolvers() | AnswersInForce():
                self._dns_reader.forward(message)
            case Logging():
                self._log_settings.on_supervisor_change(message)
            case RulesetInstalled():
                self._has_installed = True
                self._agent_lock.request_leave()
            case _:
                log.error("unexpected message %r", message)

    def _publish(self, message: Publish, descriptor: int | None) -> None:
        answer = self._snapshots.take(message, descriptor)
        if answer is not None and answer.problem:
            self._outbox.reject(answer)
        elif answer is not None:
            self._supervisor.send(answer)

    def _on_signals(self) -> None:
        while (number := self._signals.take()) is not None:
            if number in TERMINATION and self._exit_code is None:
                log.info("%s: draining the queues", signal.Signals(number).name)
                self._exit_code = ExitCode.OK
            elif number == signal.SIGHUP and self._reload is None and not self._agent_lock.has_successor:
                try:
                    self._reload = Reload(self._settings.queues)
                except OSError as error:
                    log.error("SIGHUP: cannot start a process: %s", error.strerror)

    # --- shutdown -----------------------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        self._agent_lock.stop()
        self._end(self._children[:-1])
        self._end(self._children)  # the waiting process too, which ends after the workers
        if not self._agent_lock.owned_by_peer:
            self._snapshots.save_file()
        self._dns_reader.close()
        self._workers.close()
        self._agent_lock.close()
        if self._agent_lock.owned_by_peer:
            log.info("stopped; the other agent goes on")
        else:
            log_consequence(fail_open=self._settings.fail_open, has_installed=self._has_installed)

    def _end(self, children: Sequence[Child]) -> None:
        """Wait until these have exited, and kill those that take too long."""
        self._wait_for(children)
        for child in children:
            if child.pid:
                log.error("process %d did not exit within %.0f s: killing it", child.pid, _DRAIN_S)
                child.stop()
                os.kill(child.pid, signal.SIGKILL)
        self._wait_for(children)

    def _wait_for(self, children: Sequence[Child]) -> None:
        deadline = time.monotonic() + _DRAIN_S
        while any(child.pid for child in children) and time.monotonic() < deadline:
            self._reap()
            time.sleep(_POLL_S)
