"""The snapshots that pass through the pool: received from the supervisor, validated, given to the workers, kept for the next start."""

import contextlib
import logging
import os

from pathlib import Path

from netpolq.errors import SnapshotError
from netpolq.ipc.channel import Publish, Taken
from netpolq.snapshot.memfd import load, mark, open_view, save, seal
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.pool.spawn import SnapshotHandle
from netpolq_worker.pool.workers import Workers

log = logging.getLogger("pool")


class SnapshotIntake:
    """Validates snapshots and passes them to the workers. `path`: the snapshot file."""

    def __init__(self, workers: Workers, path: Path) -> None:
        self._workers = workers
        self._path = path

    def load_file(self) -> None:
        """Load the snapshot of an earlier pool. The workers evaluate with it until the first one is published."""
        try:
            image = load(self._path)
        except FileNotFoundError:
            return
        except (OSError, SnapshotError) as error:
            log.warning("ignoring the snapshot file %s: %s", self._path, error)
            return
        descriptor = seal(image)
        view = open_view(descriptor)
        self._workers.load(SnapshotHandle(view.version, descriptor))
        log.info("evaluating with snapshot %d of the last run until the first sync", view.version)
        view.close()

    def save_file(self) -> None:
        """Save the newest snapshot for the next pool, if the supervisor has not: it may have been killed."""
        newest = self._workers.snapshot
        if not newest.version:
            return
        with contextlib.suppress(OSError, SnapshotError), contextlib.closing(SnapshotReader(load(self._path))) as kept:
            if kept.version == newest.version:
                return
        try:
            save(self._path, newest.descriptor)
            mark(self._path, is_newest=True)
        except OSError as error:
            log.warning("%s: %s; the next start will have no snapshot before its first sync", self._path, error.strerror)

    def take(self, message: Publish, descriptor: int | None) -> Taken | None:
        """Pass a published snapshot to the workers. Returns the answer; None for a snapshot that is not newer, which has none."""
        if descriptor is None:
            return _reject(message, "it came without its descriptor: the pool has no room for another (RLIMIT_NOFILE)")
        if message.version <= self._workers.snapshot.version:
            log.error("ignoring snapshot %d: it is not newer than snapshot %d", message.version, self._workers.snapshot.version)
            os.close(descriptor)
            return None
        try:
            # A snapshot that cannot be read must not become what new workers start with.
            open_view(descriptor).close()
        except (SnapshotError, OSError) as error:
            os.close(descriptor)
            return _reject(message, str(error))
        # If the pool has missed or rejected the version before, it cannot determine what has changed since the one that it has.
        changed = message.changed if message.version == self._workers.snapshot.version + 1 else None
        self._workers.load(SnapshotHandle(message.version, descriptor), changed)
        return Taken(message.version, "")


def _reject(message: Publish, problem: str) -> Taken:
    log.error("snapshot %d rejected: %s", message.version, problem)
    return Taken(message.version, problem)
