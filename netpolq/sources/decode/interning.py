"""Interning of equal values in many objects: labels, named ports, names of nodes and namespaces, addresses of nodes.

A hundred thousand pods have a few thousand sets of labels between them. Interning only saves memory; no code depends on it.
"""

from collections.abc import Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=Hashable)

GENERATION_ENTRIES = 16384
"""Entries of one generation; the pool keeps two. With more distinct values, interning saves nothing and costs no more."""


class InternPool:
    """Returns the first of equal values. Bounded: the pool drops values that were not requested for a long time."""

    def __init__(self, generation_entries: int = GENERATION_ENTRIES) -> None:
        self._limit = generation_entries
        self._recent: dict[Any, Any] = {}
        self._old: dict[Any, Any] = {}

    def intern(self, value: T) -> T:
        """The shared value equal to this one. Values of different types must not be equal, as 1 and True are."""
        found = self._recent.get(value)
        if found is None:
            found = self._old.get(value, value)
            if len(self._recent) >= self._limit:
                self._old, self._recent = self._recent, {}
            self._recent[found] = found
        return cast("T", found)


SHARED = InternPool()
"""The pool of the process. Sources decode in one thread."""
