"""The control plane of a large cluster: the compiler alone, and an agent under traffic while pods and policies change."""

import time

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psutil

from prometheus_client.parser import text_string_to_metric_families

from loadtest import processes
from loadtest.cluster_policies import CHANGES as CLUSTER_POLICY_CHANGES
from loadtest.cluster_policies import CHANGES_OF, POLICY_CHANGES
from loadtest.clusters import ChangingCluster
from loadtest.compiler_variants import ClusterPoliciesVariant, CompilerVariant, KindsVariant
from loadtest.kinds import KINDS
from loadtest.lab import Flood, Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.plots import Plot
from loadtest.subjects import Netpolq
from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.manifests import Body
from loadtest.traffic import WORKER_CPUS, Traffic

_SIZES = ((1_000, 100), (10_000, 1_000), (100_000, 10_000))
_QUICK_SIZES = ((500, 50), (1_000, 100))
_EVENTS = 200
_QUICK_EVENTS = 20
_CHANGES = 40
_QUICK_CHANGES = 3
_CLUSTER_POLICIES = "compiler, cluster-wide policies"
_CHANGE_LIMITS_MS = dict.fromkeys(CHANGES_OF, 50.0) | dict.fromkeys(POLICY_CHANGES, 150.0)
_CHURN_PER_S = 50
_POLICY_CHANGES_PER_S = 5
_PACKETS_PER_S = 20_000.0
_LIMIT_S = 0.1
_CACHE_BYTES = 5_000_000
"""The memory of a full flow cache: two generations of 8,192 entries, 250 bytes each, and the marks of flows that were seen once."""


class ControlPlane:
    """Events in clusters of three sizes. In the largest an agent runs too, with traffic, while pods and policies change.

    50 policies of 25 rules that select pods of many kinds, one of which changes; and 50 cluster-wide policies of 25 rules, one of which
    changes, or a namespace gets other labels.
    """

    name = "control-plane"
    title = "100,000 pods and 10,000 policies, 110 pods local: first snapshot, changes under traffic; kinds of pods; cluster-wide policies"

    def __init__(self, parameters: Parameters) -> None:
        self._sizes = _QUICK_SIZES if parameters.quick else _SIZES
        self._events = _QUICK_EVENTS if parameters.quick else _EVENTS
        self._changes = _QUICK_CHANGES if parameters.quick else _CHANGES
        self._duration_s = parameters.duration_s

    def variants(self) -> Sequence[Variant]:
        pods, policies = self._sizes[-1]
        return [
            *(
                CompilerVariant(name=_compiler(pods), pods=pods, policies=policies, events=self._events)
                for pods, policies in self._sizes
            ),
            *(KindsVariant(name=_kinds(kinds), kinds=kinds, changes=self._changes) for kinds in KINDS),
            ClusterPoliciesVariant(name=_CLUSTER_POLICIES, pods=pods, changes=min(self._changes, CLUSTER_POLICY_CHANGES)),
            AgentVariant(name=_agent(pods), cluster=ChangingCluster(pods=pods, policies=policies), duration_s=self._duration_s),
        ]

    def targets(self) -> Sequence[Target]:
        least, largest = _compiler(self._sizes[0][0]), _compiler(self._sizes[-1][0])
        agent = _agent(self._sizes[-1][0])
        return [
            # Constant, apart from the effect of the processor's caches with a hundred times as much memory: between two events a snapshot
            # is published, and the copy of the largest, 7 MB, evicts everything that the next event needs.
            Target(value="pod_event_ms", subject=largest, reference=least, at_most=5.0),
            Target(value="policy_event_ms", subject=largest, reference=least, at_most=3.0),
            Target(value="change_ms", subject=_kinds(60), at_most=100.0),
            Target(value="change_ms", subject=_kinds(KINDS[-1]), reference=_kinds(KINDS[0]), at_most=10.0),
            Target(value="snapshot_bytes", subject=_kinds(60), at_most=150_000.0),
            *(Target(value=value, subject=_CLUSTER_POLICIES, at_most=at_most) for value, at_most in _CHANGE_LIMITS_MS.items()),
            Target(value="snapshot_bytes", subject=_CLUSTER_POLICIES, at_most=300_000.0),
            Target(value="pod_changes_within_100_ms", subject=agent, at_least=0.99),
            Target(value="policy_changes_within_100_ms", subject=agent, at_least=0.99),
            Target(value="packets_lost", subject=agent, at_most=0.0),
            Target(value="decisions_made_again", subject=agent, at_most=0.01),
            Target(value="snapshot_bytes_per_pod", subject=agent, at_most=100.0),
            Target(value="supervisor_bytes_per_pod", subject=agent, at_most=3000.0),
            Target(value="worker_private_bytes", subject=agent, at_most=8e6 + _CACHE_BYTES),
        ]

    def plots(self) -> Sequence[Plot]:
        points = [(float(pods), _compiler(pods)) for pods, _policies in self._sizes]
        return [
            Plot(title=title, x_label="pods in the cluster", value=value, lines={"compiler": points})
            for title, value in (
                ("Compiling the event of a pod, median in ms", "pod_event_ms"),
                ("Compiling the event of a policy, median in ms", "policy_event_ms"),
                ("Publishing: checksums and one copy, median in ms", "publish_ms"),
            )
        ]


def _compiler(pods: int) -> str:
    return f"compiler, {pods:,} pods"


def _agent(pods: int) -> str:
    return f"agent, {pods:,} pods"


def _kinds(kinds: int) -> str:
    return f"compiler, {kinds} kinds of pods"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentVariant:
    """An agent that reads the whole cluster from a folder."""

    name: str
    cluster: ChangingCluster
    duration_s: float

    def open(self) -> AbstractContextManager["AgentRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["AgentRun"]:
        began_s = time.monotonic()
        with lab(self.cluster.bodies(), Netpolq(), cpus=WORKER_CPUS) as opened:
            yield AgentRun(self, opened, time.monotonic() - began_s)


class AgentRun:
    """An open agent. The changes continue from round to round, so that each changes something."""

    def __init__(self, variant: AgentVariant, opened: Lab, start_s: float) -> None:
        self._variant = variant
        self._lab = opened
        self._start_s = start_s
        self._folder = opened.box.directory / "manifests"
        self._pod_changes = variant.cluster.pod_changes()
        self._policy_changes = variant.cluster.policy_changes()

    def measure(self, round_number: int) -> Sample:
        """Send traffic while pods change, then traffic while policies change."""
        del round_number
        agent = self._lab.started.agent
        assert agent is not None
        pods = self._change(agent, self._pod_changes, _CHURN_PER_S)
        policies = self._change(agent, self._policy_changes, _POLICY_CHANGES_PER_S)
        metrics = _metrics(agent)
        workers = self._lab.started.workers
        supervisor_bytes = int(psutil.Process(processes.supervisor_of(workers)).memory_info().rss)
        lost = sum(flood.sent - flood.delivered for flood in (pods.flood, policies.flood))
        evaluated = sum(sum(flood.queued) for flood in (pods.flood, policies.flood))
        return Sample(
            values={
                "pod_changes_within_100_ms": pods.share_in_time,
                "policy_changes_within_100_ms": policies.share_in_time,
                "pod_changes_per_s": pods.changes / pods.flood.elapsed_s,
                "packets_lost": float(lost),
                "decisions_made_again": (pods.misses + policies.misses) / evaluated if evaluated else 1.0,
                "first_in_force_s": self._start_s,
                "snapshot_bytes_per_pod": metrics["netpolq_snapshot_bytes"] / self._variant.cluster.pods,
                "supervisor_bytes_per_pod": supervisor_bytes / self._variant.cluster.pods,
                "worker_private_bytes": float(max(_private_bytes(pid) for pid in workers)),
            },
            notes=(f"{lost:,} packets lost",) if lost else (),
        )

    def _change(self, agent: Agent, changes: Iterator[tuple[str, list[Body]]], per_s: float) -> "_Phase":
        before = _metrics(agent)
        traffic = Traffic(
            sources=self._variant.cluster.senders(),
            packets=int(_PACKETS_PER_S * self._variant.duration_s),
            source_ports="1024-65535",
            rate_per_s=_PACKETS_PER_S,
        )
        made = 0
        with ThreadPoolExecutor(1) as thread:
            flood = thread.submit(self._lab.flood, traffic)
            began_s = time.monotonic()
            while not flood.done():
                if time.monotonic() - began_s < made / per_s:
                    time.sleep(0.001)
                    continue
                name, bodies = next(changes)
                manifests.write(self._folder / name, bodies)
                made += 1
        agent.wait_until("everything is in force", lambda: _is_in_force(agent))
        after = _metrics(agent)

        def increase(name: str) -> float:
            return after.get(name, 0.0) - before.get(name, 0.0)

        in_force = increase("netpolq_policy_programming_seconds_count")
        in_time = increase(f"netpolq_policy_programming_seconds_bucket le={_LIMIT_S}")
        return _Phase(
            changes=made,
            share_in_time=in_time / in_force if in_force else 0.0,
            misses=increase("netpolq_flow_cache_misses_total"),
            flood=flood.result(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """`share_in_time`: share of the changes (those of 20 ms count as one) that were in force within 100 ms of their notice."""

    changes: int
    share_in_time: float
    misses: float
    flood: Flood


def _is_in_force(agent: Agent) -> bool:
    status = agent.status()
    return status["in_force_version"] == status["snapshot_version"]


def _metrics(agent: Agent) -> dict[str, float]:
    """The metrics, summed over all labels except the bound of a bucket."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(agent.metrics()):
        for sample in family.samples:
            name = f"{sample.name} le={sample.labels['le']}" if "le" in sample.labels else sample.name
            found[name] = found.get(name, 0.0) + sample.value
    return found


def _private_bytes(pid: int) -> int:
    """Return the written, private memory of a process. It excludes the snapshot, which workers only read."""
    return sum(int(part.private_dirty) for part in psutil.Process(pid).memory_maps(grouped=True))
