"""Groups of pods: the workloads and the namespaces that own the addresses of a cluster.

The model of a pod has no owner, so labels tell its workload. Pods of one namespace with equal labels are one workload, without the labels
that controllers add to single pods or to one revision. Pods without other labels are told apart by the name of their controller, as far
as the labels of controllers tell it, or else by their own name.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.controllers import controller_name, stable_labels
from netpolq.model import Pod, qualified_name
from netpolq.store import Store

OUTSIDE = "outside"


class By(StrEnum):
    """What the pods are grouped by."""

    WORKLOAD = "workload"
    NAMESPACE = "namespace"


class Group(NamedTuple):
    """Pods that are shown as one. `name`: unique in its cluster. `pods`: namespace/name, sorted. `addresses`: those that the pods own.

    `key`: what its pods have in common. It stays the same when the name changes with the number of pods.
    """

    name: str
    pods: tuple[str, ...]
    addresses: tuple[AddressKey, ...]
    key: "Key | None" = None


class Key(NamedTuple):
    """What the pods of a group have in common. `labels`: sorted, without those of controllers. `controller`: its name, if it is known."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    controller: str = ""


_NO_TEMPLATES: Mapping[AddressKey, str] = MappingProxyType({})


def groups_of(store: Store, by: By, templates: Mapping[AddressKey, str] = _NO_TEMPLATES) -> tuple[Group, ...]:
    """Return the groups of all pods that own an address, in order of name. `templates`: names of workloads by the addresses of the pods
    that stand for their templates.
    """
    owned: dict[tuple[str, str], list[AddressKey]] = {}
    for address, pod in store.address_owners().items():
        owned.setdefault((pod.namespace, pod.name), []).append(AddressKey(address))
    members: dict[Key, list[Pod]] = {}
    for name in sorted(owned):
        pod = store.pods[name]
        workload = next((templates[address] for address in owned[name] if address in templates), "")
        members.setdefault(Key(pod.namespace) if by is By.NAMESPACE else _key(pod, workload), []).append(pod)
    if by is By.NAMESPACE:
        names = {key: key.namespace for key in members}
    else:
        names = unique_names({key: [pod.name for pod in pods] for key, pods in members.items()})
    groups = (
        Group(
            names[key],
            tuple(qualified_name(pod.namespace, pod.name) for pod in pods),
            tuple(address for pod in pods for address in sorted(owned[pod.namespace, pod.name])),
            key,
        )
        for key, pods in members.items()
    )
    return tuple(sorted(groups, key=lambda group: group.name))


def without_own_address(store: Store) -> tuple[str, ...]:
    """Return the pods that own no address and therefore belong to no group: namespace/name, sorted."""
    owners = {(pod.namespace, pod.name) for pod in store.address_owners().values()}
    return tuple(qualified_name(*key) for key in sorted(store.pods.keys() - owners))


def outside_group(groups: Sequence[Group], addresses: tuple[AddressKey, ...]) -> Group:
    """Return the group of what is outside the cluster. `addresses`: representatives."""
    return Group(f"({OUTSIDE})" if any(group.name == OUTSIDE for group in groups) else OUTSIDE, (), addresses)


def _key(pod: Pod, workload: str) -> Key:
    return workload_key(pod.namespace, pod.name, pod.labels, workload)


def workload_key(namespace: str, pod: str, labels: Mapping[str, str], workload: str = "") -> Key:
    """Return what the pods of a pod's workload have in common. `workload`: the name of the workload for whose template the pod stands."""
    stable = stable_labels(labels)
    controller = workload or controller_name(pod, labels)
    return Key(namespace, stable, controller or ("" if stable else pod))


def unique_names(members: Mapping[Key, Sequence[str]]) -> dict[Key, str]:
    """Return names of workloads, from the names of their pods. Where several would have one, the labels in which they differ follow."""
    by_name: dict[str, list[Key]] = {}
    for key, pods in members.items():
        by_name.setdefault(qualified_name(key.namespace, key.controller or _common_name(pods)), []).append(key)
    names: dict[Key, str] = {}
    for name, keys in by_name.items():
        common = set.intersection(*(set(key.labels) for key in keys))
        for key in keys:
            different = ",".join(f"{label}={text}" for label, text in key.labels if (label, text) not in common)
            names[key] = name if len(keys) == 1 else f"{name} ({different or 'no other labels'})"
    if len(set(names.values())) < len(names):  # a controller and a pod of the same name, with equal labels
        return {key: f"{name} ({members[key][0]})" for key, name in names.items()}
    return names


def _common_name(pods: Sequence[str]) -> str:
    """Return the parts, between dashes, with which the names of all pods begin, or the first name."""
    first, *others = (pod.split("-") for pod in pods)
    count = next(
        (number for number, part in enumerate(first) if any(other[number : number + 1] != [part] for other in others)), len(first)
    )
    return "-".join(first[:count]) or pods[0]
