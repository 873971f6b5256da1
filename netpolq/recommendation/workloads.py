"""The workloads among the known pods: what of their labels lasts, which of them are cluster DNS, and which addresses they have.

Known pods are those of the flow records and, where there are manifests, those of the manifests. Pods of one namespace are one workload if
the labels are equal that outlast rollouts, new versions and moves to other nodes.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.controllers import controller_name, job_name, stable_labels
from netpolq.enums import Protocol
from netpolq.model import Labels, NamedPort, Pod, qualified_name
from netpolq.store import reported_addresses

_VOLATILE_LABELS = frozenset({"app.kubernetes.io/version", "helm.sh/chart", "chart", "rollouts-pod-template-hash"})
_VOLATILE_PREFIX = "topology.kubernetes.io/"
"""Labels that change with a release or with the node of a pod. Source: recommended labels of Kubernetes, chart conventions of Helm, Argo
Rollouts, and the admission plug-in PodTopologyLabels.
"""

_DNS_LABELS = {
    "kube-system": frozenset(
        {
            *(("k8s-app", name) for name in ("kube-dns", "coredns", "node-local-dns")),
            *(("app.kubernetes.io/name", name) for name in ("coredns", "kube-dns")),
        }
    ),
    "openshift-dns": frozenset({("dns.operator.openshift.io/daemonset-dns", "default")}),
}
"""Labels of cluster DNS by namespace. Source: the manifests of kubeadm, of the CoreDNS chart and of OpenShift."""


class Workload(NamedTuple):
    """The identity of a workload: its namespace, and the labels that last, sorted. Without labels: all such pods of the namespace."""

    namespace: str
    labels: tuple[tuple[str, str], ...]

    @property
    def is_dns(self) -> bool:
        """Whether it looks like cluster DNS."""
        return not _DNS_LABELS.get(self.namespace, frozenset()).isdisjoint(self.labels)


class Instance(NamedTuple):
    """A pod as far as policies can tell: its labels, all of them, and one of its addresses."""

    labels: Labels
    address: AddressKey


@dataclass(slots=True)
class Members:
    """The known pods of a workload. `controllers`: known names, without those of Jobs. `declared`: the ports of the pods of manifests."""

    pods: set[str] = field(default_factory=set)
    controllers: set[str] = field(default_factory=set)
    instances: set[Instance] = field(default_factory=set)
    declared: list[tuple[NamedPort, ...]] = field(default_factory=list)


class KnownPods:
    """All known pods by workload. The result does not depend on the order of the calls of `add`."""

    def __init__(self) -> None:
        self.members: dict[Workload, Members] = {}
        self._workloads: dict[tuple[str, Labels], Workload] = {}
        self._owners: dict[AddressKey, set[Workload]] = {}

    def workload(self, namespace: str, labels: Labels) -> Workload:
        """Return the workload of a pod."""
        found = self._workloads.get((namespace, labels))
        if found is None:
            found = self._workloads[namespace, labels] = Workload(namespace, _lasting(labels))
        return found

    def add(self, namespace: str, name: str, labels: Labels, addresses: Iterable[AddressKey]) -> Members:
        """Note a pod. Returns what is known about its workload."""
        workload = self.workload(namespace, labels)
        members = self.members.get(workload)
        if members is None:
            members = self.members[workload] = Members()
        if name not in members.pods:
            members.pods.add(name)
            if (controller := controller_name(name, labels)) and not job_name(labels):
                members.controllers.add(controller)
        for address in addresses:
            members.instances.add(Instance(labels, address))
            self._owners.setdefault(address, set()).add(workload)
        return members

    def add_manifests(self, pods: Iterable[Pod]) -> None:
        """Note the pods of manifests, but for those of the host network, to which no NetworkPolicy applies."""
        for pod in pods:
            if not pod.host_network:
                members = self.add(pod.namespace, pod.name, Labels.of(pod.labels), reported_addresses(pod))
                members.declared.append(pod.named_ports)

    def owner(self, address: AddressKey) -> Workload | None:
        """Return the workload whose pods have an address; None without one, and if there are several over time."""
        owners = self._owners.get(address, ())
        return next(iter(owners)) if len(owners) == 1 else None

    @property
    def addresses(self) -> Iterable[AddressKey]:
        """The addresses of all known pods."""
        return self._owners.keys()


def named_ports(members: Members) -> Mapping[tuple[Protocol, int], str]:
    """Return the names by which rules can name the ports of a workload: those that mean one port, the same one in all pods of manifests,
    and that are the only name of it.
    """
    if not members.declared:
        return {}
    numbers: dict[tuple[Protocol, str], set[int]] = {}
    names: dict[tuple[Protocol, int], set[str]] = {}
    for name, protocol, number in _all(members.declared):
        numbers.setdefault((protocol, name), set()).add(number)
        names.setdefault((protocol, number), set()).add(name)
    return {
        (protocol, number): name
        for (protocol, number), (name, *others) in ((port, sorted(found)) for port, found in names.items())
        if not others
        and numbers[protocol, name] == {number}
        and all(NamedPort(name, protocol, number) in ports for ports in members.declared)
    }


def same_labels_note(workload: Workload, members: Members) -> str:
    """Return a warning if labels do not tell apart what is managed separately, or nothing."""
    if not workload.labels:
        return (
            f"{qualified_name(workload.namespace, _examples(members.pods))}: without labels that last, so no policy can select "
            "exactly these pods; add a label such as app.kubernetes.io/name"
        )
    if len(members.controllers) > 1:
        return f"the pods of {_examples(members.controllers)} have equal labels, so one policy is for all of them; add a label that differs"
    return ""


def _lasting(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, text)
        for name, text in stable_labels(labels)
        if name not in _VOLATILE_LABELS and not name.startswith(_VOLATILE_PREFIX)
    )


def _all(declared: Iterable[tuple[NamedPort, ...]]) -> Iterator[NamedPort]:
    for ports in declared:
        yield from ports


def _examples(names: Iterable[str]) -> str:
    first, *rest = sorted(names)
    shown = ", ".join([first, *rest[:2]])
    return shown if len(rest) < 3 else f"{shown} and {len(rest) - 2} more"
