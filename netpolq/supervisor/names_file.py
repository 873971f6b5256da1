"""Copy of the learned names in the run directory, which the next supervisor reads. See `netpolq.names.document`."""

import asyncio
import logging
import os
import stat
import time

from contextlib import suppress
from pathlib import Path

from netpolq.names.document import MAX_DOCUMENT_BYTES, KeptPair, decode, encode

log = logging.getLogger("names")


class NamesFile:
    """Reads and writes the file. `problem`: why the last write failed, or None."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = asyncio.Lock()
        self.problem: str | None = None

    @property
    def is_missing(self) -> bool:
        """Whether another program has removed the file."""
        return not self._path.exists()

    def load(self) -> list[KeptPair]:
        """The pairs, with their expiry in monotonic seconds. None for a file that does not exist or cannot be used, with a log line."""
        try:
            return decode(_read(self._path), now_s=time.monotonic(), wall_s=time.time())
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("%s cannot be read: %s; names are learned again", self._path, error.strerror)
        except ValueError as error:
            log.warning("%s is ignored: %s; names are learned again", self._path, error)
        return []

    async def save(self, pairs: list[KeptPair]) -> None:
        """Replace the file."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._write, pairs)
            except OSError as error:
                problem = f"{self._path}: {error.strerror}; the next start will not know the learned names"
                if problem != self.problem:
                    log.warning("%s", problem)
                self.problem = problem
                return
            self.problem = None

    def _write(self, pairs: list[KeptPair]) -> None:
        data = encode(pairs, now_s=time.monotonic(), wall_s=time.time())
        temporary = self._path.with_suffix(".new")
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
            temporary.replace(self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)  # its blocks may be what another program lacks
            raise


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise ValueError(f"it must be a regular file owned by user {os.geteuid()}")
        if found.st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"it has {found.st_size} bytes, and at most {MAX_DOCUMENT_BYTES} are allowed")
        return file.read(MAX_DOCUMENT_BYTES)
