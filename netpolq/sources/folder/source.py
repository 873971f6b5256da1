"""The manifest folder source: namespaces, pods and policies in YAML or JSON files, watched for changes."""

import asyncio
import logging
import os
import time

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from netpolq.errors import BootError, NetpolqError
from netpolq.hold.ranges import PodRange
from netpolq.model import Update
from netpolq.names.resolvers import DnsService
from netpolq.sources.folder.contents import FolderContents, ScanResult
from netpolq.sources.folder.manifest_file import OnIgnored
from netpolq.sources.folder.open_file import Writers
from netpolq.sources.folder.scan import Scan
from netpolq.sources.folder.watch import FolderWatch
from netpolq.sources.source import Deliver

log = logging.getLogger("source")

QUIET_S = 0.003
"""Events closer together than this lead to one scan: one write of a file causes several."""

BURST_S = 0.05
"""Longest wait for the end of a burst of events before a scan."""

SAFETY_S = 30.0
"""Interval of scans without events: for file systems without inotify, and for links that lead through others."""

UNWATCHED_S = 1.0
"""The same, while the folder does not exist or is not completely watched."""

PATIENCE_S = 0.2
"""A change is delivered after this time even if the folder still changes."""

FIRST_SYNC_S = 2.0
"""The first sync waits this long for files that a process still writes."""


class ManifestFolder:
    """A `Source`. Every *.yaml, *.yml and *.json below the folder counts, unless hidden; of two objects of the same
    name, the first by path is used.

    The last good content of a broken file stays in force; without one, its readable parts are used and an unreadable policy isolates.
    A folder that disappears only adds a rejection.
    """

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.contact_ns: int | None = None
        self.node_exists: bool | None = None
        self.pod_ranges: tuple[PodRange, ...] = ()
        self.problems: list[str] = []
        self._logged: str | None = None

    @property
    def location(self) -> str:
        """The folder, as configured."""
        return str(self._path)

    async def follow_dns_services(self, take: Callable[[tuple[DnsService, ...]], None]) -> None:
        """Services in the folder are not read: return at once."""

    async def run(self, deliver: Deliver) -> None:
        """See `Source.run`. Raises `BootError` if the folder cannot be read at the start: an empty one would withdraw every policy."""
        folder = await asyncio.to_thread(_absolute, self._path)
        background = ThreadPoolExecutor(1, "large-manifests")
        try:
            await self._run(FolderContents(folder, background=background), deliver)
        finally:
            background.shutdown(wait=False, cancel_futures=True)

    async def _run(self, contents: FolderContents, deliver: Deliver) -> None:
        is_synced = False
        noticed_ns = time.monotonic_ns()
        with FolderWatch() as watch:
            while True:
                watch.take_events()
                result = await asyncio.to_thread(contents.refresh, time.monotonic_ns())
                if not is_synced and "" in result.scan.unreadable:
                    raise BootError(f"manifest folder {self._path}: {result.scan.unreadable['']}")
                # The scan may have seen only part of a change during it, such as one of two files that are swapped together.
                has_changed = watch.follow(result.scan) | watch.take_events()
                self._note_problems(result.scan, watch.problem)
                patience_s = PATIENCE_S if is_synced else FIRST_SYNC_S
                is_whole = not has_changed and (is_synced or not result.is_unfinished)
                is_late = time.monotonic_ns() - noticed_ns > patience_s * 1e9
                is_due = (is_whole or is_late) and (is_synced or not result.is_parsing)
                if is_due:
                    update = await asyncio.to_thread(contents.update, noticed_ns)
                    if update is not None:
                        deliver(update)
                    is_synced = True
                has_changed = has_changed or await watch.changed(_wait_s(result, watch))
                if is_due:
                    noticed_ns = time.monotonic_ns()
                if has_changed:
                    await watch.quiet(QUIET_S, BURST_S)

    def _note_problems(self, scan: Scan, of_watch: str | None) -> None:
        """Set `problems` and `contact_ns`, and log a change of the watch's problem."""
        self.problems = [f"{path or '.'}: {reason}" for path, reason in sorted(scan.unreadable.items())]
        if not self.problems:
            self.contact_ns = time.monotonic_ns()
        if of_watch is not None:
            self.problems.append(of_watch)
        if of_watch != self._logged:
            self._logged = of_watch
            log.warning("manifest folder: %s", of_watch or "inotify watches it again")


def _wait_s(result: ScanResult, watch: FolderWatch) -> float:
    """How long to wait for an event before the next scan, in seconds."""
    is_blind = "" in result.scan.unreadable or not watch.complete
    wait_s = UNWATCHED_S if is_blind else SAFETY_S
    return wait_s if result.rescan_after_ns is None else min(wait_s, result.rescan_after_ns / 1e9)


def load(path: Path, on_ignored: OnIgnored | None = None) -> Update:
    """Read the folder's content once, without waiting for writers. `on_ignored`: called for each object of an unused kind.

    Raises `NetpolqError` if it cannot be read.
    """
    folder = _absolute(path)
    contents = FolderContents(folder, stable_ns=dict.fromkeys(Writers, 0), on_ignored=on_ignored)
    now_ns = time.monotonic_ns()
    result = contents.refresh(now_ns)
    if "" in result.scan.unreadable:
        raise NetpolqError(f"manifest folder {folder}: {result.scan.unreadable['']}")
    update = contents.update(now_ns)
    assert update is not None  # noqa: S101  (the first call always returns an update)
    return update


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  (Path.absolute keeps "..")
