"""A flood that is denied, and what it costs those who are admitted."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psutil

from loadtest.clusters import PORT, PolicyCluster
from loadtest.connects import Connects, connect, server
from loadtest.ipset_chain import IpsetChain
from loadtest.lab import Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.subjects import Netpolq, Subject
from loadtest.traffic import Traffic
from netpolq_worker.nfqueue import RECEIVE_BUFFER_BYTES

_STRANGER = "10.66.0.1"
"""Not the address of any pod."""

_FLOOD_PER_S = 50_000.0
"""A fifth of what the generator can send here: on two CPUs it must leave time for everybody else."""

_CONNECTS_PER_S = 1_000
_SECONDS = 3
_QUICK_SECONDS = 0.3
_LEAD_S = 1.0
_FLOODS = {"known": str(PORT), "random": "1024-65535"}
"""Destination ports: always the same tuple, or any port of the pod."""

_CACHED = "netpolq, verdict cache"


class DeniedFlood:
    """SYNs from a stranger, 50,000 a second, while an admitted pod opens 1,000 connections a second to the same pod."""

    name = "denied-flood"
    title = "Admitted connections during a SYN flood that is denied"

    def __init__(self, parameters: Parameters) -> None:
        self._seconds = _QUICK_SECONDS if parameters.quick else _SECONDS

    def variants(self) -> Sequence[Variant]:
        cluster = PolicyCluster(protocols=("TCP",))
        subjects: dict[str, Subject] = {
            "ipset chain": IpsetChain(bodies=cluster.bodies),
            "netpolq, no cache in the kernel": Netpolq(),
            _CACHED: Netpolq(verdict_cache=True),
        }
        return [
            FloodVariant(name=name, subject=subject, cluster=cluster, seconds=self._seconds) for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        found = []
        for kind in _FLOODS:
            found += [
                Target(value=f"{kind}_kept_share", subject=_CACHED, at_least=0.8),
                Target(value=f"{kind}_p99_ratio", subject=_CACHED, at_most=3.0),
            ]
        # What is bounded may fill up: the receive buffers of the queue, the caches of worker and supervisor.
        return [*found, Target(value="memory_growth_bytes", subject=_CACHED, at_most=float(RECEIVE_BUFFER_BYTES + 40_000_000))]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodVariant:
    """A subject, an admitted client and a stranger."""

    name: str
    subject: Subject
    cluster: PolicyCluster
    seconds: float

    def open(self) -> AbstractContextManager["FloodRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["FloodRun"]:
        with lab(self.cluster.bodies(), self.subject, clients=self.cluster.senders()[:1]) as opened, server(opened, PORT):
            yield FloodRun(self, opened)


class FloodRun:
    """An open variant."""

    def __init__(self, variant: FloodVariant, opened: Lab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Without a flood, then with each kind of it."""
        del round_number
        before_bytes = self._memory_bytes()
        self._lab.forget_connections()
        self._connect()
        calm = self._connect()
        values = {"calm_connects_per_s": calm.per_s, "calm_p99_us": calm.quantile_us(0.99)}
        notes = [*calm.notes()]
        for kind, ports in _FLOODS.items():
            flooded, sent_per_s = self._flooded(ports)
            values[f"{kind}_kept_share"] = flooded.per_s / calm.per_s
            values[f"{kind}_p99_ratio"] = flooded.quantile_us(0.99) / calm.quantile_us(0.99)
            values[f"{kind}_flood_per_s"] = sent_per_s
            notes += [f"flood of {kind} tuples: {note}" for note in flooded.notes()]
        values["memory_growth_bytes"] = float(self._memory_bytes() - before_bytes)
        return Sample(values=values, notes=tuple(notes))

    def _connect(self) -> Connects:
        count = int(_CONNECTS_PER_S * self._variant.seconds)
        return connect(self._lab, self._variant.cluster.senders()[0], PORT, count=count, rate_per_s=_CONNECTS_PER_S)

    def _flooded(self, ports: str) -> tuple[Connects, float]:
        seconds = self._variant.seconds + 2 * _LEAD_S
        traffic = Traffic(
            sources=(_STRANGER,),
            packets=int(_FLOOD_PER_S * seconds),
            destination_ports=ports,
            order="random",
            protocol="tcp",
            rate_per_s=_FLOOD_PER_S,
        )
        with ThreadPoolExecutor(1) as thread:
            flood = thread.submit(self._lab.send, traffic)
            # The client is not timed before the flood is there.
            connect(self._lab, self._variant.cluster.senders()[0], PORT, count=int(100 * _LEAD_S), rate_per_s=100)
            flooded = self._connect()
            sent = flood.result()
        return flooded, sum(one["sent"] for one in sent) / (
            max(one["ended_s"] for one in sent) - min(one["began_s"] for one in sent)
        )

    def _memory_bytes(self) -> int:
        """Of the whole agent; nothing without one."""
        workers = self._lab.started.workers
        pool = psutil.Process(workers[0]).parent() if workers else None
        if pool is None:
            return 0
        return sum(int(process.memory_info().rss) for process in (pool, *pool.children()))
