"""Random clusters of workloads, and flow records among their pods and with addresses outside; and the same cluster after a rollout."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from hypothesis import strategies as st

from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.model import Labels

NAMESPACES = ("shop", "ops", "kube-system")
LABELS = {
    "app": ("web", "db"),
    "app.kubernetes.io/name": ("web", "On"),
    "tier": ("front", "1"),
    "team": ("a",),
    "k8s-app": ("kube-dns",),
}
OUTSIDE = ("198.51.100.7", "198.51.100.9", "203.0.113.1", "203.0.113.2", "203.0.113.130", "203.0.113.200", "192.168.7.7")
PORTS = (53, 80, 81, 82, 83, 443, 40000)
PROTOCOLS = ("TCP", "UDP", "SCTP")
NAMES = ("a.example.com", "b.example.com")


class WorkloadPods(NamedTuple):
    """The pods of one Deployment. `number`: of the Deployment, for addresses and names."""

    namespace: str
    labels: Mapping[str, str]
    replicas: int
    number: int

    def end(self, replica: int, revision: int = 0) -> FlowEnd:
        """A pod as records have it. `revision`: after so many rollouts, with other names, hashes and addresses."""
        address = f"10.{revision}.{self.number}.{replica + 1}"
        template = f"r{revision}h{self.number}"
        labels = Labels({**self.labels, "pod-template-hash": template})
        return FlowEnd(address, self.namespace, f"d{self.number}-{template}-p{replica}", labels)

    @property
    def identity(self) -> tuple[str, frozenset[tuple[str, str]]]:
        """What a policy can know the workload by."""
        return self.namespace, frozenset(self.labels.items())


class PodChoice(NamedTuple):
    """A pod of a workload, by their positions."""

    workload: int
    replica: int


class Outside(NamedTuple):
    """An address outside."""

    address: str
    names: tuple[str, ...] = ()


class Seen(NamedTuple):
    """A connection to record."""

    source: PodChoice | Outside
    destination: PodChoice | Outside
    protocol: str
    port: int
    verdict: FlowVerdict
    time: int


class Scene(NamedTuple):
    """A cluster and what was seen in it."""

    workloads: tuple[WorkloadPods, ...]
    seen: tuple[Seen, ...]

    def end(self, choice: PodChoice | Outside, revision: int = 0) -> FlowEnd:
        """An end as records have it."""
        if isinstance(choice, Outside):
            return FlowEnd(choice.address, names=choice.names)
        workload = self.workloads[choice.workload % len(self.workloads)]
        return workload.end(choice.replica % workload.replicas, revision)

    def records(self, revision: int = 0) -> list[FlowRecord]:
        """The records. `revision`: see `WorkloadPods.end`."""
        return [_record(one, lambda choice: self.end(choice, revision)) for one in self.seen]

    def pods(self) -> list[tuple[WorkloadPods, FlowEnd]]:
        """All pods with their workloads, also those without a flow."""
        return [(workload, workload.end(replica)) for workload in self.workloads for replica in range(workload.replicas)]


def _record(seen: Seen, end: Callable[[PodChoice | Outside], FlowEnd]) -> FlowRecord:
    start_s = 1_700_000_000.0 + seen.time
    return FlowRecord(
        flow=Flow(end(seen.source), end(seen.destination), seen.protocol, seen.port, seen.verdict),
        node=f"node-{seen.time % 3}",
        window_start_s=start_s,
        window_s=60.0,
        first_seen_s=start_s,
        last_seen_s=start_s + 30,
        connections=1 + seen.time % 5,
    )


def _labels() -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in LABELS.items()})


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Scenes with one wanted flow of a labelled pod at least."""
    workloads = tuple(
        WorkloadPods(draw(st.sampled_from(NAMESPACES)), draw(_labels()), draw(st.integers(1, 3)), number)
        for number in range(draw(st.integers(1, 6)))
    )
    pods = st.builds(PodChoice, st.integers(0, 5), st.integers(0, 2))
    unrecorded = st.just(Outside(OTHER_ADDRESSES))
    outside = st.builds(Outside, st.sampled_from(OUTSIDE), st.sampled_from([(), NAMES[:1], NAMES])) | unrecorded
    rest = st.sampled_from(PROTOCOLS), st.sampled_from(PORTS), st.sampled_from(FlowVerdict), st.integers(0, 300)
    flows = st.builds(Seen, pods, pods | outside, *rest) | st.builds(Seen, pods | outside, pods, *rest)
    return Scene(workloads, tuple(draw(st.lists(flows, min_size=1, max_size=25))))
