"""Watch on the folder of CNI results, and the way of a source's updates past them.

The folder may be missing, come later, be replaced or be unmounted. Events only trigger scans, see `netpolq.sources.folder.watch`.
"""

import asyncio
import logging
import os
import time

from pathlib import Path

from netpolq.model import Update
from netpolq.sources.cni_results.early_addresses import EarlyAddresses
from netpolq.sources.cni_results.folder import Content, ResultsFolder, is_result_name
from netpolq.sources.folder.scan import Scan, path_names
from netpolq.sources.folder.watch import FolderWatch
from netpolq.sources.source import Deliver

QUIET_S = 0.002
"""Events closer together than this lead to one scan: one write of a file causes several."""

BURST_S = 0.02
"""Longest wait for the end of a burst of events before a scan."""

SAFETY_S = 30.0
"""Interval of scans without events."""

UNWATCHED_S = 1.0
"""The same, while inotify does not watch the folder."""

log = logging.getLogger("cni-results")


class CniResults:
    """Puts early addresses into updates. `deliver`: gets the updates of the source, and those that results cause.

    `content`: what is known of the folder. `problem`: the reason why inotify does not watch it, or None.
    """

    def __init__(self, folder: Path, early: EarlyAddresses, deliver: Deliver) -> None:
        self.location = os.path.abspath(folder)  # noqa: PTH100  (Path.absolute keeps "..")
        self.early = early
        self.content = Content(is_present=False)
        self.problem: str | None = None
        self._deliver = deliver

    def on_update(self, update: Update) -> None:
        """Deliver an update of the source with early addresses."""
        self._deliver(self.early.on_update(update))

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        folder = ResultsFolder(self.location)
        noticed_ns = time.monotonic_ns()
        with FolderWatch(is_result_name) as watch:
            while True:
                watch.take_events()
                content = await asyncio.to_thread(folder.scan, time.monotonic_ns(), time.time_ns())
                names = set(path_names("/", self.location))
                has_changed = watch.follow(Scan(directories={self.location} if content.is_present else set(), names=names))
                has_changed |= watch.take_events()
                self.problem = watch.problem
                self._take(content, noticed_ns)
                has_changed = has_changed or await watch.changed(_wait_s(content, watch))
                noticed_ns = time.monotonic_ns()
                if has_changed:
                    await watch.quiet(QUIET_S, BURST_S)

    def _take(self, content: Content, noticed_ns: int) -> None:
        before, self.content = self.content, content
        self._log(before)
        if content.results == before.results:
            return
        update = self.early.on_results(content.results, noticed_ns)
        if update is not None:
            self._deliver(update)

    def _log(self, before: Content) -> None:
        content = self.content
        if content.is_present != before.is_present:
            log.info("folder of CNI results %s: %s", self.location, "is there" if content.is_present else "is gone")
        if content.problem is not None and content.problem != before.problem:
            log.warning("folder of CNI results %s: %s", self.location, content.problem)
        if content.unusable and len(content.unusable) != len(before.unusable):
            log.warning(
                "folder of CNI results %s: %d files are not used, such as %s",
                self.location,
                len(content.unusable),
                content.example,
            )


def _wait_s(content: Content, watch: FolderWatch) -> float:
    """How long to wait for an event before the next scan, in seconds."""
    wait_s = SAFETY_S if watch.complete else UNWATCHED_S
    return wait_s if content.rescan_after_ns is None else min(wait_s, content.rescan_after_ns / 1e9)
