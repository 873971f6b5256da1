"""One manifest file: whether anybody still writes to it, its bytes, and the objects they describe."""

import fcntl
import os
import signal

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

import orjson

from netpolq.model import NetworkPolicy, Object, ObjectKey, Rejection
from netpolq.sources.decode import UNNAMED, DecodeError, Ignored, decode_all
from netpolq.sources.folder_scan import Fingerprint
from netpolq.sources.yaml_values import Document, YAMLTextError, documents

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_REJECTIONS = 50
"""Complaints about one file that are listed; the rest is counted."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class UnreadableError(Exception):
    """A file has no content that could be looked at; its text says why."""


class Writers(Enum):
    """Whether a process has a file open for writing."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


class OpenFile(NamedTuple):
    """A file opened for reading."""

    descriptor: int
    fingerprint: Fingerprint

    def writers(self) -> Writers:
        """Asks the kernel: a read lease is only granted on a file that nobody has open for writing. It is given back at once.

        A process that opens the file for writing in that instant waits for it, and the kernel tells the holder by a signal: made one
        that is ignored by default, for the usual one would end the process. Source: fcntl(2), F_SETLEASE; it wants the file's owner or
        CAP_LEASE, and a file system that has leases.
        """
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(self.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return Writers.SOME
        except OSError:
            return Writers.UNKNOWN
        return Writers.NONE

    def is_unchanged(self, writers: Writers) -> bool:
        """Whether the file is still as it was opened, and nobody has begun to write to it."""
        return Fingerprint.of(os.fstat(self.descriptor)) == self.fingerprint and self.writers() is writers

    def read(self) -> bytes:
        """The bytes. Raises `UnreadableError` where there are too many, OSError where reading fails."""
        if self.fingerprint.size > MAX_FILE_BYTES:
            raise UnreadableError(f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
        data = bytearray()
        while len(data) <= MAX_FILE_BYTES and (chunk := os.read(self.descriptor, 1 << 20)):
            data += chunk
        if len(data) > MAX_FILE_BYTES:
            raise UnreadableError(f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
        return bytes(data)


@contextmanager
def open_file(path: str) -> Iterator[OpenFile]:
    """Open a file for reading. Raises OSError. Never waits, whatever the path has become meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        yield OpenFile(descriptor, Fingerprint.of(os.fstat(descriptor)))
    finally:
        os.close(descriptor)


class Located(NamedTuple):
    """An object and the number of the document that it stands in."""

    document: int
    item: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a file says. `rejections`: what in it cannot be used as written; what stands in for that is among the objects."""

    objects: tuple[Located, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    def keys(self) -> frozenset[ObjectKey]:
        """The objects it speaks of."""
        return frozenset(located.item.key for located in self.objects)


def parse(origin: str, data: bytes) -> Content:
    """The content of a file. `origin`: its path relative to the folder. Raises `UnreadableError` where no document can be told apart."""
    text = _text(data)
    objects: list[Located] = []
    rejections: list[Rejection] = []
    ignored: Counter[str] = Counter()
    unnamed = 0
    for document, value in _documents(origin, text):
        if isinstance(value, YAMLTextError):
            rejections.append(
                Rejection(origin=origin, document=document, key="", field="", message=str(value), consequence="it is not used")
            )
            continue
        for item in decode_all(value):
            if isinstance(item, Ignored):
                ignored[item.kind] += 1
            elif not isinstance(item, DecodeError):
                objects.append(Located(document, item))
            else:
                rejections.append(
                    Rejection(
                        origin=origin,
                        document=document,
                        key=item.key,
                        field=item.field,
                        message=item.message,
                        consequence=item.consequence,
                    )
                )
                partial = item.partial
                if isinstance(partial, NetworkPolicy) and partial.name == UNNAMED:
                    unnamed += 1
                    partial = replace(partial, name=f"(unnamed {unnamed} of {origin})")
                if partial is not None:
                    objects.append(Located(document, partial))
    return Content(objects=tuple(objects), rejections=_clipped(origin, rejections), ignored=ignored)


def _documents(origin: str, text: str) -> Iterator[Document]:
    if origin.endswith(".json"):
        try:
            yield Document(1, orjson.loads(text))
        except orjson.JSONDecodeError as error:
            raise UnreadableError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    else:
        # A document without content is none.
        yield from (document for document in documents(text) if document.value is not None)


def _text(data: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte order mark."""
    if not data.strip():
        # Emptying is how many a writer begins, and what a crash leaves behind; to withdraw objects, the file is deleted.
        raise UnreadableError("the file is empty")
    if data.startswith(_UTF16_MARKS):
        raise UnreadableError("the file is UTF-16 and must be UTF-8")
    if (position := data.find(b"\0")) >= 0:
        raise UnreadableError(f"line {_line(data, position)}: a NUL byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"line {_line(data, error.start)}: not UTF-8 (byte {data[error.start]:#04x})") from error


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _clipped(origin: str, rejections: list[Rejection]) -> tuple[Rejection, ...]:
    if len(rejections) <= MAX_REJECTIONS:
        return tuple(rejections)
    more = Rejection(
        origin=origin,
        document=0,
        key="",
        field="",
        message=f"{len(rejections) - MAX_REJECTIONS} more problems like these",
        consequence="treated in the same way",
    )
    return (*rejections[:MAX_REJECTIONS], more)
