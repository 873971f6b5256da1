"""Peer classes: equivalence classes of addresses of pods and nodes, and the selectors in use that match each.

A peer class is the namespace, labels and named ports of a pod, and the labels of the nodes that have the address. It has a pod, or nodes,
and in an odd cluster both. A selector is evaluated once for each peer class that it may match, never for each address, and only when the
selector comes into use or the peer class is created. All addresses of a peer class have one identity.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.model import NAMESPACE_NAME_LABEL, Labels, LabelSelector, NamedPort, Node, Pod
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.peers import NodeSelector, PeerSelector, Selector
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.selectors import matches
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Identity

EXTERNAL = Identity((), ())
"""The identity of an address of no pod and no node: no selector matches it, and it has no named port. It needs no entry."""

_CLASSES_PER_STEP = 2000
_ADDRESSES_PER_STEP = 2000


class PeerClassKey(NamedTuple):
    """What tells peer classes apart. `namespace`: of the pod, empty if there is none. `nodes`: the labels of the nodes."""

    namespace: str
    labels: Labels
    named_ports: tuple[NamedPort, ...]
    nodes: frozenset[Labels]


class PeerClass:
    """Addresses that no selector tells apart. `members`: the addresses; `number`: of the identity, 0: it has none."""

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
        self._in_namespace: dict[str, set[PeerClass]] = {}
        self._with_port_name: dict[str, set[PeerClass]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._scopes: dict[str, dict[int, LabelSelector]] = {}
        self._numbers = IdAllocator(first=1)

    def update_identities(self) -> Iterator[None]:
        """Recompute the identities of all peer classes from the selectors and port names in use. Yields every few milliseconds."""
        uses = self._uses
        fresh, gone = uses.take_pending()
        changed: dict[PeerClass, set[int]] = {}
        seen = 0
        for selector, number in (*gone, *fresh):
            is_fresh = uses.has(selector)
            for peer_class in self._in_scope(selector, number, joins=is_fresh):
                seen += 1
                if _is_matched(selector, peer_class.key):
                    present = changed.get(peer_class)
                    if present is None:
                        present = changed[peer_class] = set(peer_class.identity.selectors)
                    (present.add if is_fresh else present.discard)(number)
                if seen % _CLASSES_PER_STEP == 0:
                    yield
        for _selector, number in gone:
            uses.free(number)
        for name in uses.take_pending_port_names():
            for peer_class in self._with_port_name.get(name, ()):
                changed.setdefault(peer_class, set(peer_class.identity.selectors))
        written = 0
        for peer_class, numbers in changed.items():
            written += self._set_identity(peer_class, Identity(tuple(sorted(numbers)), self._ports(peer_class)))
            if written > _ADDRESSES_PER_STEP:
                written = 0
                yield

    def _in_scope(self, selector: Selector, number: int, *, joins: bool) -> Iterator[PeerClass]:
        """Yield the peer classes that a selector may match. Adds it to the scopes of their namespaces, or removes it from them."""
        if isinstance(selector, NodeSelector):
            yield from tuple(self._with_nodes)
            return
        for namespace in (selector.namespace,) if selector.namespace else tuple(self._scopes):
            scope = self._scopes.get(namespace)
            if scope is None:
                continue
            if joins:
                if not self._is_about(selector, namespace):
                    continue
                scope[number] = selector.pod_selector
            elif scope.pop(number, None) is None:
                continue
            yield from tuple(self._in_namespace[namespace])

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

    def class_of(self, pod: Pod | None, nodes: tuple[Node, ...]) -> PeerClass | None:
        """Return the peer class of an address that a pod and nodes have; None if neither does. Creates it for the first address."""
        if pod is None and not nodes:
            return None
        key = PeerClassKey(
            "" if pod is None else pod.namespace,
            Labels() if pod is None else Labels.of(pod.labels),
            () if pod is None else pod.named_ports,
            frozenset(Labels.of(node.labels) for node in nodes),
        )
        peer_class = self._peer_classes.get(key)
        if peer_class is None:
            peer_class = self._peer_classes[key] = PeerClass(key)
            if nodes:
                self._with_nodes[peer_class] = None
            if key.namespace:
                if key.namespace not in self._scopes:
                    self._scopes[key.namespace] = self._scope(key.namespace)
                self._in_namespace.setdefault(key.namespace, set()).add(peer_class)
            for name in {port.name for port in key.named_ports}:
                self._with_port_name.setdefault(name, set()).add(peer_class)
            self._set_identity(peer_class, self._identify(peer_class))
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
        if namespace:
            self._in_namespace[namespace].discard(peer_class)
            if not self._in_namespace[namespace]:
                del self._in_namespace[namespace], self._scopes[namespace]
        for name in {port.name for port in peer_class.key.named_ports}:
            self._with_port_name[name].discard(peer_class)
            if not self._with_port_name[name]:
                del self._with_port_name[name]
        self._set_identity(peer_class, EXTERNAL)

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
        labels = self._labels.get(namespace)
        return matches(selector.namespace_selector, {NAMESPACE_NAME_LABEL: namespace} if labels is None else labels)

    def _identify(self, peer_class: PeerClass) -> Identity:
        key = peer_class.key
        scope = self._scopes[key.namespace] if key.namespace else {}
        found = [number for number, selector in scope.items() if matches(selector, key.labels)]
        if key.nodes:
            found += (number for selector, number in self._uses.settled_for_nodes() if _is_matched(selector, key))
        return Identity(tuple(sorted(found)), self._ports(peer_class))

    def _ports(self, peer_class: PeerClass) -> tuple[NamedPort, ...]:
        return tuple(sorted({port for port in peer_class.key.named_ports if self._uses.has_port_name(port.name)}))

    def _set_identity(self, peer_class: PeerClass, identity: Identity) -> int:
        """Write the identity of a peer class. Returns the number of values written."""
        peer_class.identity = identity
        if identity == EXTERNAL:
            if not peer_class.number:
                return 0
            self._delta.identities[peer_class.number] = None
            self._numbers.free(peer_class.number)
            peer_class.number = 0
            return self._point(peer_class)
        is_new = not peer_class.number
        if is_new:
            peer_class.number = self._numbers.allocate()
        self._delta.identities[peer_class.number] = identity
        return self._point(peer_class) if is_new else 1

    def _point(self, peer_class: PeerClass) -> int:
        for address in peer_class.members:
            self._delta.addresses[address] = peer_class.number
        return len(peer_class.members)


def _is_matched(selector: Selector, key: PeerClassKey) -> bool:
    """Whether a selector matches a peer class of a namespace that it covers."""
    match selector:
        case NodeSelector(node_selector):
            return any(matches(node_selector, labels) for labels in key.nodes)
        case PeerSelector():
            return matches(selector.pod_selector, key.labels)
