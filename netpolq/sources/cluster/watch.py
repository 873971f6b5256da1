"""The watch protocol without any I/O: bytes → lines → events → changes of what is known.

Source: the API concepts page, "Efficient detection of changes", "Watch bookmarks", "Streaming lists"; `v1.WatchEvent`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from netpolq.model import Object, ObjectKey, Rejection
from netpolq.sources.cluster.resources import Item, Resource, read_item, version_number

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longer events are no objects of these kinds: etcd refuses a tenth of it."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class StreamError(Exception):
    """The stream is not what a watch sends; it must be opened again."""


class NoStreamedListsError(StreamError):
    """The server does not know streamed lists: it took the request for a plain watch."""


class NotResumableError(StreamError):
    """The server cannot go on from the version that is known: its state is older, or it says nothing. Everything must be listed."""


class StatusError(Exception):
    """The API server answered with a failure. `code`: HTTP status. `retry_after_s`: how long it wants to be left alone, or None.

    `is_event`: said within a watch.
    """

    def __init__(self, code: int, message: str, retry_after_s: float | None = None, *, is_event: bool = False) -> None:
        super().__init__(f"{code} {message}" if message else str(code))
        self.code = code
        self.is_event = is_event
        self.retry_after_s = retry_after_s

    @property
    def is_expired(self) -> bool:
        """Whether what was asked for is too old, so that all must be listed again."""
        return self.code == 410


class EventType(StrEnum):
    """Values of `WatchEvent.type`."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class LineDecoder:
    """Cuts a stream into lines. What follows the last line end is kept for the next bytes, or lost with the stream."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends. Raises `StreamError` for one that never ends."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise StreamError(f"a line of more than {MAX_LINE_BYTES} bytes")
        self._rest = rest
        return [bytes(line) for line in lines if line.strip()]


@dataclass(slots=True)
class Changes:
    """What some events changed. `rejections`: of every object named here that has one now; of the others there is none any more."""

    upserted: dict[ObjectKey, Object] = field(default_factory=dict)
    deleted: set[ObjectKey] = field(default_factory=set)
    rejections: dict[ObjectKey, Rejection] = field(default_factory=dict)

    def put(self, item: Item) -> None:
        """Note an object that is there."""
        self.deleted.discard(item.key)
        self.rejections.pop(item.key, None)
        if item.rejection is not None:
            self.rejections[item.key] = item.rejection
        if item.content is None:
            self.remove(item.key, keep_rejection=True)
        else:
            self.upserted[item.key] = item.content

    def remove(self, key: ObjectKey, *, keep_rejection: bool = False) -> None:
        """Note an object that is gone, or of which nothing can be used."""
        self.upserted.pop(key, None)
        self.deleted.add(key)
        if not keep_rejection:
            self.rejections.pop(key, None)

    def merge(self, later: "Changes") -> None:
        """Add changes that came after these."""
        for key in later.deleted:
            self.remove(key)
        for key, content in later.upserted.items():
            self.deleted.discard(key)
            self.rejections.pop(key, None)
            self.upserted[key] = content
        self.rejections.update(later.rejections)

    def __bool__(self) -> bool:
        return bool(self.upserted or self.deleted or self.rejections)


class Replica:
    """What is known of one resource: the keys of its objects, and from where to go on watching.

    `resume_version` None: nothing, everything must be listed. The objects themselves are handed on and not kept.
    """

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.resume_version: str | None = None
        self._known: set[ObjectKey] = set()
        self._incoming: dict[ObjectKey, Item] | None = None

    def begin(self) -> None:
        """A new complete state begins to arrive, by pages or by initial events. It shows only when it is complete."""
        self._incoming = {}

    def add_page(self, bodies: list[object]) -> None:
        """Take objects of the state that arrives."""
        if self._incoming is None:
            raise ValueError("no state is arriving")
        for body in bodies:
            item = read_item(self.resource, body)
            if item is not None:
                self._incoming[item.key] = item

    def complete(self, resume_version: str) -> Changes:
        """The state that arrived is complete: it replaces what was known, whatever its versions."""
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
        return changes

    def abandon(self) -> None:
        """What arrived so far is not the whole state; what was known stays known."""
        self._incoming = None

    @property
    def is_arriving(self) -> bool:
        """Whether a complete state has begun and not ended."""
        return self._incoming is not None

    def on_line(self, line: bytes, changes: Changes) -> bool:
        """Take one event, adding to `changes`. True if it completed a state that arrived.

        Raises `StatusError` for an ERROR event, `NotResumableError` for an event or bookmark of a version before the known one, and
        `StreamError` for what is no event.
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
        if item.version:
            self.compare(str(item.version))
            if item.version == self._resume_number():
                return  # what is known already
        if kind is EventType.DELETED:
            self._known.discard(item.key)
            changes.remove(item.key)
        else:
            self._known.add(item.key)
            changes.put(item)
        if item.version:
            self.resume_version = str(item.version)

    def compare(self, version: object) -> None:
        """Hold a version of the server against the known one. Raises `NotResumableError` if it is lower: versions only rise, and a watch
        says them in order, so the server has gone back to an older state. What is no number is not compared.
        """
        number = version_number(version)
        if 0 < number < self._resume_number():
            raise NotResumableError(f"the API server is at version {number}, which is before {self.resume_version}")

    def _resume_number(self) -> int:
        return version_number(self.resume_version)


def read_list(body: bytes) -> tuple[list[object], dict[str, object]]:
    """Items and metadata of a list. Raises `StreamError` for anything else."""
    try:
        document = orjson.loads(body)
        items, metadata = document.get("items") or [], document["metadata"]
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise StreamError(f"not a list: {body[:80]!r}") from error
    if not isinstance(items, list) or not isinstance(metadata, dict):
        raise StreamError(f"not a list: {body[:80]!r}")
    return items, metadata
