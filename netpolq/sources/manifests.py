"""The manifest folder as a source: namespaces, pods and policies as YAML or JSON files, watched for changes."""

import asyncio
import os
import time

from pathlib import Path

from netpolq.errors import BootError, NetpolqError
from netpolq.model import Update
from netpolq.sources.base import Deliver
from netpolq.sources.folder_contents import FolderContents
from netpolq.sources.folder_watch import FolderWatch
from netpolq.sources.manifest_file import Writers

QUIET_S = 0.003
"""Events closer together than this are looked at together: writing a file is several."""

BURST_S = 0.05
"""A burst of events is looked at after this time, whether it has ended or not."""

SAFETY_S = 30.0
"""The folder is looked at this often without any event: for file systems without inotify, and for links that lead through others."""

UNWATCHED_S = 1.0
"""The same, while the folder is not there or not all of it can be watched."""

FIRST_SYNC_S = 2.0
"""The first sync waits this long for files that are being written while it starts."""


class ManifestFolder:
    """A `Source`. Every *.yaml, *.yml and *.json below the folder counts, unless hidden; the first by path wins where two say the same.

    A broken file keeps its last good content in force; where there is none, what can be read of it is used and a policy that cannot be
    read isolates. A folder that disappears changes nothing but the rejections.
    """

    def __init__(self, path: Path) -> None:
        self._path = _absolute(path)

    @property
    def location(self) -> str:
        """The folder, as an absolute path."""
        return self._path

    async def run(self, deliver: Deliver) -> None:
        """See `Source.run`. Raises `BootError` if the folder cannot be read at the start: an empty one would withdraw every policy."""
        contents = FolderContents(self._path)
        observed_ns = started_ns = time.monotonic_ns()
        is_synced = False
        with FolderWatch() as watch:
            while True:
                look = await asyncio.to_thread(contents.look, time.monotonic_ns())
                if not is_synced and "" in look.scan.unreadable:
                    raise BootError(f"manifest folder {self._path}: {look.scan.unreadable['']}")
                has_new_watches = watch.follow(look.scan)
                overdue = time.monotonic_ns() - started_ns > FIRST_SYNC_S * 1e9
                if is_synced or overdue or not (has_new_watches or look.unfinished):
                    update = await asyncio.to_thread(contents.update, observed_ns)
                    is_synced = True
                    if update is not None:
                        deliver(update)
                if has_new_watches:
                    continue
                blind = "" in look.scan.unreadable or not watch.complete
                wait_s = UNWATCHED_S if blind else SAFETY_S
                if look.again_ns is not None:
                    wait_s = min(wait_s, look.again_ns / 1e9)
                changed = await watch.changed(wait_s)
                observed_ns = time.monotonic_ns()
                if changed:
                    await watch.quiet(QUIET_S, BURST_S)


def load(path: Path) -> Update:
    """The folder's present content, read once and without waiting for writers. Raises `NetpolqError` if it cannot be read."""
    folder = _absolute(path)
    contents = FolderContents(folder, settle_ns=dict.fromkeys(Writers, 0))
    now_ns = time.monotonic_ns()
    look = contents.look(now_ns)
    if "" in look.scan.unreadable:
        raise NetpolqError(f"manifest folder {folder}: {look.scan.unreadable['']}")
    update = contents.update(now_ns)
    assert update is not None  # noqa: S101  (the first call always answers)
    return update


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  (Path.absolute keeps "..")
