"""Connections that are like others before: with the verdict cache they need no worker."""

import time

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from loadtest.clusters import PORT, PolicyCluster
from loadtest.connects import connect, server
from loadtest.lab import Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.processes import FamilyWatch
from loadtest.subjects import Netpolq, Nothing, Subject
from loadtest.traffic import WORKER_CPUS, known_tuples
from loadtest.verdict import OTHERS_SHARE

_COUNT = 4_000
_QUICK_COUNT = 100
_RATE_PER_S = 2_000
_WARM_UP_PACKETS = 20_000
_WARM_UP_LIMIT_S = 10.0
_MOST = 0.99
"""Of the first packets must be answered in the kernel: fewer, and something else was measured."""


class RepeatedDecisions:
    """The load of `new-flows` and the connects of `connect-latency`, with the verdict cache in the kernel on."""

    name = "repeated-decisions"
    title = "New flows of known tuples and TCP connects, with the verdict cache in the kernel"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def variants(self) -> Sequence[Variant]:
        subjects: dict[str, Subject] = {"no agent": Nothing(), "netpolq, verdict cache": Netpolq(verdict_cache=True)}
        cluster = PolicyCluster(protocols=("UDP", "TCP"))
        return [
            RepeatedVariant(name=name, subject=subject, parameters=self._parameters, cluster=cluster)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value="forwarded_per_s", subject="netpolq, verdict cache", reference="no agent", at_least=0.95),
            Target(value="connect_p50_us", subject="netpolq, verdict cache", reference="no agent", at_most=1.15),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedVariant:
    """One of the two."""

    name: str
    subject: Subject
    parameters: Parameters
    cluster: PolicyCluster

    def open(self) -> AbstractContextManager["RepeatedRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["RepeatedRun"]:
        clients = self.cluster.senders()[:1]
        with lab(self.cluster.bodies(), self.subject, cpus=WORKER_CPUS, clients=clients) as opened, server(opened, PORT):
            yield RepeatedRun(self, opened)


class RepeatedRun:
    """An open variant."""

    def __init__(self, variant: RepeatedVariant, opened: Lab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Both loads. Both work on the core of the sender, all the way: that of `no agent` is the limit, so nothing here is limited by
        the generator beyond what is to be measured.
        """
        del round_number
        parameters, cluster = self._variant.parameters, self._variant.cluster
        self._warm_up()
        queued, remembered = self._queued(), self._lab.started.remembered()
        watch = FamilyWatch(self._lab.started.workers)
        flood = self._lab.flood(known_tuples(cluster, parameters.packets))
        count = _QUICK_COUNT if parameters.quick else _COUNT
        made = connect(self._lab, cluster.senders()[0], PORT, count=count + count // 10, rate_per_s=_RATE_PER_S)
        others_share = watch.others_share()
        made = replace(made, took_us=made.took_us[count // 10 :])
        asked = self._queued() - queued
        notes = [*made.notes()]
        if self._lab.started.agent is not None:
            first_packets = flood.sent + count + count // 10
            answered = self._lab.started.remembered() - remembered
            if answered < _MOST * first_packets:
                raise RuntimeError(f"of {first_packets:,} first packets the kernel answered only {answered:,}")
            notes.append(
                f"of {first_packets:,} first packets the kernel answered {answered:,} and asked a worker about {asked:,}"
            )
        return Sample(
            values={
                "forwarded_per_s": flood.delivered / flood.elapsed_s,
                **made.values(),
                "asked_of_workers": float(asked),
                OTHERS_SHARE: others_share,
            },
            distribution=made.distribution_us(),
            notes=tuple(notes),
        )

    def _queued(self) -> int:
        agent = self._lab.started.agent
        return agent.packets_queued() if agent is not None else 0

    def _warm_up(self) -> None:
        """Until the decisions that are needed are in the kernel. Raises `RuntimeError` if they do not get there."""
        cluster, agent = self._variant.cluster, self._lab.started.agent
        wanted = len(cluster.senders()) + 1
        deadline_s = time.monotonic() + _WARM_UP_LIMIT_S
        while True:
            self._lab.flood(known_tuples(cluster, _WARM_UP_PACKETS))
            connect(self._lab, cluster.senders()[0], PORT, count=50, rate_per_s=_RATE_PER_S)
            if agent is None or agent.status()["verdict_cache"]["entries"] >= wanted:
                return
            if time.monotonic() > deadline_s:
                held = agent.status()["verdict_cache"]["entries"]
                raise RuntimeError(f"after {_WARM_UP_LIMIT_S:.0f} s the kernel holds {held} decisions; {wanted} are in use")
