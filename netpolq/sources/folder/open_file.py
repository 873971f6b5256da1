"""A manifest file that is open for reading: whether a process still writes to it, and its bytes."""

import fcntl
import os
import signal

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

from netpolq.sources.folder.scan import Fingerprint

MAX_FILE_BYTES = 64 * 1024 * 1024


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
