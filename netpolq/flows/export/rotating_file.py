"""A file of lines that only grows, with rotation by size: PATH, PATH.1 (newer), PATH.2, …

All calls block, and are for one thread at a time. Other programs may remove the file, move it away (logrotate) or truncate it, and the
agent that takes over appends to the same file: so each append takes a lock, and looks whether the open file still has this path.
"""

import errno
import fcntl
import os
import stat
import time

from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_LOCK_ATTEMPTS = 20
_LOCK_PAUSE_S = 0.05
_MAX_TAIL_BYTES = 1 << 20
"""Maximum length of an incomplete last line that is looked at. Records have a few kilobytes."""


class UnusableFileError(Exception):
    """What has this path must not be written. The message says why."""


class RotatingFile:
    """Appends to `path`. A file that would grow beyond `max_bytes` is moved away first; `keep` of these are kept.

    `line_start`: with these bytes each line begins. An incomplete last line that begins so is a rest of a failed write, and is removed.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, line_start: bytes = b"") -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._line_start = line_start
        self._fd: int | None = None

    def append(self, data: bytes) -> None:
        """Append whole lines with one write, or nothing. Raises `OSError` and `UnusableFileError`."""
        fd = self._locked()
        try:
            size = os.fstat(fd).st_size
            if size and size + len(data) > self._max_bytes:
                self._rotate()
                self.close()
                fd = self._locked()
                size = os.fstat(fd).st_size
            self._write(fd, data, size)
        finally:
            if self._fd is not None:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _locked(self) -> int:
        """The open file that has the path now, locked."""
        for _ in range(_LOCK_ATTEMPTS):
            is_new = self._fd is None
            fd = self._open() if self._fd is None else self._fd
            self._fd = fd
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
                continue
            if not self._has_path(fd):
                self.close()
                continue
            if is_new:
                self._repair(fd)
            return fd
        raise OSError(errno.EAGAIN, "another process keeps it locked, or replaces it again and again")

    def _open(self) -> int:
        fd = os.open(self._path, _FLAGS, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            problem = "it is not a regular file"
        elif found.st_uid != os.geteuid():
            problem = f"it belongs to user {found.st_uid}, and must belong to user {os.geteuid()}"
        elif found.st_nlink > 1:
            problem = "it has another name (hard link), so that another file would be written"
        else:
            return fd
        os.close(fd)
        raise UnusableFileError(problem)

    def _has_path(self, fd: int) -> bool:
        try:
            named = self._path.lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def _repair(self, fd: int) -> None:
        """Remove the rest of a line that an earlier process could not complete; or end a line that is not one of this program."""
        size = os.fstat(fd).st_size
        start = max(size - _MAX_TAIL_BYTES, 0)
        tail = os.pread(fd, size - start, start)
        if not tail or tail.endswith(b"\n"):
            return
        rest = tail[tail.rfind(b"\n") + 1 :]
        if rest[: len(self._line_start)] == self._line_start[: len(rest)]:
            os.ftruncate(fd, size - len(rest))
        else:
            self._write(fd, b"\n", size)

    def _write(self, fd: int, data: bytes, size: int) -> None:
        try:
            written = os.write(fd, data)
            if written < len(data):
                os.write(fd, data[written:])  # raises the reason, such as a full disk
                raise OSError(errno.EIO, "a write ended early")
        except OSError:
            self._take_back(fd, size)
            raise

    def _take_back(self, fd: int, size: int) -> None:
        try:
            if os.fstat(fd).st_size > size:  # else another program has truncated the file meanwhile
                os.ftruncate(fd, size)
        except OSError:
            self.close()  # so that the next append looks at the last line

    def _rotate(self) -> None:
        if not self._keep:
            self._path.unlink()
            return
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
