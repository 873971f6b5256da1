"""Peer classes: equivalence classes of addresses, and the selectors in use that match each.

A peer class is the namespace, labels and named ports of a pod, the labels of the nodes that have the address, and its learned names.
Most addresses have one of the three. A selector is evaluated when it comes into use or the peer class is created: once for each peer
class that it may match, or for several whose labels it does not tell apart, and never for each address. All addresses of a peer class
have one identity.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.model import NAMESPACE_NAME_LABEL, Labels, LabelSelector, NamedPort, Node, Pod
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.domain_names import patterns_of
from netpolq.policy.identity_update import Identities, Matches
from netpolq.policy.peers import DomainSelector, NodeSelector, PeerSelector, Selector
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.selectors import matches
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Identity

EXTERNAL = Identity((), ())
"""The identity of an address that no selector matches, and that has no named port. It needs an entry only if the address is known."""

NO_NAMES: frozenset[str] = frozenset()

_WORK_PER_STEP = 5000
"""Selectors compared with a namespace or a peer class, and values written, between two pauses: some milliseconds."""


class PeerClassKey(NamedTuple):
    """What tells peer classes apart. `namespace`: of the pod, empty if there is none. `nodes`: the labels of the nodes. `names`: learned.

    `is_known`: whether its addresses have an entry even if no selector matches them; see `Compiler.known`.
    """

    namespace: str
    labels: Labels
    named_ports: tuple[NamedPort, ...]
    nodes: frozenset[Labels]
    names: frozenset[str] = NO_NAMES
    is_known: bool = False


NO_KEY = PeerClassKey("", Labels(), (), frozenset())
"""The key of an address that nothing has."""


class PeerClass:
    """Addresses that no selector tells apart. `members`: the addresses; `number`: of the entry of their identity, 0: they have none."""

    __slots__ = ("identity", "key", "members", "number")

    def __init__(self, key: PeerClassKey) -> None:
        self.key = key
        self.members: set[AddressKey] = set()
        self.identity = EXTERNAL
        self.number = 0


class PeerClasses:
    """All peer classes. Writes identities and addresses. `uses`: the selectors and port names in use.

    A change of `uses` takes effect with `update_identities`.
    """

    def __init__(self, uses: SelectorUses, delta: DeltaWriter) -> None:
        self._uses = uses
        self._delta = delta
        self._peer_classes: dict[PeerClassKey, PeerClass] = {}
        self._with_nodes: dict[PeerClass, None] = {}
        self._with_names: dict[PeerClass, None] = {}
        self._in_namespace: dict[str, set[PeerClass]] = {}
        self._with_port_name: dict[str, set[PeerClass]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._scopes: dict[str, dict[int, LabelSelector]] = {}
        self._numbers = IdAllocator(first=1)

    def update_identities(self) -> Iterator[None]:
        """Recompute the identities of all peer classes from the selectors and port names in use. Yields every few milliseconds."""
        done = 0
        for step in chain(self._update_selectors(), self._update_ports()):
            done += step
            if done > _WORK_PER_STEP:
                done = 0
                yield

    def _update_selectors(self) -> Iterator[int]:
        """Put selectors that came into use into identities, and remove those that went out of use. Yields the work of each step."""
        fresh, gone = self._uses.take_pending()
        if not fresh and not gone:
            return
        peers = {number: selector for selector, number in fresh if isinstance(selector, PeerSelector)}
        of_all = Matches({number: selector.namespace_selector for number, selector in peers.items() if not selector.namespace})
        matches_of: dict[tuple[int, ...], Matches] = {}
        identities = Identities(gone=frozenset(number for _selector, number in gone))
        for namespace in self._namespaces_of(selector for selector, _number in (*fresh, *gone)):
            scope = self._scopes[namespace]
            leaving = [number for _selector, number in gone if scope.pop(number, None) is not None]
            own = (number for number, selector in peers.items() if selector.namespace == namespace)
            joining = (*of_all.of(self._labels_of(namespace)), *own)
            matching = matches_of.get(joining)
            if matching is None:
                matching = matches_of[joining] = Matches({number: peers[number].pod_selector for number in joining})
            scope.update(matching.selectors)
            yield 1 + len(gone)
            if joining or leaving:
                for peer_class in self._in_namespace[namespace]:
                    found = matching.of(peer_class.key.labels)
                    work = 1
                    if found or leaving:
                        work += self._set_identity(peer_class, identities[peer_class.identity, found])
                    yield work
        of_nodes = [(selector, number) for selector, number in fresh if isinstance(selector, NodeSelector)]
        if of_nodes or any(isinstance(selector, NodeSelector) for selector, _number in gone):
            for peer_class in self._with_nodes:
                found = tuple(number for selector, number in of_nodes if _selects_a_node(selector, peer_class.key))
                yield 1 + len(of_nodes) + self._set_identity(peer_class, identities[peer_class.identity, found])
        of_names = {selector: number for selector, number in fresh if isinstance(selector, DomainSelector)}
        if of_names or any(isinstance(selector, DomainSelector) for selector, _number in gone):
            for peer_class in self._with_names:
                matching_names = (DomainSelector(pattern) for name in peer_class.key.names for pattern in patterns_of(name))
                found = tuple(sorted({of_names[selector] for selector in matching_names if selector in of_names}))
                yield 1 + len(peer_class.key.names) + self._set_identity(peer_class, identities[peer_class.identity, found])
        for _selector, number in gone:
            self._uses.free(number)

    def _namespaces_of(self, selectors: Iterable[Selector]) -> Collection[str]:
        """The namespaces with peer classes that selectors may match."""
        names = {selector.namespace for selector in selectors if isinstance(selector, PeerSelector)}
        return self._scopes if "" in names else self._scopes.keys() & names

    def _update_ports(self) -> Iterator[int]:
        """Put port names that came into use into identities, and remove those that went out of use. Yields the work of each step."""
        for name in self._uses.take_pending_port_names():
            for peer_class in self._with_port_name.get(name, ()):
                yield 1 + self._set_identity(peer_class, Identity(peer_class.identity.selectors, self._ports(peer_class)))

    # --- namespaces and pods ------------------------------------------------------------------------------------------------------

    def label(self, namespace: str, labels: Mapping[str, str]) -> set[AddressKey]:
        """Set the labels of a namespace. Returns the addresses whose identity changed."""
        if labels == {NAMESPACE_NAME_LABEL: namespace}:
            self._labels.pop(namespace, None)  # as if it had never been declared
        else:
            self._labels[namespace] = labels
        if namespace not in self._scopes:
            return set()
        self._scopes[namespace] = self._scope(namespace)
        changed: set[AddressKey] = set()
        for peer_class in self._in_namespace[namespace]:
            identity = self._identify(peer_class)
            if identity != peer_class.identity:
                self._set_identity(peer_class, identity)
                changed |= peer_class.members
        return changed

    def class_of(
        self, pod: Pod | None, nodes: tuple[Node, ...], names: frozenset[str] = NO_NAMES, *, is_known: bool = False
    ) -> PeerClass | None:
        """Return the peer class of an address, by the pod and nodes that have it and its learned names; None if it has none of these.
        Creates it for the first address.
        """
        if pod is None and not nodes and not names:
            return None
        key = PeerClassKey(
            "" if pod is None else pod.namespace,
            Labels() if pod is None else Labels.of(pod.labels),
            () if pod is None else pod.named_ports,
            frozenset(Labels.of(node.labels) for node in nodes),
            names,
            is_known,
        )
        peer_class = self._peer_classes.get(key)
        if peer_class is None:
            peer_class = self._peer_classes[key] = PeerClass(key)
            if nodes:
                self._with_nodes[peer_class] = None
            if names:
                self._with_names[peer_class] = None
            if key.namespace:
                if key.namespace not in self._scopes:
                    self._scopes[key.namespace] = self._scope(key.namespace)
                self._in_namespace.setdefault(key.namespace, set()).add(peer_class)
            for name in {port.name for port in key.named_ports}:
                self._with_port_name.setdefault(name, set()).add(peer_class)
            peer_class.identity = self._identify(peer_class)
            self._write(peer_class)
        return peer_class

    def move(self, address: AddressKey, before: PeerClass | None, after: PeerClass | None) -> None:
        """Move an address to another peer class, or to none."""
        if before is not None:
            before.members.discard(address)
        if after is not None:
            after.members.add(address)
        self._delta.addresses[address] = 0 if after is None else after.number
        if before is not None and not before.members:
            self._forget(before)

    def _forget(self, peer_class: PeerClass) -> None:
        namespace = peer_class.key.namespace
        del self._peer_classes[peer_class.key]
        self._with_nodes.pop(peer_class, None)
        self._with_names.pop(peer_class, None)
        if namespace:
            self._in_namespace[namespace].discard(peer_class)
            if not self._in_namespace[namespace]:
                del self._in_namespace[namespace], self._scopes[namespace]
        for name in {port.name for port in peer_class.key.named_ports}:
            self._with_port_name[name].discard(peer_class)
            if not self._with_port_name[name]:
                del self._with_port_name[name]
        self._release(peer_class)

    # --- identities ---------------------------------------------------------------------------------------------------------------

    def _scope(self, namespace: str) -> dict[int, LabelSelector]:
        return {
            number: selector.pod_selector
            for selector, number in self._uses.settled()
            if isinstance(selector, PeerSelector) and self._is_about(selector, namespace)
        }

    def _is_about(self, selector: PeerSelector, namespace: str) -> bool:
        if selector.namespace:
            return selector.namespace == namespace
        return matches(selector.namespace_selector, self._labels_of(namespace))

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        labels = self._labels.get(namespace)
        return {NAMESPACE_NAME_LABEL: namespace} if labels is None else labels

    def _identify(self, peer_class: PeerClass) -> Identity:
        key = peer_class.key
        scope = self._scopes[key.namespace] if key.namespace else {}
        found = [number for number, selector in scope.items() if matches(selector, key.labels)]
        if key.nodes:
            found += (number for selector, number in self._uses.settled_for_nodes() if _selects_a_node(selector, key))
        if key.names:
            found += (number for _selector, number in self._uses.settled_for_names(key.names))
        return Identity(tuple(sorted(found)), self._ports(peer_class))

    def _ports(self, peer_class: PeerClass) -> tuple[NamedPort, ...]:
        return tuple(sorted({port for port in peer_class.key.named_ports if self._uses.has_port_name(port.name)}))

    def _set_identity(self, peer_class: PeerClass, identity: Identity) -> int:
        """Set the identity of a peer class. Returns the number of values written."""
        if identity == peer_class.identity:
            return 0
        peer_class.identity = identity
        return self._write(peer_class)

    def _write(self, peer_class: PeerClass) -> int:
        if peer_class.identity == EXTERNAL and not peer_class.key.is_known:
            return self._release(peer_class)
        is_new = not peer_class.number
        if is_new:
            peer_class.number = self._numbers.allocate()
        self._delta.identities[peer_class.number] = peer_class.identity
        return self._point(peer_class) if is_new else 1

    def _release(self, peer_class: PeerClass) -> int:
        if not peer_class.number:
            return 0
        self._delta.identities[peer_class.number] = None
        self._numbers.free(peer_class.number)
        peer_class.number = 0
        return self._point(peer_class)

    def _point(self, peer_class: PeerClass) -> int:
        for address in peer_class.members:
            self._delta.addresses[address] = peer_class.number
        return len(peer_class.members)


def _selects_a_node(selector: NodeSelector, key: PeerClassKey) -> bool:
    return any(matches(selector.node_selector, labels) for labels in key.nodes)
