"""Known state of one resource, and the proof that a server continues the same history.

A version is a position in a history and does not identify the history: after a restore from a backup the server uses the same numbers
for other changes. Therefore a watch continues from just before the last received event, and the server must send that event again, first
and unchanged. If it does, both histories are the same up to this event, and the watch delivers every change after it. If the server
sends anything else, everything is listed again.
"""

from collections.abc import Iterable
from typing import NamedTuple

import orjson

from netpolq.model import ObjectKey
from netpolq.sources.kubernetes.resources import Item, Resource, read_item, version_number
from netpolq.sources.kubernetes.watch import (
    INITIAL_EVENTS_END,
    Changes,
    EventType,
    NoStreamedListsError,
    RestoredError,
    StatusError,
    StreamError,
)

MIN_EVIDENCE_VERSION = 2
"""A watch continues from the version before the evidence, and version 0 would ask for any state (API concepts, "Resource versions")."""


class Evidence(NamedTuple):
    """The last event that was received. `version`: of the change. `uid`, `written`: of the object, and the last time that its
    managedFields name, empty if there is none; they distinguish changes of two histories that happen to have the same version.
    """

    version: int
    key: ObjectKey
    is_deletion: bool
    uid: str
    written: str

    def __str__(self) -> str:
        return f"version {self.version} of {self.key}"


def _evidence(item: Item, body: object, *, is_deletion: bool) -> Evidence:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    fields = metadata if isinstance(metadata, dict) else {}
    uid, managed = fields.get("uid"), fields.get("managedFields")
    times = [entry.get("time") for entry in managed if isinstance(entry, dict)] if isinstance(managed, list) else []
    return Evidence(
        version=item.version,
        key=item.key,
        is_deletion=is_deletion,
        uid=uid if isinstance(uid, str) else "",
        written=max((time for time in times if isinstance(time, str)), default=""),
    )


class Replica:
    """The keys of the known objects of one resource, and the version to watch from. `known`: objects of another version of the resource,
    which are in force until the first complete state replaces them.

    `resume_version`: None if everything must be listed. The replica passes the objects on and does not keep them.
    """

    def __init__(self, resource: Resource, known: Iterable[ObjectKey] = ()) -> None:
        self.resource = resource
        self.resume_version: str | None = None
        self._known = set(known)
        self._incoming: dict[ObjectKey, Item] | None = None
        self._evidence: Evidence | None = None
        self._awaited: Evidence | None = None

    @property
    def known(self) -> frozenset[ObjectKey]:
        """The keys of the known objects."""
        return frozenset(self._known)

    @property
    def size(self) -> int:
        """The number of known objects."""
        return len(self._known)

    def begin(self) -> None:
        """Start a new complete state, from pages or initial events. It takes effect in `complete`."""
        self._incoming = {}

    def add_page(self, bodies: list[object]) -> None:
        """Add objects to the arriving state."""
        if self._incoming is None:
            raise ValueError("no state is arriving")
        for body in bodies:
            item = read_item(self.resource, body)
            if item is not None:
                self._incoming[item.key] = item

    def complete(self, resume_version: str) -> Changes:
        """Replace the known state by the arrived one, whatever its versions. Returns the changes."""
        if self._incoming is None:
            raise ValueError("no state is arriving")
        incoming, self._incoming = self._incoming, None
        changes = Changes()
        for key in self._known - incoming.keys():
            changes.remove(key)
        for item in incoming.values():
            changes.put(item)
        self._known = set(incoming)
        self.resume_version = resume_version
        self.drop_evidence()  # the objects of a list do not show what was deleted before it
        return changes

    def abandon(self) -> None:
        """Drop an incomplete state after its request has ended. The known state stays."""
        self._incoming = self._awaited = None

    @property
    def is_arriving(self) -> bool:
        """Whether a complete state has begun and not ended."""
        return self._incoming is not None

    # --- the proof of the same history ------------------------------------------------------------------------------------------

    def begin_watch(self) -> str:
        """Start a watch. Returns the version to watch from: with evidence, the one before the event that must come again."""
        self._awaited = self._evidence
        return str(self._awaited.version - 1) if self._awaited is not None else self.resume_version or ""

    @property
    def is_awaiting_proof(self) -> bool:
        """Whether the watch must still send the event that proves the same history."""
        return self._awaited is not None

    def drop_evidence(self) -> None:
        """Continue without a proof: the history of the server does not reach back to the evidence."""
        self._evidence = self._awaited = None

    def _prove(self, awaited: Evidence, found: Evidence) -> None:
        """Compare the first event of a watch with the evidence. Raises `RestoredError` if it is another event than the evidence.

        After the proof the replica is at the version of the evidence: what the server changed between this version and a later one that a
        bookmark gave before is not skipped.
        """
        if found != awaited:
            change = "another change with " if str(found) == str(awaited) else ""
            raise RestoredError(f"the API server sends {change}{found} where {awaited} was received before")
        self._awaited = None
        self.resume_version = str(awaited.version)

    # --- events -----------------------------------------------------------------------------------------------------------------

    def on_line(self, line: bytes, changes: Changes) -> bool:
        """Apply one event and add to `changes`. Returns whether it completed the arriving state.

        Raises `StatusError` for an ERROR event, `RestoredError` for an event or bookmark of another history than the known one, and
        `StreamError` for anything else.
        """
        try:
            event = orjson.loads(line)
            kind = EventType(event["type"])
            body = event["object"]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise StreamError(f"not a watch event: {line[:80]!r}") from error
        match kind:
            case EventType.ERROR:
                status = body if isinstance(body, dict) else {}
                code = status.get("code")
                raise StatusError(code if isinstance(code, int) else 500, str(status.get("message", ""))[:200], is_event=True)
            case EventType.BOOKMARK:
                return self._on_bookmark(body.get("metadata") if isinstance(body, dict) else None, changes)
            case EventType.ADDED | EventType.MODIFIED | EventType.DELETED:
                self._on_object(kind, body, changes)
        return False

    def _on_bookmark(self, metadata: object, changes: Changes) -> bool:
        if not isinstance(metadata, dict):
            raise StreamError("a bookmark without metadata")
        version = metadata.get("resourceVersion")
        if not isinstance(version, str) or not version:
            raise StreamError("a bookmark without resourceVersion")
        annotations = metadata.get("annotations")
        if self.is_arriving:
            if isinstance(annotations, dict) and annotations.get(INITIAL_EVENTS_END) == "true":
                changes.merge(self.complete(version))
                return True
            raise NoStreamedListsError("a bookmark before the end of the initial events")
        if self._awaited is not None:
            if version_number(version) != self._awaited.version - 1:
                raise RestoredError(
                    f"the API server is at version {version} and does not send {self._awaited}, which was received before"
                )
            return False
        self.compare(version)
        self.resume_version = version
        return False

    def _on_object(self, kind: EventType, body: object, changes: Changes) -> None:
        item = read_item(self.resource, body)
        if item is None:
            raise StreamError(f"an event about something without a name: {str(body)[:80]}")
        if self._incoming is not None:
            if kind is EventType.DELETED:
                self._incoming.pop(item.key, None)
            else:
                self._incoming[item.key] = item
            return
        evidence = _evidence(item, body, is_deletion=kind is EventType.DELETED)
        if self._awaited is not None:
            self._prove(self._awaited, evidence)
            return
        if item.version:
            self.compare(str(item.version))
            if item.version == self._resume_number():
                return  # known already
        self._evidence = evidence if item.version >= MIN_EVIDENCE_VERSION else None
        if kind is EventType.DELETED:
            self._known.discard(item.key)
            changes.remove(item.key)
        else:
            self._known.add(item.key)
            changes.put(item)
        if item.version:
            self.resume_version = str(item.version)

    def compare(self, version: object) -> None:
        """Compare a version of the server with the known one. Raises `RestoredError` if it is lower: versions only rise, and a watch
        gives them in order, so the server has gone back to an older state. A version that is not a number is not compared.
        """
        number = version_number(version)
        if 0 < number < self._resume_number():
            raise RestoredError(f"the API server is at version {number}, which is before {self.resume_version}")

    def _resume_number(self) -> int:
        return version_number(self.resume_version)
