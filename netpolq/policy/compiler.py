"""The policy compiler: from changes of a store to changes of the compiled policy, as values. It performs no I/O and knows no bytes.

    Store ── DirtySet ──> Compiler ── CompiledDelta ──> SnapshotBuilder ── bytes ──> workers

Each peer selector of a policy in use has a number, and the identity of an address is the list of the numbers that match its pod, its nodes
and its learned names. A rule refers to selectors, never to addresses, so a pod that is added or removed and a name that is learned or
forgotten change one address and no program. The cost of an event does not depend on the
cluster size. The meaning of the compiled policy depends only on the objects in the store; the numbers also depend on earlier contents.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import replace

from netpolq.addresses import AddressKey
from netpolq.enums import DenyWith, Enforcement
from netpolq.hold.ranges import PodRange, collapse
from netpolq.model import ClusterNetworkPolicy, NetworkPolicy, Pod, qualified_name
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.endpoint_policies import EndpointPolicies
from netpolq.policy.peer_classes import EXTERNAL, NO_KEY, NO_NAMES, PeerClass, PeerClasses, PeerClassKey
from netpolq.policy.peers import Selector
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.tier_policy import TierPolicy
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.ir import CompiledDelta, Identity
from netpolq.store import DirtySet, Store

_ADDRESSES_PER_STEP = 1000


class Compiler:
    """Compiles the changes of a store.

    `is_local`: the pods to compile programs for. `with_pod_names`: also give the pod name of each address, for the packet log.
    `known_ranges`: see `known`. `deny_with`, `enforcement`: what a denial does, and whether policies are enforced, where no annotation
    says. `renamed`: of the addresses in the last `take_changed`, those whose learned names alone changed, or that became known or
    unknown. No policy denies by a name, so none of that denies an established connection.

    `former`: by address, the selectors that match its former names. A rule that accepts by a name goes on to accept the established
    connections of an address that has lost the name.
    """

    def __init__(
        self,
        store: Store,
        *,
        is_local: Callable[[Pod], bool],
        with_pod_names: bool = False,
        known_ranges: tuple[PodRange, ...] = (),
        deny_with: DenyWith = DenyWith.DROP,
        enforcement: Enforcement = Enforcement.ENFORCE,
    ) -> None:
        self._store = store
        self._is_local = is_local
        self._with_pod_names = with_pod_names
        self._delta = DeltaWriter()
        self._uses = SelectorUses()
        self._peer_classes = PeerClasses(self._uses, self._delta)
        self._deny_with = deny_with
        self._enforcement = enforcement
        self._endpoints = EndpointPolicies(
            self._uses, self._delta, store.namespace_labels, lambda namespace: store.namespace_deny_with(namespace) or deny_with
        )
        self._enforcement_of: dict[str, Enforcement | None] = {}
        self._class_of: dict[AddressKey, PeerClass] = {}
        self._changed: set[AddressKey] = set()
        self._renamed: set[AddressKey] = set()
        self.renamed: frozenset[AddressKey] = frozenset()
        self.former: Mapping[AddressKey, frozenset[int]] = {}
        self._former_of_patterns = 0
        self._ranges = AddressRanges(collapse(known_ranges))
        self._of_other_ranges: set[AddressKey] = set()
        self._known: set[AddressKey] = set()
        self._known_taken: frozenset[AddressKey] | None = frozenset()

    def steps(self) -> Iterator[CompiledDelta]:
        """Compile all changes of the store in steps of some milliseconds. The store may change between steps.

        The caller applies each delta. After the last one the deltas describe a complete state of the store, which can be published
        before the next call. This takes the dirty set of the store, so a store can have only one compiler.
        """
        touched = self._store.take_dirty_set()
        touched.addresses |= self._of_other_ranges
        self._of_other_ranges = set()
        for _ in self._apply_changes(touched):
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
            touched.policies.update(self._with_other_enforcement(name))
            yield
        for done, address in enumerate(
            sorted(touched.addresses)
        ):  # so that numbers do not depend on the hash seed of the process
            self._move(address)
            if done % _ADDRESSES_PER_STEP == _ADDRESSES_PER_STEP - 1:
                yield
        for namespace, name in sorted(touched.policies):
            network_policy = self._store.policies.get((namespace, name))
            self._endpoints.put_policy(namespace, name, network_policy, is_audit=self._is_in_audit(network_policy))
        for name in sorted(touched.cluster_policies):
            policy = self._store.cluster_policies.get(name)
            if policy is not None and policy.deny_with is None:
                policy = replace(policy, deny_with=self._deny_with)
            self._endpoints.put_cluster_policy(name, policy, is_audit=self._is_in_audit(policy))
        yield from self._endpoints.compile()
        yield from self._peer_classes.update_identities()
        self._changed |= self._endpoints.write_endpoints()
        self._update_former(touched.addresses)

    def _is_in_audit(self, policy: NetworkPolicy | ClusterNetworkPolicy | None) -> bool:
        return policy is not None and self._store.is_in_audit(policy, self._enforcement)

    def _with_other_enforcement(self, namespace: str) -> list[tuple[str, str]]:
        """The policies of a namespace, if its annotation says something else than before."""
        found = self._store.namespaces.get(namespace)
        said = None if found is None else found.enforcement
        if self._enforcement_of.get(namespace) is said:
            return []
        self._enforcement_of[namespace] = said
        return [key for key in self._store.policies if key[0] == namespace]

    def _move(self, address: AddressKey) -> None:
        pod = self._store.owner(address)
        # A pod of another node that reports an address of a local pod, rightly or not, does not remove its isolation.
        local = self.local_pod(address)
        before = self._class_of.get(address)
        after = self._peer_class(address, pod, is_local=local is not None)
        if before is not after:
            if after is None:
                del self._class_of[address]
            else:
                self._class_of[address] = after
            if _identity(before) != _identity(after) and _without_names(before) != _without_names(after):
                self._changed.add(address)
            elif (_identity(before), _has_entry(before)) != (_identity(after), _has_entry(after)):
                self._renamed.add(address)
            self._note_known(address, is_known=after is not None and after.key.is_known)
            self._peer_classes.move(address, before, after)
        self._endpoints.move(address, local)
        if self._with_pod_names:
            self._delta.pod_names[address] = "" if pod is None else qualified_name(pod.namespace, pod.name)

    def _update_former(self, moved: Set[AddressKey]) -> None:
        former_names = self._store.former_names
        if self._former_of_patterns != self._uses.patterns_version:
            self._former_of_patterns = self._uses.patterns_version
            moved = self.former.keys() | former_names.keys()
        elif not (moved := {address for address in moved if address in former_names or address in self.former}):
            return
        former = dict(self.former)
        for address in moved:
            numbers = frozenset(number for _selector, number in self._uses.settled_for_names(former_names.get(address, ())))
            if numbers:
                former[address] = numbers
            else:
                former.pop(address, None)
        self.former = former

    def _peer_class(self, address: AddressKey, pod: Pod | None, *, is_local: bool) -> PeerClass | None:
        nodes = self._store.nodes_with_address(address)
        is_in_ranges = address in self._ranges
        if is_in_ranges and pod is None and not nodes:
            return None  # with a learned name alone it would pass for known, and rules about its pod would not see it
        names = self._store.names.get(address, NO_NAMES)
        return self._peer_classes.class_of(pod, nodes, names, is_known=is_local or is_in_ranges)

    def _note_known(self, address: AddressKey, *, is_known: bool) -> None:
        if is_known is not (address in self._known):
            (self._known.add if is_known else self._known.discard)(address)
            self._known_taken = None

    def set_known_ranges(self, ranges: tuple[PodRange, ...]) -> None:
        """Set `known_ranges`, in force after the next `steps`. The time grows with the number of addresses."""
        before, self._ranges = self._ranges, AddressRanges(collapse(ranges))
        self._of_other_ranges |= {
            address for address in self._store.everything().addresses if (address in before) is not (address in self._ranges)
        }

    def take_changed(self) -> frozenset[AddressKey]:
        """Return the addresses whose flows may have other decisions than at the last call, or are known since, or no longer."""
        changed = frozenset(self._changed | self._renamed)
        self.renamed = frozenset(self._renamed - self._changed)
        self._changed, self._renamed = set(), set()
        return changed

    @property
    def known(self) -> frozenset[AddressKey]:
        """The addresses of all local pods, and those in `known_ranges` that a pod or a node has. Each has an entry in the snapshot, even
        if no selector matches it.
        """
        if self._known_taken is None:
            self._known_taken = frozenset(self._known)
        return self._known_taken

    def local_pod(self, address: AddressKey) -> Pod | None:
        """The local pod that reports an address in the store, also if the address belongs to another pod; None without one."""
        return next(filter(self._is_local, self._store.pods_with_address(address)), None)

    def deciding_policies(self, address: AddressKey) -> tuple[tuple[TierPolicy, ...], ...]:
        """The policies in the programs of a local address, by direction (in the order of `Direction`), in the order of their evaluation."""
        return self._endpoints.deciding_policies(address)

    @property
    def asking(self) -> frozenset[AddressKey]:
        """The addresses of local pods that a policy with domain names for egress selects."""
        return self._endpoints.asking

    def matches_name(self, name: str) -> bool:
        """Whether a domain name in a policy of a local pod matches a name, given in the form of `netpolq.model.domain_name`."""
        return self._uses.matches_name(name)

    @property
    def patterns_version(self) -> int:
        """A number that rises whenever a domain name of a policy comes into use or goes out of use."""
        return self._uses.patterns_version

    @property
    def isolated(self) -> tuple[frozenset[AddressKey], ...]:
        """The local addresses that some enforced policy selects, by direction (in the order of `Direction`)."""
        return self._endpoints.isolated

    @property
    def audited(self) -> tuple[frozenset[AddressKey], ...]:
        """The local addresses that some policy in audit selects, by direction (in the order of `Direction`)."""
        return self._endpoints.audited

    def policies_with_audit(self, address: AddressKey) -> tuple[tuple[TierPolicy, ...], ...]:
        """Those of `deciding_policies` and the policies in audit, by direction; empty where none in audit selects the address."""
        return self._endpoints.policies_with_audit(address)

    @property
    def local(self) -> frozenset[AddressKey]:
        """The addresses of all local pods."""
        return self._endpoints.local

    @property
    def selectors(self) -> dict[int, Selector]:
        """The selectors in use by number."""
        return self._uses.selectors


def _identity(peer_class: PeerClass | None) -> Identity:
    return EXTERNAL if peer_class is None else peer_class.identity


def _has_entry(peer_class: PeerClass | None) -> bool:
    return peer_class is not None and peer_class.number != 0


def _without_names(peer_class: PeerClass | None) -> PeerClassKey:
    return NO_KEY if peer_class is None else peer_class.key._replace(names=NO_NAMES, is_known=False)


def _node_addresses(store: Store) -> dict[AddressKey, tuple[AddressKey, ...]]:
    of_node = store.addresses_of_nodes()
    return {
        AddressKey(address): tuple(map(AddressKey, sorted({*pod.host_ips, *of_node.get(pod.node_name, ())})))
        for address, pod in store.address_owners().items()
        if pod.host_ips or of_node.get(pod.node_name)
    }
