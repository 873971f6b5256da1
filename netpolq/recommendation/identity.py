"""How policies name workloads: the selector of each, and the name of its policy, which comes from the labels in the selector.

Both depend on labels that last, so they are the same after a rollout.
"""

import hashlib
import re

from collections.abc import Callable, Iterable, Mapping

from netpolq.enums import Protocol, SelectorOperator
from netpolq.model import LabelSelector, PodPeer, qualified_name
from netpolq.recommendation.policies import namespace_selector
from netpolq.recommendation.selectors import selector_for
from netpolq.recommendation.workloads import KnownPods, Workload, named_ports

_WITHOUT_LABELS = "pods-without-labels"
_NO_NAME = re.compile(r"[^a-z0-9]+")
_MAX_CHARACTERS = 150
"""Of the part that comes from labels. A name may have 253."""


class Identities:
    """Selectors, names and named ports of the workloads of known pods, computed when they are first used."""

    def __init__(self, pods: KnownPods) -> None:
        self._pods = pods
        self._selectors: dict[Workload, LabelSelector] = {}
        self._names: dict[str, dict[Workload, str]] = {}
        self._ports: dict[Workload, Mapping[tuple[Protocol, int], str]] = {}
        self._by_namespace: dict[str, list[Workload]] = {}
        for workload in sorted(pods.members):
            self._by_namespace.setdefault(workload.namespace, []).append(workload)

    def selector(self, workload: Workload) -> LabelSelector:
        """Return the selector of a workload among the pods of its namespace."""
        found = self._selectors.get(workload)
        if found is None:
            others = [other for other in self._by_namespace[workload.namespace] if other != workload]
            found = self._selectors[workload] = selector_for(workload, others)
        return found

    def peer(self, workload: Workload, namespace: str) -> PodPeer:
        """Return a workload as the peer of a policy in a namespace."""
        other = None if workload.namespace == namespace else namespace_selector(workload.namespace)
        return PodPeer(other, self.selector(workload))

    def name(self, workload: Workload) -> str:
        """Return the name of the policy of a workload, unique in its namespace."""
        names = self._names.get(workload.namespace)
        if names is None:
            names = self._names[workload.namespace] = _unique(self._by_namespace[workload.namespace], self.selector)
        return names[workload]

    def title(self, workload: Workload) -> str:
        """Return namespace/name, for comments."""
        return qualified_name(workload.namespace, self.name(workload))

    def named_ports(self, workload: Workload) -> Mapping[tuple[Protocol, int], str]:
        """Return the names that stand for ports of a workload."""
        found = self._ports.get(workload)
        if found is None:
            found = self._ports[workload] = named_ports(self._pods.members[workload])
        return found


def _unique(workloads: Iterable[Workload], selector_of: Callable[[Workload], LabelSelector]) -> dict[Workload, str]:
    """Return names. Where several workloads would have one, each has a part of a hash of its labels, too."""
    names = {workload: _name(workload, selector_of(workload)) for workload in workloads}
    taken: dict[str, int] = {}
    for name in names.values():
        taken[name] = taken.get(name, 0) + 1
    return {workload: name if taken[name] == 1 else f"{name}-{_hash(workload)}" for workload, name in names.items()}


def _name(workload: Workload, selector: LabelSelector) -> str:
    if not workload.labels:
        return _WITHOUT_LABELS
    values = (values[0] for _key, operator, values in selector.requirements if operator is SelectorOperator.IN)
    name = "-".join(filter(None, (_NO_NAME.sub("-", value.lower()).strip("-") for value in values)))
    return name[:_MAX_CHARACTERS].rstrip("-") or f"workload-{_hash(workload)}"


def _hash(workload: Workload) -> str:
    text = "\n".join(f"{key}={value}" for key, value in workload.labels)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
