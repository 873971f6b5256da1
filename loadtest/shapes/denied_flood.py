"""A denied SYN flood beside accepted connections: the remaining rate of connections, and the memory."""

import time

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import psutil

from loadtest import processes, syn_flood
from loadtest.clusters import CLIENTS
from loadtest.connect_load import client_cluster
from loadtest.connects import Clients, Connects, Load, serving
from loadtest.ipset_chain import IpsetChain
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.plots import Medians
from loadtest.pods import PodLab, pod_lab
from loadtest.processes import Watch, others_notes
from loadtest.subjects import Netpolq, Nothing, Subject, queues
from loadtest.syn_flood import MANY_TUPLES, ONE_TUPLE, Kind
from loadtest.testbed.manifests import Body
from loadtest.verdict import OTHERS_SHARE

NONE = "no agent"
CACHED = "netpolq, cache on"
UNCACHED = "netpolq, cache off"
_KINDS = (ONE_TUPLE, MANY_TUPLES)
_CONNECTS_PER_S = 2_000.0
_FLOOD_SHARE = 0.25
_MAX_FLOOD_PER_S = 100_000.0
"""In the variant without an agent nothing is denied: the connection table needs room for the whole flood."""

_LEAD_S = 0.3
_MARGIN_S = 5.0
_WARM_UP_S = 0.3
_MAX_GROWTH_BYTES = 16 * 2**20
"""A full flow cache takes 5 MB, and the supervisor's ledger of 32,768 decisions 16 MB; a flood fills the half for drops. Python's allocator
keeps the rest."""


class DeniedFlood:
    """A SYN flood from beyond the node to a pod, while two pods of its node connect to it, 2,000 connections per second in all.

    The flood is denied: once to a single port, once to random ones out of 55,536, from one address, each packet with a new source port.
    Its rate is a quarter of the generator's maximum without an agent, measured once, at most 100,000 packets per second; so it leaves most
    of its core to others. The clients connect at a constant rate, not in a closed loop. A connection starts when it is due or, if earlier
    ones took too long, as soon as possible; its time counts from when it was due. A connection that takes more than a
    second has failed. Their rate without the flood is measured first, in the same round. `asked`: share of all first packets that reached a
    worker; `accepted in kernel`: share of the clients' connections that the verdict cache answered.
    """

    name = "denied-flood"
    title = "Accepted connections beside a SYN flood that is denied"

    def __init__(self, parameters: Parameters) -> None:
        self._duration_s = parameters.duration_s

    def variants(self) -> Sequence[Variant]:
        cluster = client_cluster()
        pace = _Pace()
        subjects: dict[str, Subject] = {
            NONE: Nothing(),
            "ipset chain": IpsetChain(bodies=cluster.bodies),
            UNCACHED: Netpolq(),
            CACHED: Netpolq(verdict_cache=True),
        }
        return [
            FloodedVariant(name=name, subject=subject, bodies=cluster.bodies, duration_s=self._duration_s, pace=pace)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [
            *(Target(value=f"{kind.name}_kept_share", subject=CACHED, at_least=0.8) for kind in _KINDS),
            *(Target(value=f"{kind.name}_p99_ratio", subject=CACHED, at_most=3.0) for kind in _KINDS),
            *(Target(value="memory_growth_bytes", subject=subject, at_most=_MAX_GROWTH_BYTES) for subject in (UNCACHED, CACHED)),
        ]

    def remarks(self, medians: Medians) -> Sequence[str]:
        """The rate of the flood."""
        rates = [medians[NONE].get(f"{kind.name}_flood_per_s", 0.0) for kind in _KINDS]
        return [
            f"The flood had {rates[0]:,.0f} packets per second to one tuple and {rates[1]:,.0f} to random ones, by intent a quarter of "
            "what the generator can send without an agent. Clients, server, flood and workers share the CPUs of this machine; what no "
            "agent keeps shows what that alone costs."
        ]


@dataclass(slots=True)
class _Pace:
    """The rate of the floods by kind. The first variant, which has no agent, determines it for all."""

    per_s: dict[str, float] = field(default_factory=dict)

    def of(self, opened: PodLab, kind: Kind) -> float:
        if kind.name not in self.per_s:
            self.per_s[kind.name] = min(_MAX_FLOOD_PER_S, _FLOOD_SHARE * syn_flood.max_per_s(opened, kind))
        return self.per_s[kind.name]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodedVariant:
    """A subject under a flood."""

    name: str
    subject: Subject
    bodies: Callable[[], Iterable[Body]]
    duration_s: float
    pace: _Pace

    def open(self) -> AbstractContextManager["FloodedRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["FloodedRun"]:
        with pod_lab(self.bodies(), self.subject) as opened, serving(opened) as servers:
            syn_flood.prepare(opened)
            yield FloodedRun(self, opened, servers)


class FloodedRun:
    """An open variant. Memory is compared with that at the start."""

    def __init__(self, variant: FloodedVariant, opened: PodLab, servers: Sequence[int]) -> None:
        self._variant = variant
        self._lab = opened
        self._servers = servers
        self._clients = Clients(opened, CLIENTS, 4)
        self._supervisor = _supervisor(opened)
        self._memory_at_first = self._memory_bytes()

    def measure(self, round_number: int) -> Sample:
        """Measure without a flood, then with one of each kind."""
        del round_number
        load = Load(seconds=self._variant.duration_s, rate_per_s=_CONNECTS_PER_S / len(CLIENTS))
        self._clients.run(Load(seconds=_WARM_UP_S, rate_per_s=load.rate_per_s))
        rates_per_s = {kind: self._variant.pace.of(self._lab, kind) for kind in _KINDS}
        self._lab.forget_connections()
        watch, before = Watch(self._lab.started.workers), processes.cpu_times([*self._servers, *self._supervisor])
        children_s = processes.children_s(self._supervisor)  # nft
        unloaded = self._clients.run(load)
        values = {"unloaded_connects_per_s": unloaded.per_s, "unloaded_p99_us": unloaded.quantile_us(0.99)}
        notes = list(_notes("without the flood", unloaded))
        ours_s = unloaded.cpu_s
        for kind, rate_per_s in rates_per_s.items():
            found, used_s = self._flooded(kind, rate_per_s, load, unloaded, notes)
            values |= found
            ours_s += used_s
        ours_s += sum(used.running_ns for used in processes.used(before, processes.cpu_times(before))) / 1e9
        ours_s += processes.children_s(self._supervisor) - children_s
        values[OTHERS_SHARE] = watch.usage(ours_s).others_share
        notes += others_notes(values[OTHERS_SHARE], load.seconds)
        if self._memory_at_first:
            memory = self._memory_bytes()
            values |= {f"{part}_bytes": float(size) for part, size in memory.items()}
            values["memory_growth_bytes"] = float(sum(memory.values()) - sum(self._memory_at_first.values()))
        return Sample(values=values, notes=tuple(notes))

    def _flooded(
        self, kind: Kind, rate_per_s: float, load: Load, unloaded: Connects, notes: list[str]
    ) -> tuple[dict[str, float], float]:
        """The values, and the CPU seconds of flood and clients."""
        queued, remembered = self._queued(), self._lab.started.remembered()
        arrived, unjudged = syn_flood.arrived(self._lab), self._lab.started.unjudged()
        with syn_flood.flooding(self._lab, kind, rate_per_s=rate_per_s, at_most_s=load.seconds + _MARGIN_S) as flood:
            time.sleep(_LEAD_S)
            found = self._clients.run(load)
        through = syn_flood.arrived(self._lab) - arrived
        if through and not isinstance(self._variant.subject, Nothing):
            raise RuntimeError(f"{through:,} of {flood.report['sent']:,} packets of a denied flood reached the pod")
        unjudged = self._lab.started.unjudged() - unjudged
        if unjudged:
            notes.append(f"{kind.name}: {unjudged:,} packets without a verdict")
        notes += _notes(kind.name, found)
        self._lab.forget_connections()
        asked, remembered = self._queued() - queued, self._lab.started.remembered() - remembered
        values = {
            f"{kind.name}_kept_share": found.per_s / unloaded.per_s,
            f"{kind.name}_p99_ratio": found.quantile_us(0.99) / unloaded.quantile_us(0.99),
            f"{kind.name}_p99_us": found.quantile_us(0.99),
            f"{kind.name}_flood_per_s": flood.report["rate_per_s"],
        }
        if self._lab.started.agent is not None:
            values[f"{kind.name}_asked_share"] = asked / (flood.report["sent"] + found.connected)
            values[f"{kind.name}_accepted_in_kernel_share"] = remembered / found.connected
        return values, found.cpu_s + flood.report["cpu_s"]

    def _queued(self) -> int:
        return sum(queue.id_sequence for queue in queues(self._lab.box))

    def _memory_bytes(self) -> dict[str, int]:
        """Resident memory by process of the agent; empty without an agent. Memory that workers share with the pool counts for each."""
        parts = {"workers": self._lab.started.workers, "supervisor": self._supervisor}
        try:
            return {name: sum(int(psutil.Process(pid).memory_info().rss) for pid in pids) for name, pids in parts.items() if pids}
        except psutil.NoSuchProcess as error:
            raise RuntimeError(f"a worker or the supervisor has ended under the flood: {error}") from error


def _supervisor(opened: PodLab) -> list[int]:
    """The supervisor's process, if there is one."""
    return [] if opened.started.agent is None else [processes.supervisor_of(opened.started.workers)]


def _notes(when: str, found: Connects) -> Iterator[str]:
    if found.failed:
        yield f"{when}: {found.failed:,} connections failed, {found.connected:,} were made"
