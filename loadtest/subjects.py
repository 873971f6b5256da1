"""The subjects in a node between two pods: no agent, a reference that accepts everything, netpolq, or another agent.

All agents evaluate the first packet of each flow; connection tracking accepts the rest. Packets without a verdict are not delivered, so
every delivered packet was evaluated, and lost packets are counted.
"""

import os
import select
import signal
import subprocess
import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loadtest import processes
from loadtest.native.build import program
from loadtest.parameters import External
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.dataplane.ruleset import CACHE_ACCEPTS, TABLE, UNJUDGED
from netpolq.netlink import queue_table
from netpolq_worker.worker.nfqueue import QUEUE_PACKETS, RECEIVE_BUFFER_BYTES
from netpolq_worker.worker.packet import COPY_BYTES
from netpolq_worker.worker.packet_loop import BATCH_PACKETS

QUEUE = 100
START_LIMIT_S = 20.0
SYNC_LIMIT_S = 300.0
"""Time limit of an agent for bringing the policies of a large cluster into force."""

_STEP_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A subject that runs in the node.

    `workers`: ids of the worker processes. `unjudged`: packets so far that passed or were dropped without a verdict. `remembered`: packets
    that the verdict cache has accepted. `agent`: netpolq itself, for its status and metrics.
    """

    workers: tuple[int, ...] = ()
    unjudged: Callable[[], int] = lambda: 0
    remembered: Callable[[], int] = lambda: 0
    agent: Agent | None = None


class Subject(Protocol):
    """A subject that can be started in a node."""

    def start(self, box: Box, manifests: Path) -> AbstractContextManager[Started]:
        """Start it and wait until it serves; the end of the context stops it. Raises `RuntimeError` if it does not start."""
        ...


class Nothing:
    """Forwarding with connection tracking, and no agent."""

    @contextmanager
    def start(self, box: Box, manifests: Path) -> Iterator[Started]:
        yield Started()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepting:
    """The reference: a C program that accepts every packet unread. `batch`: with one verdict for many packets, as netpolq does."""

    batch: bool = False

    @contextmanager
    def start(self, box: Box, manifests: Path) -> Iterator[Started]:
        batch = BATCH_PACKETS if self.batch else 1
        argv = [str(program("accept")), *map(str, (QUEUE, batch, QUEUE_PACKETS, COPY_BYTES, RECEIVE_BUFFER_BYTES))]
        log = box.directory / "accept.log"
        process = box.popen(box.node.name, argv, log=log, pipe=True)
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], START_LIMIT_S)
        if not readable or process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the reference did not start: {_tail(log)}")
        queue_new_flows(box)
        with _stopped(process):
            yield Started(workers=(process.pid,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Netpolq:
    """The agent as it is deployed: supervisor, pool, workers, ruleset. Fails closed, so that no packet is delivered without a verdict.

    `verdict_cache`: whether the kernel may remember decisions; the path through the workers is measured without. `checkout`: the code is
    that of another checkout; its dependencies are those of this one.
    """

    workers: int = 1
    fanout: bool = False
    verdict_cache: bool = False
    flags: tuple[str, ...] = ()
    checkout: Path | None = None

    @contextmanager
    def start(self, box: Box, manifests: Path) -> Iterator[Started]:
        prefix = () if self.checkout is None else ("env", *_environment(self.checkout))
        flags = ["--workers", str(self.workers), f"--fanout={str(self.fanout).lower()}", "--fail-open=false"]
        flags += ["--verdict-cache", "on" if self.verdict_cache else "off"]
        with Agent(box, manifests, *flags, *self.flags, limit_s=SYNC_LIMIT_S, prefix=prefix) as agent:
            workers = tuple(worker["pid"] for worker in agent.status()["workers"])
            yield Started(
                workers=workers,
                unjudged=lambda: counter(box, box.node.name, TABLE, UNJUDGED),
                remembered=lambda: counter(box, box.node.name, TABLE, CACHE_ACCEPTS) if self.verdict_cache else 0,
                agent=agent,
            )


def _environment(checkout: Path) -> tuple[str, ...]:
    """Environment variables with which Python takes the packages of netpolq from a checkout, and not from the current directory."""
    return (f"PYTHONPATH={checkout}{os.pathsep}{checkout / 'workers'}", "PYTHONSAFEPATH=1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAgent:
    """Another agent, started in the node's namespace. One rule gives it all new flows."""

    external: External

    @contextmanager
    def start(self, box: Box, manifests: Path) -> Iterator[Started]:
        log = box.directory / "external.log"
        try:
            process = box.popen(box.node.name, self.external.argv(QUEUE, manifests), log=log)
        except ValueError as error:
            raise RuntimeError(f"--external {self.external.name}={self.external.template}: {error}") from error
        with ExitStack() as stack:
            stack.enter_context(_stopped(process))
            deadline_s = time.monotonic() + SYNC_LIMIT_S
            while not any(queue.queue_num == QUEUE for queue in queues(box)):
                self._check(process, log)
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"--external {self.external.name}={self.external.template}: does not serve queue {QUEUE}")
                time.sleep(_STEP_S)
            queue_new_flows(box)
            yield Started(workers=tuple(processes.descendants(process.pid)))
            self._check(process, log)

    def _check(self, process: subprocess.Popen[str], log: Path) -> None:
        if process.poll() is not None:
            raise RuntimeError(
                f"--external {self.external.name}={self.external.template}: ended early, with exit code {process.returncode}: "
                f"{_tail(log)}"
            )


def queues(box: Box) -> tuple[queue_table.QueueStats, ...]:
    """Return the kernel's statistics of the queues in the node of a box."""
    return box.inside(box.node.name, lambda: queue_table.read(Path("/proc/thread-self/net/netfilter/nfnetlink_queue")))


def queue_new_flows(box: Box) -> None:
    """The rule for agents without rules: iptables sends all forwarded packets of new flows to the queue. No bypass."""
    for command in ("iptables", "ip6tables"):
        command_line = [
            command,
            "-A",
            "FORWARD",
            "-m",
            "conntrack",
            "--ctstate",
            "NEW",
            "-j",
            "NFQUEUE",
            "--queue-num",
            str(QUEUE),
        ]
        run(box, box.node.name, command_line)


def run(box: Box, name: str, argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a command in a host of a box. Raises `RuntimeError` with its message if it fails."""
    done = box.run(name, argv, stdin=stdin)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def counter(box: Box, host: str, table: str, name: str) -> int:
    """Packets that a named counter of nftables has seen in a host of a box."""
    words = run(box, host, ["nft", "list", "counter", "inet", table, name]).split()
    return int(words[words.index("packets") + 1])


@contextmanager
def _stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process and its whole session at exit: SIGTERM first, SIGKILL after a timeout."""
    try:
        yield
    finally:
        for number, limit_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(limit_s)
                break


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "it said nothing"
