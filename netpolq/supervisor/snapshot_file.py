"""Copy of the newest snapshot in the run directory, which workers use after a restart until the first sync.

Copying every version would write megabytes many times a second. So the file is written at most once a second, and may be older than the
version in force. No start may use an older one, so the file has a mark of one byte (`netpolq.snapshot.memfd.mark`). Before a version is
sent to the workers, the file is marked as stale. It is marked as newest only when the newest version is written and no newer one was sent
in between. A crash at any point leaves a file that the next start refuses.
"""

import asyncio
import logging
import os

from contextlib import suppress
from pathlib import Path

from netpolq.snapshot import memfd

SAVE_INTERVAL_S = 1.0
"""Minimum interval between two copies, and the interval of checks: the file may be removed, or a full disk may have room again."""

log = logging.getLogger("snapshot")


class SnapshotFile:
    """Writes the newest snapshot in another thread, at most once per `SAVE_INTERVAL_S`. Replaces the file atomically.

    Writes nothing before `begin`: until then the supervisor of another agent may write the same file. `problem`: why the newest snapshot
    is not kept, or None.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = -1
        self._sent = 0  # versions so far, including those whose send may have failed
        self._saved = 0
        self._file: tuple[int, int, int] | None = None  # device, inode and size of the one that is marked as the newest
        self._is_marked_stale = False
        self._given = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self.problem: str | None = None

    def outdate(self) -> None:
        """Mark the file as stale, before a newer version is sent."""
        self._sent += 1
        if self._task is not None and not self._is_marked_stale:
            self._mark_stale()

    def keep(self, descriptor: int) -> None:
        """Schedule a sealed snapshot for writing, unless a newer one comes first. The caller still owns the descriptor."""
        self._forget()
        self._newest = os.dup(descriptor)
        self._given.set()

    def begin(self) -> None:
        """Start to write: no other process writes the file from now on. May be called repeatedly."""
        if self._task is None:
            if self._sent:
                self._mark_stale()
            self._task = asyncio.create_task(self._run())

    def _mark_stale(self) -> None:
        self._file = None
        try:
            memfd.mark(self._path, is_newest=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            try:
                self._path.unlink(missing_ok=True)
            except OSError:
                self._set_problem(f"{self._path} cannot be marked as outdated: {error.strerror}; remove it before the next start")
                return
        self._is_marked_stale = True

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def _forget(self) -> None:
        if self._newest >= 0:
            os.close(self._newest)
            self._newest = -1

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAVE_INTERVAL_S):
                    await self._given.wait()
            if self._newest >= 0 and not self._is_kept():
                self._given.clear()
                self._saving = asyncio.create_task(self._save())
                await asyncio.shield(self._saving)
                await asyncio.sleep(SAVE_INTERVAL_S)

    def _is_kept(self) -> bool:
        """Whether the file still has the newest snapshot: another program may have emptied the directory."""
        if self._saved != self._sent or self._file is None:
            return False
        try:
            return self._file == _identity(self._path.lstat())
        except OSError:
            return False

    async def _save(self) -> None:
        sent, descriptor = self._sent, os.dup(self._newest)
        try:
            await asyncio.to_thread(self._write, descriptor)
            if sent == self._sent:
                self._file = _identity(memfd.mark(self._path, is_newest=True))
                self._is_marked_stale = False
                self._saved = sent
            self._set_problem(None)
        except OSError as error:
            self._set_problem(f"{self._path}: {error.strerror}; the next start will have no snapshot before its first sync")
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        memfd.save(self._path, descriptor)

    async def leave(self) -> None:
        """Write the newest snapshot if the file lacks it, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if self._saving is not None:
                await self._saving  # the writing thread cannot be cancelled, and two must not write at once
            if self._newest >= 0 and not self._is_kept():
                await self._save()
        self._forget()


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_size
