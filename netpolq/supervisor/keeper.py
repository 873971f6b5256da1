"""The copy of the newest snapshot in the run directory, by which workers judge after a restart until the first sync."""

import asyncio
import logging
import os

from pathlib import Path

from netpolq.snapshot import region

SAVE_INTERVAL_S = 1.0
"""At least this long between two copies: in a large cluster, one for every change would be megabytes many times a second."""

log = logging.getLogger("keeper")


class Keeper:
    """Writes the newest snapshot it was given, in another thread and not too often. A file is replaced whole or not at all.

    Writes nothing before `begin`: until then the supervisor of another agent may be writing the same file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = -1
        self._given = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def keep(self, descriptor: int) -> None:
        """Have a sealed snapshot written, unless a newer one comes first. Does not take over the descriptor."""
        self._forget()
        self._newest = os.dup(descriptor)
        self._given.set()

    def begin(self) -> None:
        """Nobody else writes the file from now on. May be told more than once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    def _forget(self) -> None:
        if self._newest >= 0:
            os.close(self._newest)
            self._newest = -1

    async def _run(self) -> None:
        while True:
            await self._given.wait()
            self._given.clear()
            descriptor, self._newest = self._newest, -1
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, descriptor))
            await asyncio.shield(self._writing)
            await asyncio.sleep(SAVE_INTERVAL_S)

    def _write(self, descriptor: int) -> None:
        """Write a snapshot. Takes over the descriptor."""
        try:
            region.save(self._path, descriptor)
        except OSError as error:
            log.warning("%s: %s; the next start will have no snapshot before its first sync", self._path, error.strerror)
        finally:
            os.close(descriptor)

    async def leave(self) -> None:
        """Write what is not written yet, and nothing after that."""
        if self._task is None:
            self._forget()
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._writing is not None:
            await self._writing  # the thread that writes cannot be called off, and two must not write at once
        if self._newest >= 0:
            descriptor, self._newest = self._newest, -1
            self._write(descriptor)
