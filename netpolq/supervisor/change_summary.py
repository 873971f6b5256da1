"""Summary of the changes of the store between two snapshots, for the log line about a version in force."""

from collections import Counter

from netpolq.model import Object, ObjectKey, Update, cluster_policy_name
from netpolq.store import Store

MAX_NAMED = 5
"""Maximum number of objects named in a line. With more, the line has counts by kind, and no further names are kept."""


class Changes:
    """Objects that were added, changed or deleted since `take`, each counted once per update."""

    def __init__(self) -> None:
        self._named: dict[str, None] = {}
        self._counts: Counter[str] = Counter()

    def note(self, update: Update, store: Store) -> None:
        """Note the changes that an update makes. Call it before the store applies the update."""
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
        """One line about all changes since the last call; empty without any."""
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
        case "Node":
            return store.nodes.get(key.name)
        case _:
            return store.cluster_policies.get(cluster_policy_name(key.kind, key.name))
