"""Real TCP connections in a lab: the server, the clients, and the latency of connects."""

import json
import select
import subprocess

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from loadtest.clusters import PORT
from loadtest.native.build import program
from loadtest.pods import SERVER, PodLab
from loadtest.testbed.box import Host

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999)
_START_LIMIT_S = 10.0
_LIMIT_S = 60.0
_TIMEOUT_MS = 1000


class Report(TypedDict):
    """The report of a client about a load: see `connects --help`."""

    connected: int
    failed: int
    late: int
    seconds: float
    cpu_s: float
    next_port: int
    connect_ns: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load of each client: `count` connections, or as many as possible in `seconds`.

    `rate_per_s`: of each client; 0: each connection as soon as the previous one is closed (a closed loop).
    """

    count: int = 0
    seconds: float = 0.0
    rate_per_s: float = 0.0

    def argv(self) -> list[str]:
        """Arguments of the program that opens the connections."""
        found = ["--count", str(self.count)] if self.count else ["--seconds", str(self.seconds)]
        return [*found, "--rate", str(self.rate_per_s)] if self.rate_per_s else found

    @property
    def longest_s(self) -> float:
        """Maximum duration; a longer load hangs."""
        return self.seconds + _LIMIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Connects:
    """The result of all clients. `ordered_ns`: durations of the successful connects, ascending."""

    connected: int
    failed: int
    late: int
    seconds: float
    cpu_s: float
    ordered_ns: Sequence[int]

    @property
    def per_s(self) -> float:
        """Successful connections per second."""
        return self.connected / self.seconds

    def quantile_us(self, quantile: float) -> float:
        """A quantile of the durations, by the nearest-rank method: always a measured value."""
        return quantile_of(self.ordered_ns, quantile) / 1000

    def distribution_us(self) -> Mapping[float, float]:
        """The durations by quantile."""
        return {quantile: self.quantile_us(quantile) for quantile in QUANTILES}


def quantile_of(ordered: Sequence[int], quantile: float) -> int:
    """The quantile of some values: the smallest value that this share of them does not exceed. `ordered`: ascending, not empty."""
    # Rounded first: 0.999 × 1000 is a little more than 999.
    rank = -int(-round(quantile * len(ordered), 6) // 1)
    return ordered[max(0, min(len(ordered), rank) - 1)]


class Clients:
    """Clients of a lab, each in its own pod. Source ports continue from one load to the next."""

    def __init__(self, opened: PodLab, hosts: Sequence[Host], family: int) -> None:
        self._lab = opened
        self._hosts = hosts
        self._family = family
        self._next_ports = [1024] * len(hosts)

    def start(self, load: Load) -> list[subprocess.Popen[str]]:
        """Start a load; `finish` waits for its end."""
        to = self._lab.box.address(SERVER, self._family)
        started = []
        for host, port in zip(self._hosts, self._next_ports, strict=True):
            argv = ["--from", host.address(self._family), "--to", to, "--port", str(PORT), "--first-port", str(port)]
            argv += ["--timeout-ms", str(_TIMEOUT_MS), *load.argv()]
            log = self._lab.log("clients")
            started.append(self._lab.box.popen(host.name, [str(program("connects")), *argv], log=log, pipe=True))
        return started

    def finish(self, processes: Sequence[subprocess.Popen[str]], load: Load) -> Connects:
        """Return the result of a load. Raises `RuntimeError` if no connection succeeded."""
        outputs = [process.communicate(timeout=load.longest_s)[0] for process in processes]
        if any(process.returncode for process in processes):
            raise RuntimeError(f"a client failed: {self._lab.log('clients').read_text(encoding='utf-8').strip()}")
        reports: list[Report] = [json.loads(output) for output in outputs]
        self._next_ports = [report["next_port"] for report in reports]
        connected = sum(report["connected"] for report in reports)
        failed = sum(report["failed"] for report in reports)
        if not connected:
            raise RuntimeError(f"none of {failed} connections to port {PORT} of the server was made, IPv{self._family}")
        return Connects(
            connected=connected,
            failed=failed,
            late=sum(report["late"] for report in reports),
            seconds=max(report["seconds"] for report in reports),
            cpu_s=sum(report["cpu_s"] for report in reports),
            ordered_ns=sorted(sample for report in reports for sample in report["connect_ns"]),
        )

    def run(self, load: Load) -> Connects:
        """Start a load and wait for its result."""
        return self.finish(self.start(load), load)


@contextmanager
def serving(opened: PodLab) -> Iterator[tuple[int, ...]]:
    """Run servers that accept and close connections, in both families. Yields the ids of their processes."""
    processes = []
    for address in opened.box.hosts[SERVER].addresses:
        argv = [str(program("connects")), "--serve", address, "--port", str(PORT)]
        processes.append(opened.box.popen(SERVER, argv, log=opened.log("server"), pipe=True))
    try:
        for process in processes:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], _START_LIMIT_S)
            if not readable or process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the server did not start: {opened.log('server').read_text(encoding='utf-8').strip()}")
        yield tuple(process.pid for process in processes)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
