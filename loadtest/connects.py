"""Connections that are timed: from a pod of the cluster to one in the lab, by a program that does nothing else."""

import json
import select
import statistics
import subprocess

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from loadtest.lab import RECEIVER, SENDER, Lab
from loadtest.native.build import program

_START_LIMIT_S = 10.0
_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connects:
    """What became of some connects.

    `failed`: refused, or no answer for three seconds; `seconds`: from the first to the last, without waiting in vain; `took_us`: of those
    that succeeded, in order.
    """

    failed: int
    seconds: float
    took_us: tuple[float, ...]

    @property
    def per_s(self) -> float:
        return len(self.took_us) / self.seconds

    def quantile_us(self, quantile: float) -> float:
        """Raises `RuntimeError` if hardly any connection succeeded."""
        if len(self.took_us) < 2:
            raise RuntimeError(f"{self.failed} of {self.failed + len(self.took_us)} connections failed")
        return statistics.quantiles(self.took_us, n=1000, method="inclusive")[round(quantile * 1000) - 1]

    def distribution_us(self) -> Mapping[float, float]:
        """Quantile → microseconds."""
        return {quantile: self.quantile_us(quantile) for quantile in _QUANTILES}

    def values(self) -> dict[str, float]:
        """For a sample."""
        return {
            "connect_p50_us": self.quantile_us(0.5),
            "connect_p90_us": self.quantile_us(0.9),
            "connect_p99_us": self.quantile_us(0.99),
            "connect_p999_us": self.quantile_us(0.999),
            "failed": float(self.failed),
        }

    def notes(self) -> tuple[str, ...]:
        return (f"{self.failed} connections failed",) if self.failed else ()


@contextmanager
def server(lab: Lab, port: int, *, pod: str = RECEIVER, families: Sequence[int] = (4,)) -> Iterator[None]:
    """Accepts connections on a pod in the lab. Raises `RuntimeError` if it cannot."""
    log = lab.box.directory / "connects-server.log"
    processes: list[subprocess.Popen[str]] = []
    try:
        for family in families:
            argv = [str(program("connects")), "--serve", lab.box.address(pod, family), str(port)]
            process = lab.box.popen(pod, argv, log=log, pipe=True)
            processes.append(process)
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], _START_LIMIT_S)
            if not readable or process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the server of connections did not start: {log.read_text(encoding='utf-8').strip()}")
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def connect(
    lab: Lab,
    source: str,
    port: int,
    *,
    count: int,
    rate_per_s: int,
    pod: str = RECEIVER,
    offered: bool = False,
    family: int = 4,
) -> Connects:
    """Open connections from one of the addresses of the lab's `clients`. Raises `RuntimeError` if the program fails.

    `offered`: each is opened when it is due, not after the one before; for connections beside another load.
    """
    log = lab.box.directory / "connects.log"
    argv = [str(program("connects")), *(["--offered"] if offered else [])]
    argv += [source, lab.box.address(pod, family), str(port), str(count), str(rate_per_s)]
    process = lab.box.popen(SENDER, argv, log=log, pipe=True)
    output, _ = process.communicate(timeout=60 + 4 * count / rate_per_s)
    if process.returncode:
        raise RuntimeError(f"connects: {log.read_text(encoding='utf-8').strip()}")
    report = json.loads(output)
    took = tuple(nanoseconds / 1000 for nanoseconds in report["connect_ns"])
    return Connects(failed=report["failed"], seconds=report["seconds"], took_us=took)
