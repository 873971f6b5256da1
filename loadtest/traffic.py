"""The packet load: arguments of the generators, and the CPUs of generators and workers."""

import os

from dataclasses import dataclass

from loadtest.clusters import PORT, PolicyCluster
from loadtest.native.build import program

_USABLE = tuple(sorted(os.sched_getaffinity(0)))
_MAX_GENERATORS = 3

GENERATOR_CPUS = _USABLE[: max(1, min(_MAX_GENERATORS, len(_USABLE) // 2))]
"""One generator runs on each of these CPUs. The kernel forwards its packets on the same CPU, up to the queue, as it does with packets of a
network card. With four CPUs or more there are several generators, which are faster than any worker; a single one may not be.
"""

WORKER_CPUS = _USABLE[len(GENERATOR_CPUS) :] or _USABLE
ALL_CPUS = _USABLE
_FIRST_SOURCE_PORT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Packets of new flows, from addresses outside the node to the pod; see `flows --help` for the fields.

    `rate_per_s` 0: as many as possible. `cpus`: one generator on each.
    """

    sources: tuple[str, ...]
    packets: int
    destination_ports: str = str(PORT)
    source_ports: str = f"{_FIRST_SOURCE_PORT}-65535"
    order: str = "ports"
    protocol: str = "udp"
    rate_per_s: float = 0.0
    cpus: tuple[int, ...] = GENERATOR_CPUS

    def argv(self, part: int, seed: int, *, interface: str, to_mac: str, destination: str) -> list[str]:
        """Command of the generator that sends one of `len(cpus)` equal parts. `seed`: of the random packets."""
        count = max(1, self.packets // len(self.cpus))
        words = [str(program("flows")), "--interface", interface, "--to-mac", to_mac, "--destination", destination]
        for source in self.sources:
            words += ["--source", source]
        words += ["--source-ports", self.source_ports, "--destination-ports", self.destination_ports, "--protocol", self.protocol]
        words += ["--order", self.order, "--first", str(part * count), "--seed", str(seed * len(self.cpus) + part + 1)]
        words += ["--count", str(count), "--cpu", str(self.cpus[part])]
        return [*words, "--rate", str(self.rate_per_s / len(self.cpus))] if self.rate_per_s else words


def known_tuples(cluster: PolicyCluster, packets: int, *, cpus: tuple[int, ...] = GENERATOR_CPUS) -> Traffic:
    """New flows that differ from a few known ones in the source port alone: each sender opens the same number, and uses each port once.

    Raises `ValueError` if there are too few ports.
    """
    senders = cluster.senders()
    last = _FIRST_SOURCE_PORT + -(-packets // len(senders)) - 1
    if last > 65_535:
        most = (65_536 - _FIRST_SOURCE_PORT) * len(senders)
        raise ValueError(f"--packets {packets}: {len(senders)} pods have only {most} different flows to one port")
    return Traffic(sources=senders, packets=packets, source_ports=f"{_FIRST_SOURCE_PORT}-{last}", cpus=cpus)
