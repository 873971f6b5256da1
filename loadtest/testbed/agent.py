"""The agent under test: `netpolq run` in the node of a box, its status, its metrics and its end."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple, TypedDict, cast

import psutil

from loadtest.testbed.box import Box
from netpolq import cli
from netpolq.netlink.queue_table import QueueStats, read

METRICS_PORT = 9080
LIMIT_S = 20.0
"""Time limit for events that follow at once on an idle machine."""

_MIN_STEP_S = 0.003


class WorkerStatus(TypedDict):
    """A worker as `netpolq status` shows it; only the fields used here."""

    slot: int
    pid: int
    queue_num: int
    acked_version: int
    packets: int
    restarts: int


class WaitingStatus(TypedDict):
    """The waiting process as `netpolq status` shows it; only the fields used here."""

    pid: int
    queue_num: int
    acked_version: int
    held: int
    restarts: int


class Status(TypedDict):
    """The document of `netpolq status --output json`; only the fields used here."""

    snapshot_version: int
    in_force_version: int
    workers: list[WorkerStatus]
    waiting: WaitingStatus | None
    source: dict[str, object]
    cni_results: dict[str, object] | None
    rejected: list[dict[str, object]]
    dataplane: dict[str, object]
    verdict_cache: dict[str, int]
    strict_mode: dict[str, int]
    programming_latency_s: float | None


class Answer(NamedTuple):
    """The answer to an HTTP request."""

    code: int
    body: str


class Agent:
    """A running agent. A context manager: stopped and cleaned up at its end."""

    def __init__(
        self, box: Box, manifests: Path | None, *flags: str, limit_s: float = LIMIT_S, prefix: Sequence[str] = ()
    ) -> None:
        """`manifests` None: the flags name another source.

        `limit_s`: time limit for each event of the agent. `prefix`: arguments of a program that runs it.
        """
        self.box = box
        self._limit_s = limit_s
        self.manifests = manifests
        self.run_dir = box.directory / "run"
        self.log = box.directory / "agent.log"
        self._argv = [
            *prefix,
            *(sys.executable, "-m", "netpolq", "run"),
            *(("--manifests", str(manifests)) if manifests is not None else ()),
            *("--run-dir", str(self.run_dir), "--hostname-override", box.node.name),
            *flags,
        ]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Agent":
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()
        self.cleanup()

    def start(self) -> None:
        """Start and wait until `/readyz` says that policies are in force. Raises `RuntimeError` with the log if that fails."""
        self.launch()
        self.wait_until("ready", self.is_ready)

    def launch(self) -> None:
        """Start without waiting."""
        self._process = self.box.popen(self.box.node.name, self._argv, log=self.log)

    @property
    def pid(self) -> int:
        """Process id of its first process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its first process is running."""
        return self._process is not None and self._process.poll() is None

    def kill_all(self) -> None:
        """Kill all of its processes at once."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(LIMIT_S)

    def stop(self) -> int:
        """Send SIGTERM and wait for its end. Returns the exit code. The rules stay."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(LIMIT_S)

    def cleanup(self) -> str:
        """Remove rules and run dir, by the agent's own command in this process. Returns what it prints."""
        argv = ["cleanup", "--run-dir", str(self.run_dir)]
        with redirect_stdout(io.StringIO()) as printed, redirect_stderr(io.StringIO()) as error:
            code = self.box.inside(self.box.node.name, lambda: cli.main(argv))
        if code:
            raise RuntimeError(f"netpolq cleanup: {error.getvalue().strip()}")
        return printed.getvalue()

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of the agent's processes."""
        os.kill(pid, number)

    @property
    def pool(self) -> psutil.Process:
        """The pool's process, the parent of all others."""
        return psutil.Process(self.pid)

    def supervisor(self) -> psutil.Process | None:
        """The supervisor, if there is one at the moment."""
        argv_of_pool = self.pool.cmdline()  # which end with those of the supervisor
        return next((child for child, argv in self._children() if "supervise" in argv and argv != argv_of_pool), None)

    def forks(self) -> list[psutil.Process]:
        """The workers, the waiting process and the standby worker: forks of the pool, so they have its command line."""
        argv_of_pool = self.pool.cmdline()
        return [child for child, words in self._children() if words == argv_of_pool]

    def _children(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        for child in self.pool.children():
            with suppress(psutil.NoSuchProcess):  # it has exited, and may not be reaped yet
                yield child, child.cmdline()

    def is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.http("/readyz").code == http.HTTPStatus.OK
        return False

    def status(self) -> Status:
        """The status document, read from the socket in the run dir."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(str(self.run_dir / "status.sock"))
            return cast("Status", json.loads(_get(connection, "/status").body))

    def metrics(self) -> str:
        """The text of `/metrics`."""
        return self.http("/metrics").body

    def http(self, path: str) -> Answer:
        """Send a request to the HTTP endpoint, from the node."""
        with self.box.inside(self.box.node.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as connection:
            connection.settimeout(LIMIT_S)
            connection.connect(("127.0.0.1", METRICS_PORT))
            return _get(connection, path)

    def queues(self) -> tuple[QueueStats, ...]:
        """Return the kernel's statistics of the queues in the node."""
        return self.box.inside(self.box.node.name, lambda: read(Path("/proc/thread-self/net/netfilter/nfnetlink_queue")))

    def packets_queued(self) -> int:
        """Number of packets that the kernel has queued so far."""
        return sum(queue.id_sequence for queue in self.queues())

    def wait_until_acknowledged(self, before: Status) -> Status:
        """Wait until every worker uses a snapshot that is newer than the one of an earlier status. Returns the later status."""
        return self._wait_for_status(
            f"a snapshot newer than {before['snapshot_version']} is acknowledged",
            lambda status: status["snapshot_version"] > before["snapshot_version"] and is_acknowledged(status),
        )

    def wait_until_enforced(self, before: Status) -> Status:
        """Wait until a change that came after an earlier status is enforced: by every worker, and by the kernel's sets of isolated pods.

        The change may have caused no new snapshot: a snapshot with the same meaning is not published.
        """
        return self._wait_for_status(
            f"a change after snapshot {before['snapshot_version']} is enforced",
            # The latency of each change is measured in nanoseconds, so two changes never have the same.
            lambda status: (
                status["programming_latency_s"] != before["programming_latency_s"]
                and status["in_force_version"] == status["snapshot_version"]
            ),
        )

    def _wait_for_status(self, what: str, condition: Callable[[Status], bool]) -> Status:
        seen: list[Status] = []

        def holds() -> bool:
            seen[:] = [self.status()]
            return condition(seen[0])

        self.wait_until(what, holds)
        return seen[0]

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait for a condition. Raises `RuntimeError` with the log when the agent ends or the time is over."""
        began_s = time.monotonic()
        while not condition():
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the agent ended with exit code {self._process.returncode}:\n{self._log_tail()}")
            waited_s = time.monotonic() - began_s
            if waited_s > self._limit_s:
                raise RuntimeError(f"not {what} after {self._limit_s} s:\n{self._log_tail()}")
            time.sleep(max(_MIN_STEP_S, waited_s / 20))  # a long wait must not take the CPU from the agent

    def _log_tail(self) -> str:
        return self.log.read_text(encoding="utf-8")[-4000:]


def is_acknowledged(status: Status) -> bool:
    """Whether every worker uses the newest snapshot."""
    return all(worker["acked_version"] == status["snapshot_version"] for worker in status["workers"])


def _get(connection: socket.socket, path: str) -> Answer:
    request = http.client.HTTPConnection("localhost")
    request.sock = connection
    request.request("GET", path, headers={"Connection": "close"})
    with request.getresponse() as response:
        return Answer(response.status, response.read().decode())
