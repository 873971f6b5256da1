"""What has changed in the store between two snapshots, for the line of the log that says a version is in force."""

from collections import Counter

from netpolq.model import Object, ObjectKey, Update
from netpolq.store import Store

MAX_NAMED = 5
"""Objects that are named in a line; of more, the kinds are counted. Names are kept of so many only."""


class Changes:
    """Objects that were added, changed or deleted since `take`, each counted once an update."""

    def __init__(self) -> None:
        self._named: dict[str, None] = {}
        self._counts: Counter[str] = Counter()

    def note(self, update: Update, store: Store) -> None:
        """Note what an update changes in a store. To be called before the store applies it."""
        for item in update.upserted:
            before = _known(store, item.key)
            if before is None:
                self._add(item.key, "added")
            elif before != item:
                self._add(item.key, "changed")
        for key in update.deleted:
            if _known(store, key) is not None:
                self._add(key, "deleted")

    def _add(self, key: ObjectKey, what: str) -> None:
        self._counts[f"{key.kind} {what}"] += 1
        if len(self._named) <= MAX_NAMED:
            self._named[f"{key} {what}"] = None

    def take(self) -> str:
        """One line about all of it, which is forgotten. Empty: nothing was noted."""
        if len(self._named) > MAX_NAMED:
            line = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self._counts.items()))
        else:
            line = ", ".join(self._named)
        self._named.clear()
        self._counts.clear()
        return line


def _known(store: Store, key: ObjectKey) -> Object | None:
    match key.kind:
        case "Namespace":
            return store.namespaces.get(key.name)
        case "Pod":
            return store.pods.get((key.namespace, key.name))
        case "NetworkPolicy":
            return store.policies.get((key.namespace, key.name))
