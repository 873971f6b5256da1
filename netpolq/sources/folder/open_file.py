"""An open manifest file: its bytes, and whether a process still writes to it."""

import fcntl
import os
import signal
import stat

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

from netpolq.sources.folder.scan import MISSING_TARGET, Fingerprint

MAX_FILE_BYTES = 64 * 1024 * 1024


class UnreadableError(OSError):
    """A file that is not read: a link to nothing, no regular file, or too large. The message is the reason."""


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
        """Ask the kernel for writers: it grants a read lease only if no process has the file open for writing. Releases it at once.

        A process that opens the file for writing in that instant waits for the release, and the kernel signals the lease holder: with
        SIGURG, which is ignored by default, since the default SIGIO would end the process. Source: fcntl(2), F_SETLEASE; it needs
        the file's owner or CAP_LEASE, and a file system with leases.
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
        """Whether the file is as it was when opened, and the writers are the same."""
        return Fingerprint.of(os.fstat(self.descriptor)) == self.fingerprint and self.writers() is writers

    def read(self) -> bytes:
        """The bytes. Raises OSError, `UnreadableError` if there are too many."""
        size, data = self.fingerprint.size, bytearray()
        while size <= MAX_FILE_BYTES and (chunk := os.read(self.descriptor, 1 << 20)):
            data += chunk
            size = max(size, len(data))
        if size > MAX_FILE_BYTES:
            raise UnreadableError(f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB")
        return bytes(data)


@contextmanager
def open_file(path: str) -> Iterator[OpenFile]:
    """Open a file for reading. Raises OSError, also if there is none, and `UnreadableError` for a link to nothing, a pipe or a device."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        if os.path.islink(path):  # noqa: PTH114
            raise UnreadableError(MISSING_TARGET) from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("not a regular file")  # opening a device may change its state
    # The flags: another program may put a pipe in its place meanwhile, and opening that must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        yield OpenFile(descriptor, Fingerprint.of(os.fstat(descriptor)))
    finally:
        os.close(descriptor)
