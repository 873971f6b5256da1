"""Objects and history of the test API server, versioned by one number as in etcd.

An object is stored as the bytes of a list's item, encoded once. So 100,000 objects are listed quickly, and no caller can change a stored
object.
"""

import uuid

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, cast

import orjson

from tests.support.apiserver.resources import BY_KIND, Body, Resource, key_of

_UIDS = uuid.UUID(
    "6e6574706f6c7100746573742d617069"
)  # any fixed name space: uids then differ from run to run only as versions do


class EventType(StrEnum):
    """The type of a change."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Stored(NamedTuple):
    """An object. `raw`: JSON without `kind` and `apiVersion`, as in a list."""

    raw: bytes
    resource_version: int
    uid: str
    created: str


class Event(NamedTuple):
    """A change. `now`: the object afterwards, or its last state with the version of the deletion. `before`: None if it is new."""

    resource_version: int
    type: EventType
    key: str
    now: Stored
    before: Stored | None


class Snapshot(NamedTuple):
    """All objects of a kind at one version, in order of their keys."""

    keys: list[str]
    raws: list[bytes]


class Checkpoint(NamedTuple):
    """A state to restore, as from a backup of etcd, with the history of the backup."""

    resource_version: int
    objects: Mapping[Resource, Mapping[str, Stored]]
    compacted_at: int
    forgotten: Mapping[Resource, int]
    events: Mapping[Resource, Sequence[Event]]


class CompactedError(Exception):
    """The requested history is compacted."""


class Store:
    """Objects of all kinds, their versions, and the changes since the last compaction."""

    def __init__(self, first_version: int = 1000) -> None:
        self.resource_version = first_version
        self.compacted_at = first_version
        self._objects: dict[Resource, dict[str, Stored]] = {resource: {} for resource in BY_KIND.values()}
        self._events: dict[Resource, list[Event]] = {resource: [] for resource in BY_KIND.values()}
        self._forgotten = dict.fromkeys(BY_KIND.values(), first_version)
        self._snapshots: dict[Resource, tuple[int, Snapshot]] = {}

    def put(self, body: Body) -> int:
        """Create or replace an object. Returns its version, which stays the same if nothing has changed, as in the real server.

        Like the real server it adds uid, creationTimestamp, resourceVersion, and a namespace's own name as a label; it applies no other
        defaults. Raises `KeyError` on a body without known kind or name.
        """
        resource = BY_KIND[str(body["kind"])]
        metadata = dict(cast("Body", body["metadata"]))
        name = str(metadata["name"])
        if resource.namespaced:
            metadata.setdefault("namespace", "default")
        else:
            labels = cast("Body | None", metadata.get("labels")) or {}
            metadata["labels"] = {**labels, "kubernetes.io/metadata.name": name}
        key = key_of(resource, str(metadata.get("namespace")), name)
        before = self._objects[resource].get(key)
        if before and _encode(body, metadata, before).raw == before.raw:
            return before.resource_version
        version = self.resource_version + 1
        created = before.created if before else datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        uid = before.uid if before else str(uuid.uuid5(_UIDS, f"{resource.plural}/{key}/{version}"))
        now = _encode(body, metadata, Stored(b"", version, uid, created))
        self._objects[resource][key] = now
        self._record(resource, Event(version, EventType.MODIFIED if before else EventType.ADDED, key, now, before))
        return version

    def delete(self, resource: Resource, namespace: str, name: str) -> int:
        """Remove an object. Returns the version of its removal. Raises `KeyError` if there is none."""
        key = key_of(resource, namespace, name)
        before = self._objects[resource].pop(key)
        version = self.resource_version + 1
        body = cast("Body", orjson.loads(before.raw))
        now = _encode(body, cast("Body", body["metadata"]), before._replace(resource_version=version))
        self._record(resource, Event(version, EventType.DELETED, key, now, before))
        return version

    def objects(self, resource: Resource) -> dict[str, Body]:
        """The present objects of a kind by key, decoded for each call."""
        return {key: orjson.loads(stored.raw) for key, stored in self._objects[resource].items()}

    def advance(self, count: int = 1) -> None:
        """Raise the version, as writes to kinds that are not served here do."""
        self.resource_version += count

    def snapshot(self, resource: Resource, version: int) -> Snapshot:
        """All objects of a kind as they were at a version. Raises `CompactedError` if that is before the last compaction."""
        if version < self.compacted_at:
            raise CompactedError
        events = self._events[resource]
        later = bisect_right(events, version, key=_version)
        # The version of the newest change that counts: many versions of the store share one state of a kind.
        state = events[later - 1].resource_version if later else self.compacted_at
        cached = self._snapshots.get(resource)
        if cached and cached[0] == state:
            return cached[1]
        objects = dict(self._objects[resource])
        for event in reversed(events[later:]):
            if event.before:
                objects[event.key] = event.before
            else:
                objects.pop(event.key, None)
        keys = sorted(objects)
        snapshot = Snapshot(keys, [objects[key].raw for key in keys])
        self._snapshots[resource] = (state, snapshot)
        return snapshot

    def events_after(self, resource: Resource, version: int) -> list[Event]:
        """The changes of a kind after a version. Raises `CompactedError` if some are compacted."""
        if version < self._forgotten[resource]:
            raise CompactedError
        events = self._events[resource]
        return events[bisect_right(events, version, key=_version) :]

    def events_until(self, resource: Resource, version: int) -> list[Event]:
        """The remaining changes of a kind up to a version."""
        events = self._events[resource]
        return events[: bisect_right(events, version, key=_version)]

    def compact(self) -> None:
        """Remove the history up to now."""
        self.compacted_at = self.resource_version
        self._snapshots.clear()
        for resource, events in self._events.items():
            if events:
                self._forgotten[resource] = events[-1].resource_version
            events.clear()

    def drop(self, resource: Resource) -> None:
        """Remove all objects of a kind with their history, as with the CRD. A later CRD of this kind has new objects."""
        self.resource_version += 1
        self._objects[resource].clear()
        self._events[resource].clear()
        self._forgotten[resource] = self.resource_version
        self._snapshots.pop(resource, None)

    def checkpoint(self) -> Checkpoint:
        """The present state, for `restore`."""
        return Checkpoint(
            self.resource_version,
            {resource: dict(objects) for resource, objects in self._objects.items()},
            self.compacted_at,
            dict(self._forgotten),
            {resource: list(events) for resource, events in self._events.items()},
        )

    def restore(self, checkpoint: Checkpoint, *, keeps_history: bool = False) -> None:
        """Restore an earlier state, versions included.

        The changes before it are forgotten, as by a server that fills its watch cache when it starts, or (`keeps_history`) can be watched,
        as from etcd itself.
        """
        self.resource_version = checkpoint.resource_version
        self._objects = {resource: dict(objects) for resource, objects in checkpoint.objects.items()}
        self._events = {resource: list(events) for resource, events in checkpoint.events.items()}
        self.compacted_at, self._forgotten = checkpoint.compacted_at, dict(checkpoint.forgotten)
        self._snapshots.clear()
        if not keeps_history:
            self._forgotten = dict.fromkeys(BY_KIND.values(), checkpoint.resource_version)
            for events in self._events.values():
                events.clear()
            self.compact()

    def load(self, bodies: Iterable[Body]) -> None:
        """Put many objects without a history of events."""
        for body in bodies:
            self.put(body)
        self.compact()

    def _record(self, resource: Resource, event: Event) -> None:
        self.resource_version = event.resource_version
        self._events[resource].append(event)


def _version(event: Event) -> int:
    return event.resource_version


def _encode(body: Body, metadata: Body, like: Stored) -> Stored:
    """The object with the server's own fields taken from `like`."""
    own = {"uid": like.uid, "resourceVersion": str(like.resource_version), "creationTimestamp": like.created}
    item = {"metadata": {**metadata, **own}, **{field: value for field, value in body.items() if field not in _NOT_IN_ITEMS}}
    return like._replace(raw=orjson.dumps(item))


_NOT_IN_ITEMS = {"kind", "apiVersion", "metadata"}
