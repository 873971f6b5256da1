"""The shared work of one update of identities: what equal peer classes need is computed once.

In a large cluster thousands of peer classes differ in their namespaces, and in labels that no selector names.
"""

from collections.abc import Mapping

from netpolq.model import LabelSelector
from netpolq.policy.selectors import matches
from netpolq.snapshot.ir import Identity


class Matches:
    """Which selectors match labels. Labels are compared once where all that the selectors name is equal. `selectors`: by number."""

    def __init__(self, selectors: Mapping[int, LabelSelector]) -> None:
        self.selectors = selectors
        self._keys = sorted({requirement.key for selector in selectors.values() for requirement in selector.requirements})
        self._found: dict[tuple[str | None, ...], tuple[int, ...]] = {}

    def of(self, labels: Mapping[str, str]) -> tuple[int, ...]:
        """The numbers of the selectors that match labels."""
        named = tuple(map(labels.get, self._keys))
        found = self._found.get(named)
        if found is None:
            found = tuple(number for number, selector in self.selectors.items() if matches(selector, labels))
            self._found[named] = found
        return found


class Identities(dict[tuple[Identity, tuple[int, ...]], Identity]):
    """Identities after the update, by the identity before and the numbers that join it. `gone`: numbers to remove."""

    def __init__(self, gone: frozenset[int]) -> None:
        super().__init__()
        self._gone = gone

    def __missing__(self, key: tuple[Identity, tuple[int, ...]]) -> Identity:
        before, joining = key
        identity = self[key] = Identity(tuple(sorted({*before.selectors, *joining} - self._gone)), before.named_ports)
        return identity
