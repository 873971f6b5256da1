"""A bounded table of entries of pods: no pod can fill it alone, and the oldest entry makes room."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class PodTable(Generic[Key, Value]):
    """A mapping. `max_total`, `max_of_pod`: maximum number of entries in all, and of each pod."""

    def __init__(self, max_total: int, max_of_pod: int) -> None:
        self._max_total = max_total
        self._max_of_pod = max_of_pod
        self._entries: OrderedDict[Key, tuple[bytes, Value]] = OrderedDict()
        self._of_pods: dict[bytes, OrderedDict[Key, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value of a key, or None."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None else None

    def put(self, pod: bytes, key: Key, value: Value) -> Value | None:
        """Set an entry, which is the newest one now. Returns the value of another entry that has made room for it, the oldest one."""
        self.remove(key)
        of_pod = self._of_pods.get(pod)
        removed = None
        if of_pod is not None and len(of_pod) >= self._max_of_pod:
            removed = self.remove(next(iter(of_pod)))
        elif len(self._entries) >= self._max_total:
            removed = self.remove_oldest()
        self._entries[key] = pod, value
        self._of_pods.setdefault(pod, OrderedDict())[key] = None
        return removed

    def remove(self, key: Key) -> Value | None:
        """Remove the entry of a key if there is one, and return its value."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        pod, value = entry
        of_pod = self._of_pods[pod]
        del of_pod[key]
        if not of_pod:
            del self._of_pods[pod]
        return value

    def remove_oldest(self) -> Value | None:
        """Remove the oldest entry of all if there is one, and return its value."""
        return self.remove(next(iter(self._entries))) if self._entries else None

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._of_pods.clear()
