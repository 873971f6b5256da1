"""The policy compiler: from changes of a store to changes of the compiled policy, as values. It performs no I/O and knows no bytes.

    Store ── DirtySet ──> Compiler ── CompiledDelta ──> SnapshotBuilder ── bytes ──> workers

Each peer selector of a policy in use has a number, and the identity of a pod is the list of the numbers that match it. A rule refers to
selectors, never to pods, so adding or removing a pod changes one address and no program. The cost of an event does not depend on the
cluster size. The meaning of the compiled policy depends only on the objects in the store; the numbers also depend on earlier contents.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from netpolq.addresses import AddressKey
from netpolq.model import Pod, qualified_name
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.endpoint_policies import EndpointPolicies
from netpolq.policy.peer_classes import EXTERNAL, PeerClass, PeerClasses
from netpolq.policy.peers import Selector
from netpolq.policy.selector_uses import SelectorUses
from netpolq.snapshot.ir import CompiledDelta
from netpolq.store import DirtySet, Store

_ADDRESSES_PER_STEP = 1000


class Compiler:
    """Compiles the changes of a store.

    `is_local`: the pods to compile programs for. `with_pod_names`: also give the pod name of each address, for the packet log.
    """

    def __init__(self, store: Store, *, is_local: Callable[[Pod], bool], with_pod_names: bool = False) -> None:
        self._store = store
        self._is_local = is_local
        self._with_pod_names = with_pod_names
        self._delta = DeltaWriter()
        self._uses = SelectorUses()
        self._peer_classes = PeerClasses(self._uses, self._delta)
        self._endpoints = EndpointPolicies(self._uses, self._delta, store.namespace_labels)
        self._class_of: dict[AddressKey, PeerClass] = {}
        self._changed: set[AddressKey] = set()

    def steps(self) -> Iterator[CompiledDelta]:
        """Compile all changes of the store in steps of some milliseconds. The store may change between steps.

        The caller applies each delta. After the last one the deltas describe a complete state of the store, which can be published
        before the next call. This takes the dirty set of the store, so a store can have only one compiler.
        """
        for _ in self._apply_changes(self._store.take_dirty_set()):
            yield self._delta.take()
        # Changes from the pauses are applied without a pause; otherwise a store that always changes would keep this from ending.
        for _ in self._apply_changes(self._store.take_dirty_set()):
            pass
        yield self._delta.take()

    def everything(self, *, with_node_addresses: bool) -> CompiledDelta:
        """Compile the whole store, whatever its dirty set contains. For a compiler that has compiled nothing yet.

        `with_node_addresses`: also give those of every pod, which an evaluation outside the kernel needs.
        """
        for _ in self._apply_changes(self._store.everything()):
            pass
        delta = self._delta.take()
        return replace(delta, node_addresses=_node_addresses(self._store)) if with_node_addresses else delta

    def _apply_changes(self, touched: DirtySet) -> Iterator[None]:
        if not touched:
            return
        # In this order identities before and after a change use the same selector numbers. A selector that comes into use or goes out of
        # use does so with a program, and the endpoints of that program are reported as changed.
        for name in sorted(touched.namespaces):
            labels = self._store.namespace_labels(name)
            self._changed |= self._peer_classes.label(name, labels)
            self._endpoints.label(name, labels)
            yield
        for done, address in enumerate(touched.addresses):
            self._move(address)
            if done % _ADDRESSES_PER_STEP == _ADDRESSES_PER_STEP - 1:
                yield
        for namespace, name in sorted(touched.policies):
            self._endpoints.put_policy(namespace, name, self._store.policies.get((namespace, name)))
        for name in sorted(touched.cluster_policies):
            self._endpoints.put_cluster_policy(name, self._store.cluster_policies.get(name))
        yield from self._endpoints.compile()
        yield from self._peer_classes.update_identities()
        self._changed |= self._endpoints.write_endpoints()

    def _move(self, address: AddressKey) -> None:
        pod = self._store.owner(address)
        before = self._class_of.get(address)
        after = self._peer_classes.class_of(pod, self._store.nodes_with_address(address))
        if before is not after:
            if after is None:
                del self._class_of[address]
            else:
                self._class_of[address] = after
            if (EXTERNAL if before is None else before.identity) != (EXTERNAL if after is None else after.identity):
                self._changed.add(address)
            self._peer_classes.move(address, before, after)
        # A pod of another node that reports an address of a local pod, rightly or not, does not remove its isolation.
        self._endpoints.move(address, next(filter(self._is_local, self._store.pods_with_address(address)), None))
        if self._with_pod_names:
            self._delta.pod_names[address] = "" if pod is None else qualified_name(pod.namespace, pod.name)

    def take_changed(self) -> frozenset[AddressKey]:
        """Return the addresses whose flows may have other decisions than at the last call."""
        changed, self._changed = frozenset(self._changed), set()
        return changed

    @property
    def isolated(self) -> tuple[frozenset[AddressKey], ...]:
        """The local addresses that some policy selects, by direction (in the order of `Direction`)."""
        return self._endpoints.isolated

    @property
    def local(self) -> frozenset[AddressKey]:
        """The addresses of all local pods."""
        return self._endpoints.local

    @property
    def selectors(self) -> dict[int, Selector]:
        """The selectors in use by number."""
        return self._uses.selectors


def _node_addresses(store: Store) -> dict[AddressKey, tuple[AddressKey, ...]]:
    of_node = store.addresses_of_nodes()
    return {
        AddressKey(address): tuple(map(AddressKey, sorted({*pod.host_ips, *of_node.get(pod.node_name, ())})))
        for address, pod in store.address_owners().items()
        if pod.host_ips or of_node.get(pod.node_name)
    }
