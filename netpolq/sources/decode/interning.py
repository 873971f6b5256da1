"""Equal values that many objects carry, kept once: labels, named ports, names of nodes and namespaces, addresses of nodes.

A hundred thousand pods have a few thousand sets of labels between them. What is shared only saves memory; nothing depends on it.
"""

from collections.abc import Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=Hashable)

GENERATION_ENTRIES = 16384
"""Entries of one generation; two are kept. Whoever makes up more values than that at a time gains nothing, and costs no more."""


class InternPool:
    """Finds the first of equal values. Bounded: what has not been asked for in a long time is forgotten."""

    def __init__(self, generation_entries: int = GENERATION_ENTRIES) -> None:
        self._limit = generation_entries
        self._young: dict[Any, Any] = {}
        self._old: dict[Any, Any] = {}

    def intern(self, value: T) -> T:
        """The value that stands for all equal ones. Values of different types must not be equal, as 1 and True are."""
        found = self._young.get(value)
        if found is None:
            found = self._old.get(value, value)
            if len(self._young) >= self._limit:
                self._old, self._young = self._young, {}
            self._young[found] = found
        return cast("T", found)


SHARED = InternPool()
"""For the whole process: sources decode in one thread, and a value is as good for one as for another."""
