"""New flows of few tuples with the verdict cache: the cost of a connection whose verdict the kernel has cached."""

import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from loadtest.clusters import PolicyCluster
from loadtest.connect_load import ConnectVariant, client_cluster
from loadtest.connects import Clients, Load
from loadtest.lab import Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.packet_load import sample_of
from loadtest.parameters import Parameters
from loadtest.pods import PodLab
from loadtest.subjects import Netpolq, Nothing, Subject, queues
from loadtest.testbed.agent import Agent
from loadtest.traffic import Traffic, known_tuples

NONE = "no agent"
NETPOLQ = "netpolq, cache on"
_CONNECTS = 10_000
_QUICK_CONNECTS = 200
_WARM_UP_PACKETS = 1_000
_WARM_UP_CONNECTS = 50
_WARM_UP_LIMIT_S = 10.0
_STEP_S = 0.05
_MAX = 0.99
"""Minimum share of packets that the kernel has answered; below it, the path through the workers was measured."""


class RepeatedDecisions:
    """Packets of new flows from a few pods to one port, and TCP connects from one pod, when the kernel has all their decisions.

    Before every load the same tuples are sent until no packet reaches a worker. Then nothing is queued, and all work is done on the core of
    the sender, with and without an agent. So the rates compare the whole path, sending included. `queued share` is the share of packets
    that reached a worker nevertheless.
    """

    name = "repeated-decisions"
    title = "New flows of few tuples, decided by the verdict cache in the kernel"

    def __init__(self, parameters: Parameters) -> None:
        self._packets = parameters.packets
        self._connects = _QUICK_CONNECTS if parameters.quick else _CONNECTS

    def variants(self) -> Sequence[Variant]:
        cluster, connecting = PolicyCluster(), client_cluster()
        traffic = known_tuples(cluster, self._packets)
        subjects: dict[str, Subject] = {NONE: Nothing(), NETPOLQ: Netpolq(verdict_cache=True)}
        return [
            *(
                RepeatedVariant(name=name, subject=subject, cluster=cluster, traffic=traffic)
                for name, subject in subjects.items()
            ),
            *(
                ConnectVariant(
                    name=connects(name),
                    subject=subject,
                    bodies=connecting.bodies,
                    samples=self._connects,
                    prepare=_prepare_connects,
                )
                for name, subject in subjects.items()
            ),
        ]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value="delivered_per_s", subject=NETPOLQ, reference=NONE, at_least=0.95),
            Target(value="queued_share", subject=NETPOLQ, at_most=0.001),
            Target(value="connect_p50_us", subject=connects(NETPOLQ), reference=connects(NONE), at_most=1.15),
        ]


def connects(name: str) -> str:
    """Name of the same variant under connects."""
    return f"{name}, connects"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedVariant:
    """A subject whose kernel has cached all verdicts before the load starts."""

    name: str
    subject: Subject
    cluster: PolicyCluster
    traffic: Traffic

    def open(self) -> AbstractContextManager["RepeatedRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["RepeatedRun"]:
        with lab(self.cluster.bodies(), self.subject) as opened:
            yield RepeatedRun(self, opened)


class RepeatedRun:
    """An open variant."""

    def __init__(self, variant: RepeatedVariant, opened: Lab) -> None:
        self._traffic = variant.traffic
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Send the load when no packet reaches a worker any more."""
        del round_number
        warm_up = replace(self._traffic, packets=min(self._traffic.packets, _WARM_UP_PACKETS), order="random")
        _until_nothing_is_queued(self._lab.started.agent, lambda: sum(self._lab.flood(warm_up).queued))
        remembered = self._lab.started.remembered()
        flood = self._lab.flood(self._traffic)
        remembered = self._lab.started.remembered() - remembered
        notes = []
        if self._lab.started.agent is not None:
            if remembered < _MAX * flood.delivered:
                raise RuntimeError(
                    f"of {flood.delivered:,} packets that arrived the kernel had accepted only {remembered:,} by its cache"
                )
            notes.append(f"by its own count the kernel accepted {remembered:,} of {flood.sent:,} packets by its verdict cache")
        found = sample_of(flood)
        # The generator is no limit: it waits for the measured path, which runs on its core, in all variants alike.
        values = {**found.values, "queued_share": sum(flood.queued) / flood.sent}
        return replace(found, values=values, notes=(*found.notes, *notes), generator_limited=False)


def _prepare_connects(opened: PodLab, clients: Clients) -> None:
    def queued_by_connects() -> int:
        before = sum(queue.id_sequence for queue in queues(opened.box))
        clients.run(Load(count=_WARM_UP_CONNECTS))
        return sum(queue.id_sequence for queue in queues(opened.box)) - before

    _until_nothing_is_queued(opened.started.agent, queued_by_connects)


def _until_nothing_is_queued(agent: Agent | None, queued_by_a_load: Callable[[], int]) -> None:
    """Repeat a small load until the kernel decides all of it. Raises `RuntimeError` if that does not happen."""
    if agent is None:
        queued_by_a_load()
        return
    deadline_s = time.monotonic() + _WARM_UP_LIMIT_S
    while queued := queued_by_a_load():
        if time.monotonic() > deadline_s:
            cache = agent.status()["verdict_cache"]
            state = f"{cache['entries']} decisions in the kernel" if cache["enabled"] else "it is switched off"
            raise RuntimeError(
                f"the verdict cache did not take over: after {_WARM_UP_LIMIT_S:g} s of the same tuples {queued} packets of a small load "
                f"still came to a worker; {state}"
            )
        time.sleep(_STEP_S)
