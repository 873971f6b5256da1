"""Peer classes: equivalence classes of pods, and the peer selectors in use that match each.

A peer class is a namespace, labels and named ports. A selector is evaluated once for each peer class that it may match, never for each
pod, and only when the selector comes into use or the peer class is created. The snapshot stores one identity for each peer class.
"""

from collections.abc import Iterator, Mapping

from netpolq.addresses import AddressKey
from netpolq.model import NAMESPACE_NAME_LABEL, Labels, LabelSelector, NamedPort, Pod
from netpolq.policy.program_compiler import PeerSelector
from netpolq.policy.selectors import matches
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.ir import Identity

EXTERNAL = Identity((), ())
"""The identity of an address that belongs to no pod: no selector matches it and it has no named port. Such an address needs no entry."""

_CLASSES_PER_STEP = 2000
_ADDRESSES_PER_STEP = 2000


class PeerClass:
    """Pods of one namespace with equal labels and named ports. `members`: their addresses; `number`: identity id, 0 if it has none."""

    __slots__ = ("identity", "labels", "members", "named_ports", "namespace", "number")

    def __init__(self, namespace: str, labels: Labels, named_ports: tuple[NamedPort, ...]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.named_ports = named_ports
        self.members: set[AddressKey] = set()
        self.identity = EXTERNAL
        self.number = 0


class _Use:
    """A peer selector or port name in use: its number of references and its id."""

    __slots__ = ("count", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0


class PeerClasses:
    """All peer classes, and the selectors and port names in use. Writes the identities and addresses of a builder.

    `acquire` and `release` take effect with `update_identities`. Until then the ids of released selectors are not reused.
    """

    def __init__(self, builder: SnapshotBuilder) -> None:
        self._builder = builder
        self._peer_classes: dict[tuple[str, Labels, tuple[NamedPort, ...]], PeerClass] = {}
        self._in_namespace: dict[str, set[PeerClass]] = {}
        self._with_port_name: dict[str, set[PeerClass]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._scopes: dict[str, dict[int, LabelSelector]] = {}
        self._selectors: dict[PeerSelector, _Use] = {}
        self._port_names: dict[str, _Use] = {}
        self._selector_ids = IdAllocator()
        self._pending: dict[PeerSelector, bool] = {}
        self._pending_names: dict[str, bool] = {}

    @property
    def selectors(self) -> dict[int, PeerSelector]:
        """The selectors in use by id."""
        return {use.number: selector for selector, use in self._selectors.items()}

    # --- selectors and names in use -----------------------------------------------------------------------------------------------

    def acquire(self, selector: PeerSelector) -> int:
        """Add a reference to a selector. Returns its id."""
        use = self._selectors.get(selector)
        if use is None:
            use = self._selectors[selector] = _Use(self._selector_ids.allocate())
            self._pending[selector] = True
        use.count += 1
        return use.number

    def release(self, selector: PeerSelector) -> None:
        """Remove a reference to a selector."""
        use = self._selectors[selector]
        use.count -= 1
        if not use.count:
            self._pending.setdefault(selector, False)

    def number(self, selector: PeerSelector) -> int:
        """Return the id of a selector in use."""
        return self._selectors[selector].number

    def acquire_port_name(self, name: str) -> None:
        """Add a reference to a port name."""
        use = self._port_names.get(name)
        if use is None:
            use = self._port_names[name] = _Use(self._builder.strings.acquire(name))
            self._pending_names[name] = True
        use.count += 1

    def release_port_name(self, name: str) -> None:
        """Remove a reference to a port name."""
        use = self._port_names[name]
        use.count -= 1
        if not use.count:
            self._pending_names.setdefault(name, False)

    def update_identities(self) -> Iterator[None]:
        """Recompute the identities of all peer classes from the selectors and port names in use. Yields every few milliseconds."""
        fresh, gone = self._take_pending()
        changed: dict[PeerClass, set[int]] = {}
        seen = 0
        for selector, number in (*gone, *fresh):
            is_fresh = selector in self._selectors
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
            self._selector_ids.free(number)
        for name in self._take_pending_names():
            for peer_class in self._with_port_name.get(name, ()):
                changed.setdefault(peer_class, set(peer_class.identity.selectors))
        written = 0
        self._builder.addresses.reserve(sum(len(peer_class.members) for peer_class in changed if not peer_class.number))
        for peer_class, numbers in changed.items():
            written += self._set_identity(peer_class, Identity(tuple(sorted(numbers)), self._ports(peer_class)))
            if written > _ADDRESSES_PER_STEP:
                written = 0
                yield

    def _take_pending(self) -> tuple[list[tuple[PeerSelector, int]], list[tuple[PeerSelector, int]]]:
        """Return the selectors that came into use and those that went out of use. Removes the latter."""
        fresh, gone = [], []
        for selector, is_fresh in self._pending.items():
            use = self._selectors[selector]
            if use.count and is_fresh:
                fresh.append((selector, use.number))
            elif not use.count:
                del self._selectors[selector]
                if is_fresh:
                    self._selector_ids.free(use.number)
                else:
                    gone.append((selector, use.number))
        self._pending = {}
        return fresh, gone

    def _take_pending_names(self) -> list[str]:
        names = [name for name, is_fresh in self._pending_names.items() if bool(self._port_names[name].count) is is_fresh]
        for name in self._pending_names:
            if not self._port_names[name].count:
                del self._port_names[name]
                self._builder.strings.release(name)
        self._pending_names = {}
        return names

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
        self._builder.addresses.set(address, 0 if after is None else after.number)
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
        active = ((selector, use) for selector, use in self._selectors.items() if not self._pending.get(selector))
        return {use.number: selector.pod_selector for selector, use in active if self._is_about(selector, namespace)}

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
        return tuple(sorted({port for port in peer_class.named_ports if port.name in self._port_names}))

    def _set_identity(self, peer_class: PeerClass, identity: Identity) -> int:
        """Write the identity of a peer class. Returns the number of cells written."""
        peer_class.identity = identity
        builder = self._builder
        if identity == EXTERNAL:
            if peer_class.number:
                builder.identities.discard(peer_class.number)
                peer_class.number = 0
                return self._point(peer_class)
            return 0
        if peer_class.number:
            builder.identities.change(peer_class.number, identity)
            return 1
        peer_class.number = builder.identities.add(identity)
        return self._point(peer_class)

    def _point(self, peer_class: PeerClass) -> int:
        for address in peer_class.members:
            self._builder.addresses.set(address, peer_class.number)
        return len(peer_class.members)
