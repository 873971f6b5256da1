"""Excerpts of a store: the objects that decide about flows between a few ends, out of all objects of a cluster.

A store with the objects of an excerpt gives the same explanation of every flow between its ends as the whole store, near misses and names
included. An excerpt is made in steps of about a millisecond, so that an event loop can do other work in between; it shows the store as it
is when it begins.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from netpolq.addresses import AddressKey
from netpolq.model import ClusterNetworkPolicy, NetworkPolicy, Object, Pod
from netpolq.policy.selectors import matches
from netpolq.store import Store

STEP_OBJECTS = 5000
"""Objects that one step looks at: some 0.7 ms for pods."""


class PodKey(NamedTuple):
    """The name of a pod."""

    namespace: str
    name: str


class Ends(NamedTuple):
    """What flows are asked about: addresses, pods with all their addresses, and domain names with all addresses learned for them."""

    addresses: frozenset[AddressKey] = frozenset()
    pods: frozenset[PodKey] = frozenset()
    names: frozenset[str] = frozenset()


class Part(NamedTuple):
    """Objects of a store, and learned names by address."""

    objects: Sequence[Object]
    names: Mapping[AddressKey, frozenset[str]]


def excerpt(store: Store, ends: Ends) -> Generator[None, None, Part]:
    """Make the excerpt for these ends. Yields between steps and returns the excerpt. A pod that does not exist adds nothing."""
    addresses = set(ends.addresses)
    if ends.names:
        addresses.update(address for address, names in store.names.items() if not ends.names.isdisjoint(names))
    named = [pod for key in sorted(ends.pods) if (pod := store.pods.get(key)) is not None]
    for pod in named:
        addresses.update(pod.ips, pod.host_ips if pod.host_network else ())
    asked = frozenset(addresses)
    pods = {(pod.namespace, pod.name): pod for pod in named}
    for address in asked:
        pods.update(((pod.namespace, pod.name), pod) for pod in store.pods_with_address(address))
    nodes = {node.name: node for address in asked for node in store.nodes_with_address(address)}
    names = {address: store.names[address] for address in asked if address in store.names}
    of_namespaces = {pod.namespace for pod in pods.values()}
    namespaces = [store.namespaces[name] for name in sorted(of_namespaces & store.namespaces.keys())]
    labels = {name: store.namespace_labels(name) for name in of_namespaces}
    # From here on the store may change between steps: the objects themselves never do.
    selecting = _Selecting(tuple(pods.values()), labels)
    all_pods, all_policies = list(store.pods.values()), list(store.policies.values())
    all_cluster_policies = list(store.cluster_policies.values())
    policies: list[Object] = []
    for some_policies in _steps(all_policies):
        policies += [policy for policy in some_policies if selecting.has(policy)]
        yield
    for some_cluster_policies in _steps(all_cluster_policies):
        policies += [policy for policy in some_cluster_policies if selecting.has_cluster_wide(policy)]
        yield
    of_nodes: dict[tuple[str, tuple[AddressKey, ...]], Pod] = {}
    for some_pods in _steps(all_pods):
        for pod in some_pods:
            if pod.node_name and not asked.isdisjoint(pod.host_ips):
                of_nodes.setdefault((pod.node_name, pod.host_ips), pod)
        yield
    pods.update(((pod.namespace, pod.name), pod) for pod in of_nodes.values())
    return Part([*namespaces, *nodes.values(), *pods.values(), *policies], names)


def everything(store: Store) -> Part:
    """Return all objects of a store and all learned names. Takes some milliseconds for 100,000 pods."""
    objects: Iterator[Object] = chain(
        store.namespaces.values(),
        store.nodes.values(),
        store.pods.values(),
        store.policies.values(),
        store.cluster_policies.values(),
    )
    return Part(list(objects), dict(store.names))


_Item = TypeVar("_Item")


def _steps(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), STEP_OBJECTS):
        yield items[start : start + STEP_OBJECTS]


class _Selecting(NamedTuple):
    """Whether a policy selects one of some pods. `labels`: of their namespaces."""

    pods: tuple[Pod, ...]
    labels: Mapping[str, Mapping[str, str]]

    def has(self, policy: NetworkPolicy) -> bool:
        return policy.namespace in self.labels and any(
            pod.namespace == policy.namespace and matches(policy.pod_selector, pod.labels) for pod in self.pods
        )

    def has_cluster_wide(self, policy: ClusterNetworkPolicy) -> bool:
        of_namespaces, of_pods = policy.subject.namespace_selector, policy.subject.pod_selector
        return any(
            (of_namespaces is None or matches(of_namespaces, self.labels[pod.namespace])) and matches(of_pods, pod.labels)
            for pod in self.pods
        )
