"""The peer selectors and port names in use: reference counts, and a number for each selector."""

from collections.abc import Iterable, Iterator

from netpolq.policy.domain_names import patterns_of
from netpolq.policy.peers import DomainSelector, NodeSelector, Selector
from netpolq.snapshot.id_allocator import IdAllocator


class _Use:
    """A selector in use: its number of references and its number."""

    __slots__ = ("count", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0


class SelectorUses:
    """Selectors and port names with references.

    `acquire` and `release` are collected as pending until the identities are updated (`netpolq.policy.peer_classes`). Until then, the
    numbers of released selectors are not reused, so identities before and after use the same numbers.

    `patterns_version`: rises whenever a selector of names comes into use or goes out of use.
    """

    def __init__(self) -> None:
        self._selectors: dict[Selector, _Use] = {}
        self._of_nodes: dict[NodeSelector, None] = {}
        self._port_names: dict[str, int] = {}
        self._numbers = IdAllocator()
        self._pending: dict[Selector, bool] = {}  # True: came into use since the last update
        self._pending_names: dict[str, bool] = {}
        self.patterns_version = 0

    @property
    def selectors(self) -> dict[int, Selector]:
        """The selectors in use by number."""
        return {use.number: selector for selector, use in self._selectors.items()}

    def acquire(self, selector: Selector) -> int:
        """Add a reference to a selector. Returns its number."""
        use = self._selectors.get(selector)
        if use is None:
            use = self._selectors[selector] = _Use(self._numbers.allocate())
            self._pending[selector] = True
            if isinstance(selector, NodeSelector):
                self._of_nodes[selector] = None
        use.count += 1
        return use.number

    def release(self, selector: Selector) -> None:
        """Remove a reference to a selector."""
        use = self._selectors[selector]
        use.count -= 1
        if not use.count:
            self._pending.setdefault(selector, False)

    def number(self, selector: Selector) -> int:
        """Return the number of a selector in use."""
        return self._selectors[selector].number

    def settled(self) -> Iterator[tuple[Selector, int]]:
        """Yield the selectors that were in use at the last update and their numbers."""
        for selector, use in self._selectors.items():
            if not self._pending.get(selector):
                yield selector, use.number

    def settled_for_nodes(self) -> Iterator[tuple[NodeSelector, int]]:
        """Yield the node selectors among them."""
        for selector in self._of_nodes:
            if not self._pending.get(selector):
                yield selector, self._selectors[selector].number

    def settled_for_names(self, names: Iterable[str]) -> Iterator[tuple[DomainSelector, int]]:
        """Yield those among them whose pattern matches any of the names."""
        for selector in self._of_names(names):
            if not self._pending.get(selector):
                yield selector, self._selectors[selector].number

    def matches_name(self, name: str) -> bool:
        """Whether the pattern of a selector in use matches a name."""
        return any(True for _selector in self._of_names((name,)))

    def _of_names(self, names: Iterable[str]) -> Iterator[DomainSelector]:
        """Yield the selectors whose pattern matches any of the names, each once."""
        for pattern in {pattern for name in names for pattern in patterns_of(name)}:
            selector = DomainSelector(pattern)
            if selector in self._selectors:
                yield selector

    def free(self, number: int) -> None:
        """Make the number of a selector that went out of use available again."""
        self._numbers.free(number)

    def take_pending(self) -> tuple[list[tuple[Selector, int]], list[tuple[Selector, int]]]:
        """Return the selectors that came into use and those that went out of use. Removes the latter; the caller frees their numbers."""
        fresh, gone = [], []
        for selector, is_fresh in self._pending.items():
            use = self._selectors[selector]
            if use.count and is_fresh:
                fresh.append((selector, use.number))
            elif not use.count:
                del self._selectors[selector]
                if isinstance(selector, NodeSelector):
                    del self._of_nodes[selector]
                if is_fresh:
                    self._numbers.free(use.number)
                else:
                    gone.append((selector, use.number))
        self._pending = {}
        self.patterns_version += any(isinstance(selector, DomainSelector) for selector, _number in (*fresh, *gone))
        return fresh, gone

    # --- port names ---------------------------------------------------------------------------------------------------------------

    def has_port_name(self, name: str) -> bool:
        """Whether a rule in use names a port."""
        return name in self._port_names

    def acquire_port_name(self, name: str) -> None:
        """Add a reference to a port name."""
        if name not in self._port_names:
            self._port_names[name] = 0
            self._pending_names[name] = True
        self._port_names[name] += 1

    def release_port_name(self, name: str) -> None:
        """Remove a reference to a port name."""
        self._port_names[name] -= 1
        if not self._port_names[name]:
            self._pending_names.setdefault(name, False)

    def take_pending_port_names(self) -> list[str]:
        """Return the port names that came into use or went out of use. Removes the latter."""
        changed = [name for name, is_fresh in self._pending_names.items() if bool(self._port_names[name]) is is_fresh]
        for name in self._pending_names:
            if not self._port_names[name]:
                del self._port_names[name]
        self._pending_names = {}
        return changed
