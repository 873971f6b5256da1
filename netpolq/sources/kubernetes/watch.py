"""The watch protocol without any I/O: bytes → lines → events → changes of the known state.

Source: the API concepts page, "Efficient detection of changes", "Watch bookmarks", "Streaming lists"; `v1.WatchEvent`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from netpolq.model import Object, ObjectKey, Rejection
from netpolq.sources.kubernetes.policy_report import PolicyReport
from netpolq.sources.kubernetes.resources import Item

MAX_LINE_BYTES = 32 * 1024 * 1024
"""A longer event is not an object of these kinds: etcd refuses a tenth of it."""

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class StreamError(Exception):
    """The stream is not a valid watch stream and must be reopened."""


class NoStreamedListsError(StreamError):
    """The server does not support streamed lists: it treated the request as a plain watch."""


class EndedAtOnceError(StreamError):
    """The watch ended as soon as it had begun."""


class NotResumableError(StreamError):
    """The server cannot continue from the known version. Everything must be listed."""


class RestoredError(NotResumableError):
    """The server has another history than the one that was received: its state was restored from a backup."""


class StatusError(Exception):
    """The API server answered with a failure. `code`: HTTP status. `retry_after_s`: the delay that the server asks for, or None.

    `is_event`: sent as an event of a watch.
    """

    def __init__(self, code: int, message: str, retry_after_s: float | None = None, *, is_event: bool = False) -> None:
        super().__init__(f"{code} {message}" if message else str(code))
        self.code = code
        self.is_event = is_event
        self.retry_after_s = retry_after_s

    @property
    def is_expired(self) -> bool:
        """Whether the requested version is too old, so that everything must be listed again."""
        return self.code == 410


class EventType(StrEnum):
    """Values of `WatchEvent.type`."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class LineDecoder:
    """Cuts a stream into lines. Keeps the text after the last line end for the next bytes."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends. Raises `StreamError` for a line that is too long."""
        self._rest += data
        *lines, rest = self._rest.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise StreamError(f"a line of more than {MAX_LINE_BYTES} bytes")
        self._rest = rest
        return [bytes(line) for line in lines if line.strip()]


@dataclass(slots=True)
class Changes:
    """Changes from a number of events. `rejections`: current ones of the objects named here; objects without an entry have none.
    `reports`: of the present cluster-wide policies named here.

    An object that is retained (`Item.is_retained`) has a rejection and is neither upserted nor deleted by it.
    """

    upserted: dict[ObjectKey, Object] = field(default_factory=dict)
    deleted: set[ObjectKey] = field(default_factory=set)
    rejections: dict[ObjectKey, Rejection] = field(default_factory=dict)
    reports: dict[ObjectKey, PolicyReport] = field(default_factory=dict)

    def put(self, item: Item) -> None:
        """Note a present object."""
        if item.content is not None:
            self.deleted.discard(item.key)
            self.rejections.pop(item.key, None)
            self.upserted[item.key] = item.content
        elif not item.is_retained:
            self.remove(item.key)
        if item.rejection is not None:
            self.rejections[item.key] = item.rejection
        if item.report is not None:
            self.reports[item.key] = item.report

    def remove(self, key: ObjectKey) -> None:
        """Note an object that is deleted or unusable."""
        self.upserted.pop(key, None)
        self.rejections.pop(key, None)
        self.reports.pop(key, None)
        self.deleted.add(key)

    def merge(self, later: "Changes") -> None:
        """Add changes that came after these."""
        for key in later.deleted:
            self.remove(key)
        for key, content in later.upserted.items():
            self.deleted.discard(key)
            self.rejections.pop(key, None)
            self.upserted[key] = content
        self.rejections.update(later.rejections)
        self.reports.update(later.reports)

    def __bool__(self) -> bool:
        return bool(self.upserted or self.deleted or self.rejections or self.reports)


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
