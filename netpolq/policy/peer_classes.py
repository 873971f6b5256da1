"""Pods that nothing can tell apart, and which peer selectors in use match them.

A group is a namespace, labels and named ports. Selectors are evaluated once for each group they may match, never for each pod, and only
when a selector comes into use or a group comes up. What a group's pods are to peers is its identity in the snapshot.
"""

from collections.abc import Iterator, Mapping

from netpolq.addresses import AddressKey
from netpolq.model import NAMESPACE_NAME_LABEL, Labels, LabelSelector, NamedPort, Pod
from netpolq.policy.program_compiler import PeerSelector
from netpolq.policy.selectors import matches
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import Identity

NOBODY = Identity((), ())
"""What an outsider is: no selector matches, no port has a name. Its addresses need no entry."""

_GROUPS_A_STEP = 2000
_ADDRESSES_A_STEP = 2000


class PeerClass:
    """Pods of one namespace with equal labels and named ports, by the addresses they own. `number`: of its identity, 0: none."""

    __slots__ = ("identity", "labels", "members", "named_ports", "namespace", "number")

    def __init__(self, namespace: str, labels: Labels, named_ports: tuple[NamedPort, ...]) -> None:
        self.namespace = namespace
        self.labels = labels
        self.named_ports = named_ports
        self.members: set[AddressKey] = set()
        self.identity = NOBODY
        self.number = 0


class _Use:
    """A peer selector or port name in use: how often, and its number."""

    __slots__ = ("count", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0


class PeerClasses:
    """All groups, and the selectors and port names in use. Writes identities and addresses of a builder.

    What is acquired and released takes effect with `settle`; until then numbers of what was released are not given out again.
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
        self._selector_count = 0
        self._free_numbers: list[int] = []
        self._unsettled: dict[PeerSelector, bool] = {}
        self._unsettled_names: dict[str, bool] = {}

    @property
    def selectors(self) -> dict[int, PeerSelector]:
        """What the numbers of selectors stand for."""
        return {use.number: selector for selector, use in self._selectors.items()}

    # --- selectors and names in use -----------------------------------------------------------------------------------------------

    def acquire(self, selector: PeerSelector) -> int:
        """Use a selector once more. Returns its number."""
        use = self._selectors.get(selector)
        if use is None:
            if self._free_numbers:
                number = self._free_numbers.pop()
            else:
                number = self._selector_count
                self._selector_count += 1
            use = self._selectors[selector] = _Use(number)
            self._unsettled[selector] = True
        use.count += 1
        return use.number

    def release(self, selector: PeerSelector) -> None:
        """Use a selector once less."""
        use = self._selectors[selector]
        use.count -= 1
        if not use.count:
            self._unsettled.setdefault(selector, False)

    def number(self, selector: PeerSelector) -> int:
        """The number of a selector in use."""
        return self._selectors[selector].number

    def acquire_port_name(self, name: str) -> None:
        """Use a port name once more."""
        use = self._port_names.get(name)
        if use is None:
            use = self._port_names[name] = _Use(self._builder.strings.acquire(name))
            self._unsettled_names[name] = True
        use.count += 1

    def release_port_name(self, name: str) -> None:
        """Use a port name once less."""
        use = self._port_names[name]
        use.count -= 1
        if not use.count:
            self._unsettled_names.setdefault(name, False)

    def settle(self) -> Iterator[None]:
        """Let the identities of all groups be what the selectors and names in use make of them. Pauses at times."""
        fresh, gone = self._take_unsettled()
        changed: dict[PeerClass, set[int]] = {}
        seen = 0
        for selector, number in (*gone, *fresh):
            is_fresh = selector in self._selectors
            for group in self._in_scope(selector, number, joins=is_fresh):
                seen += 1
                if matches(selector.pod_selector, group.labels):
                    present = changed.get(group)
                    if present is None:
                        present = changed[group] = set(group.identity.selectors)
                    (present.add if is_fresh else present.discard)(number)
                if seen % _GROUPS_A_STEP == 0:
                    yield
        self._free_numbers += (number for _selector, number in gone)
        for name in self._take_unsettled_names():
            for group in self._with_port_name.get(name, ()):
                changed.setdefault(group, set(group.identity.selectors))
        written = 0
        self._builder.addresses.reserve(sum(len(group.members) for group in changed if not group.number))
        for group, numbers in changed.items():
            written += self._set_identity(group, Identity(tuple(sorted(numbers)), self._ports(group)))
            if written > _ADDRESSES_A_STEP:
                written = 0
                yield

    def _take_unsettled(self) -> tuple[list[tuple[PeerSelector, int]], list[tuple[PeerSelector, int]]]:
        """The selectors that came into use, and those that nobody uses any more; the latter are forgotten."""
        fresh, gone = [], []
        for selector, is_fresh in self._unsettled.items():
            use = self._selectors[selector]
            if use.count and is_fresh:
                fresh.append((selector, use.number))
            elif not use.count:
                del self._selectors[selector]
                if is_fresh:
                    self._free_numbers.append(use.number)
                else:
                    gone.append((selector, use.number))
        self._unsettled = {}
        return fresh, gone

    def _take_unsettled_names(self) -> list[str]:
        names = [name for name, is_fresh in self._unsettled_names.items() if bool(self._port_names[name].count) is is_fresh]
        for name in self._unsettled_names:
            if not self._port_names[name].count:
                del self._port_names[name]
                self._builder.strings.release(name)
        self._unsettled_names = {}
        return names

    def _in_scope(self, selector: PeerSelector, number: int, *, joins: bool) -> Iterator[PeerClass]:
        """The groups of the namespaces that a selector is about, which joins or leaves their scopes."""
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
        """Let a namespace have other labels. Returns the addresses whose identity changed."""
        if labels == {NAMESPACE_NAME_LABEL: namespace}:
            self._labels.pop(namespace, None)  # as if it had never been declared
        else:
            self._labels[namespace] = labels
        if namespace not in self._scopes:
            return set()
        self._scopes[namespace] = self._scope(namespace)
        changed: set[AddressKey] = set()
        for group in self._in_namespace[namespace]:
            identity = self._identify(group)
            if identity != group.identity:
                self._set_identity(group, identity)
                changed |= group.members
        return changed

    def group_of(self, pod: Pod) -> PeerClass:
        """The group of a pod, which comes up if it is the first one of its kind."""
        labels = Labels.of(pod.labels)
        key = pod.namespace, labels, pod.named_ports
        group = self._peer_classes.get(key)
        if group is None:
            group = self._peer_classes[key] = PeerClass(*key)
            if pod.namespace not in self._scopes:
                self._scopes[pod.namespace] = self._scope(pod.namespace)
            self._in_namespace.setdefault(pod.namespace, set()).add(group)
            for name in {port.name for port in pod.named_ports}:
                self._with_port_name.setdefault(name, set()).add(group)
            self._set_identity(group, self._identify(group))
        return group

    def move(self, address: AddressKey, before: PeerClass | None, after: PeerClass | None) -> None:
        """Let an address belong to a pod of another group, or to none."""
        if before is not None:
            before.members.discard(address)
        if after is not None:
            after.members.add(address)
        self._builder.addresses.set(address, 0 if after is None else after.number)
        if before is not None and not before.members:
            self._forget(before)

    def _forget(self, group: PeerClass) -> None:
        del self._peer_classes[group.namespace, group.labels, group.named_ports]
        self._in_namespace[group.namespace].discard(group)
        if not self._in_namespace[group.namespace]:
            del self._in_namespace[group.namespace], self._scopes[group.namespace]
        for name in {port.name for port in group.named_ports}:
            self._with_port_name[name].discard(group)
            if not self._with_port_name[name]:
                del self._with_port_name[name]
        self._set_identity(group, NOBODY)

    # --- identities ---------------------------------------------------------------------------------------------------------------

    def _scope(self, namespace: str) -> dict[int, LabelSelector]:
        settled = ((selector, use) for selector, use in self._selectors.items() if not self._unsettled.get(selector))
        return {use.number: selector.pod_selector for selector, use in settled if self._is_about(selector, namespace)}

    def _is_about(self, selector: PeerSelector, namespace: str) -> bool:
        if selector.namespace:
            return selector.namespace == namespace
        labels = self._labels.get(namespace)
        return matches(selector.namespace_selector, {NAMESPACE_NAME_LABEL: namespace} if labels is None else labels)

    def _identify(self, group: PeerClass) -> Identity:
        scope = self._scopes[group.namespace]
        return Identity(
            tuple(sorted(number for number, selector in scope.items() if matches(selector, group.labels))), self._ports(group)
        )

    def _ports(self, group: PeerClass) -> tuple[NamedPort, ...]:
        return tuple(sorted({port for port in group.named_ports if port.name in self._port_names}))

    def _set_identity(self, group: PeerClass, identity: Identity) -> int:
        """Write a group's identity. Returns how many addresses that meant to write."""
        group.identity = identity
        builder = self._builder
        if identity == NOBODY:
            if group.number:
                builder.identities.discard(group.number)
                group.number = 0
                return self._point(group)
            return 0
        if group.number:
            builder.identities.change(group.number, identity)
            return 1
        group.number = builder.identities.add(identity)
        return self._point(group)

    def _point(self, group: PeerClass) -> int:
        for address in group.members:
            self._builder.addresses.set(address, group.number)
        return len(group.members)
