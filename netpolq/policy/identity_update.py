"""The shared work of one update of identities: equal labels are compared once, and equal identities are made once.

In a large cluster thousands of peer classes differ in their namespace alone.
"""

from collections.abc import Mapping

from netpolq.model import Labels, LabelSelector
from netpolq.policy.selectors import matches
from netpolq.snapshot.ir import Identity


class Matches(dict[Labels, tuple[int, ...]]):
    """The numbers of the selectors that match labels. `selectors`: by number."""

    def __init__(self, selectors: Mapping[int, LabelSelector]) -> None:
        super().__init__()
        self._selectors = selectors

    def __missing__(self, labels: Labels) -> tuple[int, ...]:
        found = self[labels] = tuple(number for number, selector in self._selectors.items() if matches(selector, labels))
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
