"""Peer classes: equivalence classes of pods, and the peer selectors in use that match each.

A peer class is a namespace, labels and named ports. A selector is evaluated once for each peer class that it may match, never for each
pod, and only when the selector comes into use or the peer class is created. All pods of a peer class have one identity.
"""

from collections.abc import Iterator, Mapping

from netpolq.addresses import AddressKey
from netpolq.model import NAMESPACE_NAME_LABEL, Labels, LabelSelector, NamedPort, Pod
from netpolq.policy.delta_writer import DeltaWriter
from netpolq.policy.peers import PeerSelector
from netpolq.policy.selector_uses import SelectorUses
from netpolq.policy.selectors import matches
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Identity

EXTERNAL = Identity((), ())
"""The identity of an address that belongs to no pod: no selector matches it and it has no named port. Such an address needs no entry."""

_CLASSES_PER_STEP = 2000
_ADDRESSES_PER_STEP = 2000


class PeerClass:
    """Pods of one namespace with equal labels and named ports. `members`: their addresses; `number`: of the identity, 0: it has none."""

    __slots__ = ("identity", "labels", "members", "named_ports", "namespace", "number")

    def __init__(self, namespace: str, labels: Labels, named_ports: tuple[NamedPort, ...]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.named_ports = named_ports
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
        self._peer_classes: dict[tuple[str, Labels, tuple[NamedPort, ...]], PeerClass] = {}
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
                if matches(selector.pod_selector, peer_class.labels):
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

    def _in_scope(self, selector: PeerSelector, number: int, *, joins: bool) -> Iterator[PeerClass]:
        """Yield the peer classes of the namespaces that a selector covers. Adds it to their scopes, or removes it from them."""
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

    def class_of(self, pod: Pod) -> PeerClass:
        """Return the peer class of a pod. Creates it for the first pod."""
        labels = Labels.of(pod.labels)
        key = pod.namespace, labels, pod.named_ports
        peer_class = self._peer_classes.get(key)
        if peer_class is None:
            peer_class = self._peer_classes[key] = PeerClass(*key)
            if pod.namespace not in self._scopes:
                self._scopes[pod.namespace] = self._scope(pod.namespace)
            self._in_namespace.setdefault(pod.namespace, set()).add(peer_class)
            for name in {port.name for port in pod.named_ports}:
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
        del self._peer_classes[peer_class.namespace, peer_class.labels, peer_class.named_ports]
        self._in_namespace[peer_class.namespace].discard(peer_class)
        if not self._in_namespace[peer_class.namespace]:
            del self._in_namespace[peer_class.namespace], self._scopes[peer_class.namespace]
        for name in {port.name for port in peer_class.named_ports}:
            self._with_port_name[name].discard(peer_class)
            if not self._with_port_name[name]:
                del self._with_port_name[name]
        self._set_identity(peer_class, EXTERNAL)

    # --- identities ---------------------------------------------------------------------------------------------------------------

    def _scope(self, namespace: str) -> dict[int, LabelSelector]:
        return {number: selector.pod_selector for selector, number in self._uses.settled() if self._is_about(selector, namespace)}

    def _is_about(self, selector: PeerSelector, namespace: str) -> bool:
        if selector.namespace:
            return selector.namespace == namespace
        labels = self._labels.get(namespace)
        return matches(selector.namespace_selector, {NAMESPACE_NAME_LABEL: namespace} if labels is None else labels)

    def _identify(self, peer_class: PeerClass) -> Identity:
        scope = self._scopes[peer_class.namespace]
        return Identity(
            tuple(sorted(number for number, selector in scope.items() if matches(selector, peer_class.labels))),
            self._ports(peer_class),
        )

    def _ports(self, peer_class: PeerClass) -> tuple[NamedPort, ...]:
        return tuple(sorted({port for port in peer_class.named_ports if self._uses.has_port_name(port.name)}))

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
