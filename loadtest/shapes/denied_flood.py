"""A flood that is denied, and what it costs those who are admitted."""

import time

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import psutil

from loadtest.clusters import NAMESPACE, NODE, PORT, PolicyCluster
from loadtest.connects import Connects, connect, server
from loadtest.ipset_chain import IpsetChain
from loadtest.lab import Lab, Sent, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.processes import FamilyWatch
from loadtest.subjects import Netpolq, Nothing, Subject, queues
from loadtest.traffic import Traffic
from loadtest.verdict import OTHERS_SHARE
from tests.support import manifests
from tests.support.box import Host
from tests.support.manifests import Body

_STRANGER = "10.66.0.1"
"""Not the address of any pod."""

_NEIGHBOUR = Host(name=f"{NAMESPACE}/neighbour", addresses=("10.200.1.2", "fd00:200:1::2"))
"""The pod that the admitted connections go to: isolated as the one that is flooded."""

_FLOOD_PER_S = 50_000.0
"""About a fifth of what the generator can send here: on two CPUs it must leave time for everybody else. The share is reported."""

_CONNECTS_PER_S = 1_000
_SECONDS = 2.0
_QUICK_SECONDS = 0.3
_LEAD_S = 0.5
_FULL_SPEED_PACKETS = 50_000
_FLOODS = {"known": str(PORT), "random": "1024-65535"}
"""Destination ports: always the same tuple, or any port of the pod."""

_CLUSTER = PolicyCluster(protocols=("TCP",))
_CACHED = "netpolq, verdict cache"
_UNCACHED = "netpolq, no cache in the kernel"
_WORKER_BYTES = 10_000_000
"""Two generations of the cache of decisions, about 4 MB, and as much again for what the allocator keeps."""

_SUPERVISOR_BYTES = 40_000_000
"""The ledger of a full verdict cache, 32,768 decisions, what waits to go into it, and the messages on their way to the kernel."""


class DeniedFlood:
    """SYNs from a stranger to an isolated pod, 50,000 a second, while 1,000 connections a second are offered from an admitted pod to
    another isolated one.

    The flood goes to one port, which is one decision, and then to random ones, each a decision of its own. The connections are opened when
    they are due, whatever became of those before. `asked`: what part of all first packets came to a worker; `admitted in kernel`: what part
    of the connections was answered by the verdict cache. Memory is what the processes hold more than before the first flood.
    """

    name = "denied-flood"
    title = "Admitted connections during a SYN flood that is denied"

    def __init__(self, parameters: Parameters) -> None:
        self._seconds = _QUICK_SECONDS if parameters.quick else _SECONDS

    def variants(self) -> Sequence[Variant]:
        subjects: dict[str, Subject] = {
            "no agent": Nothing(),
            "ipset chain": IpsetChain(bodies=_bodies, alike=(_NEIGHBOUR,)),
            _UNCACHED: Netpolq(),
            _CACHED: Netpolq(verdict_cache=True),
        }
        return [FloodVariant(name=name, subject=subject, seconds=self._seconds) for name, subject in subjects.items()]

    def targets(self) -> Sequence[Target]:
        found = []
        for kind in _FLOODS:
            found += [
                Target(value=f"{kind}_kept_share", subject=_CACHED, at_least=0.8),
                Target(value=f"{kind}_p99_ratio", subject=_CACHED, at_most=3.0),
            ]
        for subject in (_UNCACHED, _CACHED):
            found += [
                Target(value="worker_growth_bytes", subject=subject, at_most=float(_WORKER_BYTES)),
                Target(value="supervisor_growth_bytes", subject=subject, at_most=float(_SUPERVISOR_BYTES)),
            ]
        return found


def _bodies() -> Iterable[Body]:
    yield from _CLUSTER.bodies()
    yield manifests.pod(_NEIGHBOUR, NODE, app="server")


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodVariant:
    """A subject, an admitted client and a stranger."""

    name: str
    subject: Subject
    seconds: float

    def open(self) -> AbstractContextManager["FloodRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["FloodRun"]:
        clients = _CLUSTER.senders()[:1]
        with (
            lab(_bodies(), self.subject, clients=clients, pods=(_NEIGHBOUR,)) as opened,
            server(opened, PORT, pod=_NEIGHBOUR.name),
        ):
            yield FloodRun(opened, self.seconds)


class FloodRun:
    """An open variant. `seconds`: how long connections are offered each time."""

    def __init__(self, opened: Lab, seconds: float) -> None:
        self._lab = opened
        self._seconds = seconds
        self._memory_before = self._memory_bytes()
        self._full_speed_per_s = 0.0

    def measure(self, round_number: int) -> Sample:
        """Without a flood, then with each kind of it."""
        if round_number <= 1:
            self._full_speed_per_s = _rate_per_s(
                self._lab.send(replace(_flood(str(PORT), 1.0), packets=_FULL_SPEED_PACKETS, rate_per_s=0))
            )
        self._lab.forget_connections()
        watch = FamilyWatch(self._lab.started.workers)
        self._connect(0.1 * self._seconds)
        calm = self._connect(self._seconds)
        values = {"calm_connects_per_s": calm.per_s, "calm_p99_us": calm.quantile_us(0.99)}
        notes = [*calm.notes()]
        for kind, ports in _FLOODS.items():
            queued, remembered = self._queued(), self._lab.started.remembered()
            flooded, sent = self._flooded(ports)
            sent_per_s = _rate_per_s(sent)
            values[f"{kind}_kept_share"] = flooded.per_s / calm.per_s
            values[f"{kind}_p99_ratio"] = flooded.quantile_us(0.99) / calm.quantile_us(0.99)
            values[f"{kind}_p99_us"] = flooded.quantile_us(0.99)
            values[f"{kind}_flood_per_s"] = sent_per_s
            values[f"{kind}_flood_of_full_speed_share"] = sent_per_s / self._full_speed_per_s
            if self._lab.started.agent is not None:
                packets = sum(one["sent"] for one in sent) + len(flooded.took_us)
                values[f"{kind}_asked_share"] = (self._queued() - queued) / packets
                values[f"{kind}_admitted_in_kernel_share"] = (self._lab.started.remembered() - remembered) / len(flooded.took_us)
            notes += [f"flood of {kind} tuples: {note}" for note in flooded.notes()]
        values[OTHERS_SHARE] = watch.others_share()
        for process, held in self._memory_bytes().items():
            values[f"{process}_growth_bytes"] = float(held - self._memory_before[process])
        return Sample(values=values, notes=tuple(notes))

    def _connect(self, seconds: float) -> Connects:
        return connect(
            self._lab,
            _CLUSTER.senders()[0],
            PORT,
            pod=_NEIGHBOUR.name,
            count=int(_CONNECTS_PER_S * seconds),
            rate_per_s=_CONNECTS_PER_S,
            offered=True,
        )

    def _queued(self) -> int:
        return sum(queue.id_sequence for queue in queues(self._lab.box))

    def _flooded(self, ports: str) -> tuple[Connects, list[Sent]]:
        """Connections during a flood, and what became of that. Raises `RuntimeError` if it ended before them."""
        with ThreadPoolExecutor(1) as thread:
            flood = thread.submit(self._lab.send, _flood(ports, self._seconds + 2 * _LEAD_S))
            time.sleep(_LEAD_S)  # until the flood is there, and a verdict cache knows what it can
            offered_until_s = time.monotonic() + self._seconds
            flooded = self._connect(self._seconds)
            sent = flood.result()
        if min(one["ended_s"] for one in sent) < offered_until_s:
            raise RuntimeError("the flood ended before the last connection was opened that was to be opened during it")
        return flooded, sent

    def _memory_bytes(self) -> dict[str, int]:
        """Resident memory, of the largest worker and of the largest other child of the pool; nothing without an agent."""
        workers = self._lab.started.workers
        pool = psutil.Process(workers[0]).parent() if workers else None
        if pool is None:
            return {}
        held = {process.pid: int(process.memory_info().rss) for process in pool.children()}
        return {
            "worker": max(held[pid] for pid in workers),
            "supervisor": max(rss for pid, rss in held.items() if pid not in workers),
        }


def _flood(ports: str, seconds: float) -> Traffic:
    return Traffic(
        sources=(_STRANGER,),
        packets=int(_FLOOD_PER_S * seconds),
        destination_ports=ports,
        order="random",
        protocol="tcp",
        rate_per_s=_FLOOD_PER_S,
    )


def _rate_per_s(sent: Sequence[Sent]) -> float:
    """Of all generators together."""
    seconds = max(one["ended_s"] for one in sent) - min(one["began_s"] for one in sent)
    return sum(one["sent"] for one in sent) / seconds
