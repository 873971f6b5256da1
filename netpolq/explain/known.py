"""What is known of a cluster: its objects, and where they come from. Questions are answered from this alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from netpolq.addresses import AddressKey
from netpolq.enums import DenyWith, Enforcement
from netpolq.model import ClusterNetworkPolicy, NetworkPolicy, Rejection
from netpolq.sources.decode.others import EndpointSlice, Other, Service, Workload
from netpolq.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where objects come from. `where` completes "does not exist in …". `line`: what the text of an answer tells about the state of the
    objects, empty: nothing; `fields`: the same for JSON.
    """

    where: str = "the manifests"
    line: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Others:
    """Objects that an agent does not use, by namespace and name. `workloads`: by kind, too. `missing`: why there are no objects of a kind
    (a value of `Other`'s kinds), for error messages. `synthetic`: workloads by the addresses that stand for their pods in the store.
    """

    services: dict[tuple[str, str], Service] = field(default_factory=dict)
    slices: dict[tuple[str, str], list[EndpointSlice]] = field(default_factory=dict)
    workloads: dict[tuple[str, str, str], Workload] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    synthetic: dict[AddressKey, Workload] = field(default_factory=dict)

    def add(self, item: Other) -> None:
        """Add an object. The first one of a name counts."""
        match item:
            case Service():
                self.services.setdefault((item.namespace, item.name), item)
            case EndpointSlice():
                self.slices.setdefault((item.namespace, item.service), []).append(item)
            case Workload():
                self.workloads.setdefault((item.kind, item.namespace, item.name), item)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The objects. `deny_with`, `enforcement`: what a denial does, and whether policies are enforced, where no annotation says.
    `others`: those of kinds that an agent does not use; None: the origin knows none of these kinds.
    """

    store: Store
    origin: Origin = field(default_factory=Origin)
    deny_with: DenyWith = DenyWith.DROP
    enforcement: Enforcement = Enforcement.ENFORCE
    others: Others | None = None

    @property
    def has_audit(self) -> bool:
        """Whether any policy is in audit."""
        policies: Iterable[NetworkPolicy | ClusterNetworkPolicy] = chain(
            self.store.policies.values(), self.store.cluster_policies.values()
        )
        return any(self.store.is_in_audit(policy, self.enforcement) for policy in policies)

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """What cannot be used as written."""
        return (*self.store.rejections, *(self.others.rejections if self.others is not None else ()))

    def learn(self, names: Mapping[AddressKey, frozenset[str]]) -> None:
        """Add learned names."""
        for address, learned in names.items():
            self.store.set_names(address, self.store.names.get(address, frozenset()) | learned)


Read = Callable[[Sequence[str] | None], Known]
"""Reads the objects that decide about flows between ends (addresses, NAMESPACE/POD and domain names), or more; None: all objects.

Raises `NetpolqError`.
"""
