"""Workloads of the ends of flows, with the names that `netpolq matrix` gives them. Pure.

The name of a workload depends on the names of its pods, and on other workloads that would have the same one. So it may change when a pod
is seen for the first time; what has a name is built from `Workload` objects, and reads the name when it is shown.
"""

from netpolq.flows.record import FlowEnd
from netpolq.reachability.grouping import OUTSIDE, Key, unique_names, workload_key

MAX_PODS = 10_000
"""Pods of a workload whose names are kept."""

_NAME = "name:"


class Workload:
    """What stands for the ends of flows. `kind`: workload, name (a learned domain name) or outside. `pods`: minute in which each of its
    pods was seen last. `id`: unique at any time, may change.
    """

    __slots__ = ("id", "kind", "namespace", "pods")

    def __init__(self, kind: str, identity: str, namespace: str = "") -> None:
        self.kind = kind
        self.id = identity
        self.namespace = namespace
        self.pods: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The name without the namespace."""
        return self.id.removeprefix(f"{self.namespace}/") if self.namespace else self.id.removeprefix(_NAME)

    def fields(self) -> dict[str, object]:
        """The workload as JSON fields."""
        return {
            "id": self.id,
            "namespace": self.namespace or None,
            "name": self.name,
            "kind": self.kind,
            "pods": len(self.pods),
        }


class Workloads:
    """All workloads that flows have."""

    def __init__(self) -> None:
        self._by_key: dict[Key, Workload] = {}
        self._by_name: dict[str, Workload] = {}
        self._outside = Workload("outside", OUTSIDE)
        self._is_named = True

    def of(self, end: FlowEnd, minute: int) -> Workload:
        """The workload of an end that was seen in a minute."""
        if not end.pod:
            if not end.names:
                return self._outside
            name = end.names[0]
            return self._by_name.setdefault(name, Workload("name", f"{_NAME}{name}"))
        key = workload_key(end.namespace, end.pod, end.labels)
        found = self._by_key.get(key)
        if found is None:
            found = self._by_key[key] = Workload("workload", "", end.namespace)
            self._is_named = False
        self.see(found, end.pod, minute)
        return found

    def see(self, workload: Workload, pod: str, minute: int) -> None:
        """Note that a pod of a workload was seen. `pod`: its name; empty: nothing is noted."""
        if pod in workload.pods:
            workload.pods[pod] = max(workload.pods[pod], minute)
        elif pod and len(workload.pods) < MAX_PODS:
            workload.pods[pod] = minute
            self._is_named = False

    def name_all(self) -> None:
        """Give all workloads their names. Call it before names are shown."""
        if self._is_named:
            return
        for key, name in unique_names({key: sorted(each.pods) for key, each in self._by_key.items()}).items():
            self._by_key[key].id = name
        self._is_named = True

    def forget_before(self, minute: int, in_use: set[Workload]) -> None:
        """Forget pods that were seen last before a minute, and workloads that are not in use."""
        self._by_key = {key: each for key, each in self._by_key.items() if each in in_use}
        self._by_name = {name: each for name, each in self._by_name.items() if each in in_use}
        for workload in self._by_key.values():
            kept = {pod: seen for pod, seen in workload.pods.items() if seen >= minute}
            if kept and len(kept) < len(workload.pods):
                workload.pods = kept
        self._is_named = False
