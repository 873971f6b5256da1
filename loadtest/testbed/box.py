"""A cluster in a box: a node and its pods as network namespaces, connected as CNI plugins connect them.

Every pod has one interface, its addresses as /32 and /128, and a default route to the node; the node has a route for each pod and forwards.
Hosts outside the node are connected in the same way. The caller gives the addresses. A box shares nothing else with the machine, so several
boxes can exist at the same time.

    with Box(node=Host(name="node", addresses=(…)), hosts=[Host(name="shop/db", addresses=(…), serves=(("TCP", 80),)), …]) as box:
        box.probe([Probe("shop/db", "10.0.0.7", "TCP", 80)])
"""

import atexit
import itertools
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from loadtest.testbed import netns
from loadtest.testbed.probe import TIMEOUT_S, Probe, Prober, Result
from netpolq.netlink.queue_table import QueueStats, read

CHECKOUT = Path(__file__).parents[2]
_GATEWAY = "fe80::1"
_LIMIT_S = 20.0
_MIN_SILENCE_S = 0.1
_PASSES_OF_SILENCE = 20
"""Between two steps of an attempt, a process is waited for about as long as it takes to pass the servers at the same time."""
_NODE_SETTINGS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
}
# A rule with a conntrack match activates connection tracking. A real node has one long before its first pod.
_CONNTRACK_ON = "table inet conntrack_on { chain prerouting { type filter hook prerouting priority 0; ct state new counter; }; }"
_numbers = itertools.count()

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host on the network. `serves`: pairs of protocol (TCP, UDP, SCTP) and port, on every address."""

    name: str
    addresses: tuple[str, ...]
    serves: tuple[tuple[str, int], ...] = ()

    def address(self, family: int) -> str:
        """The first address of a family, 4 or 6."""
        return next(address for address in self.addresses if (":" in address) is (family == 6))


class Box:
    """The namespaces, their servers, and access to both. A context manager, which removes everything at its end.

    It removes the namespaces, every process in them and `directory`, a folder for files of this box; also when the interpreter ends without
    leaving the `with` statement, and on SIGTERM.
    """

    def __init__(self, *, node: Host, hosts: Sequence[Host]) -> None:
        self.prefix = f"npq-{os.getpid()}-{next(_numbers)}-"
        self.node = node
        self.hosts = {host.name: host for host in (node, *hosts)}
        self.namespaces = {host.name: f"{self.prefix}{number}" for number, host in enumerate(self.hosts.values())}
        self.directory = Path(tempfile.gettempdir()) / self.prefix.rstrip("-")
        self._prober = Prober(self.namespaces)
        self._exit = ExitStack()
        self._processes: list[subprocess.Popen[str]] = []
        self._servers: subprocess.Popen[str] | None = None
        self._passing = threading.Lock()
        self._servers_log = self.directory / "servers.log"

    def __enter__(self) -> "Box":
        atexit.register(self.close)
        try:
            self._exit.enter_context(_SignalsRaise())
            self.directory.mkdir(mode=0o700)
            self._build()
            self._start_servers()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. May be called any number of times; a signal does not interrupt it."""
        with _SignalsWait():
            netns.remove(self.prefix)
            for process in self._processes:
                process.kill()
                process.wait()
                for stream in (process.stdin, process.stdout, process.stderr):
                    if stream is not None:
                        with suppress(BrokenPipeError):
                            stream.close()
            self._processes.clear()
            shutil.rmtree(self.directory, ignore_errors=True)
            atexit.unregister(self.close)
            self._exit.close()

    def address(self, name: str, family: int) -> str:
        """An address of a host, by the host's name; `family` is 4 or 6."""
        return self.hosts[name].address(family)

    def inside(self, name: str, call: Callable[[], Answer]) -> Answer:
        """Call a function in the namespace of a host."""
        return netns.inside(self.namespaces[name], call)

    def probe(self, probes: Sequence[Probe], timeout_s: float | None = None) -> list[Result]:
        """Run all probes at the same time; see `Prober.run`. Raises `RuntimeError` if the servers have ended.

        `timeout_s` None: attempts end when no packet waits in a queue of the node and no answer comes for a while, at the latest after
        `TIMEOUT_S`.
        """
        if self._servers is None or self._servers.poll() is not None:
            raise RuntimeError(f"the servers of the box are gone: {self._servers_log.read_text(encoding='utf-8')}")
        if timeout_s is not None:
            return self._prober.run(probes, timeout_s)
        return self._prober.run(probes, TIMEOUT_S, self.silence_s)

    def silence_s(self) -> float:
        """For how long no packet must arrive until none can that was sent before. Infinity while one waits for its verdict."""
        if any(queue.queue_total for queue in self.inside(self.node.name, _queues)):
            return math.inf
        began_s = time.monotonic()
        self._pass_servers()
        return max(_MIN_SILENCE_S, _PASSES_OF_SILENCE * (time.monotonic() - began_s))

    def popen(self, name: str, argv: Sequence[str], *, log: Path, pipe: bool = False) -> subprocess.Popen[str]:
        """Start a process in the namespace of a host, with its own session and view of /sys. Its output is appended to `log`.

        `pipe`: only its standard error is appended; the caller reads its standard output.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespaces[name], *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else output,
                stderr=output,
                start_new_session=True,
                cwd=CHECKOUT,
                text=True,
            )
        self._processes.append(process)
        return process

    def run(self, name: str, argv: Sequence[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace of a host to its end. The caller checks the exit code."""
        return subprocess.run(
            ["ip", "netns", "exec", self.namespaces[name], *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=CHECKOUT,
            timeout=_LIMIT_S,
        )

    def nft(self, script: str) -> str:
        """Apply a script of nft in the node's namespace. Returns what it prints; raises `RuntimeError` with its error message."""
        done = self.run(self.node.name, ["nft", "-f", "-"], stdin=script)
        if done.returncode:
            raise RuntimeError(f"nft: {done.stderr.strip()}")
        return done.stdout

    def _build(self) -> None:
        node = self.namespaces[self.node.name]
        others = [host for host in self.hosts.values() if host is not self.node]
        netns.batch(f"netns add {namespace}" for namespace in self.namespaces.values())
        netns.inside(node, _change_settings)
        netns.batch(
            f"link add name pod{number} netns {node} type veth peer name eth0 netns {self.namespaces[host.name]}"
            for number, host in enumerate(others)
        )
        netns.batch(self._node_commands(others), node)
        for host in others:
            netns.batch(self._host_commands(host), self.namespaces[host.name])
        self.nft(_CONNTRACK_ON)

    def _node_commands(self, others: Sequence[Host]) -> list[str]:
        commands = ["link set lo up"]
        commands += [f"address add {address} dev lo{_no_detection(address)}" for address in self.node.addresses]
        for number, host in enumerate(others):
            commands += [
                f"link set pod{number} addrgenmode none",
                f"link set pod{number} up",
                f"address add {_GATEWAY}/64 dev pod{number} nodad",
            ]
            commands += [
                f"route add {address} dev pod{number} src {self.node.address(6 if ':' in address else 4)}"
                for address in host.addresses
            ]
        return commands

    def _host_commands(self, host: Host) -> list[str]:
        commands = [
            "link set lo up",
            "link set eth0 addrgenmode none",
            "link set eth0 up",
            "address add fe80::2/64 dev eth0 nodad",
        ]
        commands += [f"address add {address} dev eth0{_no_detection(address)}" for address in host.addresses]
        if any(":" not in address for address in host.addresses):
            commands.append(f"route add default via {self.node.address(4)} dev eth0 onlink")
        if any(":" in address for address in host.addresses):
            commands.append(f"route add default via {_GATEWAY} dev eth0 src {host.address(6)}")
        return commands

    def _start_servers(self) -> None:
        served = [
            [self.namespaces[host.name], address, host.serves]
            for host in self.hosts.values()
            for address in host.addresses
            if host.serves
        ]
        with self._servers_log.open("wb") as log:
            self._servers = subprocess.Popen(
                [sys.executable, "-m", "loadtest.testbed.echo"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=CHECKOUT,
                text=True,
            )
        self._processes.append(self._servers)
        assert self._servers.stdin is not None
        assert self._servers.stdout is not None
        self._servers.stdin.write(json.dumps(served) + "\n")
        self._servers.stdin.flush()
        readable, _, _ = select.select([self._servers.stdout], [], [], _LIMIT_S)
        if not readable or self._servers.stdout.readline() != "ready\n":
            raise RuntimeError(f"the servers of the box did not start: {self._servers_log.read_text(encoding='utf-8')}")

    def _pass_servers(self) -> None:
        """Return when the servers have answered all that has arrived before. Raises `OSError` if they have ended."""
        assert self._servers is not None
        assert self._servers.stdin is not None
        assert self._servers.stdout is not None
        with self._passing:
            for _ in range(2):  # what arrived before the first one is read in the same step of their loop, maybe after it
                os.write(self._servers.stdin.fileno(), b".")
                readable, _, _ = select.select([self._servers.stdout], [], [], _LIMIT_S)
                if not readable or not os.read(self._servers.stdout.fileno(), 1):
                    raise OSError("the servers of the box do not answer")


def _queues() -> tuple[QueueStats, ...]:
    return read(Path("/proc/thread-self/net/netfilter/nfnetlink_queue"))


def _no_detection(address: str) -> str:
    """Duplicate address detection would make an IPv6 address unusable for up to two seconds."""
    return " nodad" if ":" in address else ""


def _change_settings() -> None:
    for name, value in _NODE_SETTINGS.items():
        Path("/proc/sys/net", name).write_text(value, encoding="ascii")


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _SignalsRaise:
    """While active, SIGTERM ends the program as SIGINT does: by an exception, so that everything is removed."""

    def __enter__(self) -> None:
        self._before: signal._HANDLER | None = None
        with suppress(ValueError):  # only the main thread can set signal handlers
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                self._before = signal.signal(signal.SIGTERM, _leave)

    def __exit__(self, *_exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


class _SignalsWait:
    """While active, SIGINT and SIGTERM are deferred."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def __exit__(self, *_exception: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
