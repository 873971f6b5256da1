"""Inotify watch on a set of directories.

An event only triggers a scan, and the scan finds the changes. So a lost event (a full queue, a race with a new directory) costs time
and nothing else. If the kernel refuses an inotify instance or a watch, regular scans replace the events.
"""

import asyncio
import contextlib
import errno
import os
import time

from collections.abc import Callable

from asyncinotify import Event, Inotify, Mask

from netpolq.sources.folder.scan import Scan, is_manifest_name

_STRUCTURE = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
_CONTENT = Mask.MODIFY | Mask.CLOSE_WRITE | Mask.ATTRIB
_WATCH_EVENTS = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED | Mask.Q_OVERFLOW
_WATCHED = _STRUCTURE | _CONTENT | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.EXCL_UNLINK

_MAX_EVENTS = 16384
"""Maximum number of events read without a pause. Source: the default of fs.inotify.max_queued_events."""

_NO_INSTANCE = {
    errno.EMFILE: "no inotify instance is left: raise sysctl fs.inotify.max_user_instances (or the limit of open files)",
    errno.ENFILE: "no file can be opened for inotify: raise sysctl fs.file-max",
}
_NO_WATCH = {errno.ENOSPC: "no inotify watch is left: raise sysctl fs.inotify.max_user_watches"}
_INSTEAD = "the folder is scanned every second instead"
"""Messages for the kernel's refusals. Source: inotify_init(2), inotify_add_watch(2)."""


class FolderWatch:
    """Watches on the directories of the latest scan. A context manager; belongs to one event loop.

    `complete`: whether every one of them has a watch; if not, regular scans are necessary. `problem`: the reason, if it is a limit of the
    kernel, or None. `is_file_name`: whether a file of this name in such a directory matters.
    """

    def __init__(self, is_file_name: Callable[[str], bool] = is_manifest_name) -> None:
        self._is_file_name = is_file_name
        self.complete = True
        self.problem: str | None = None
        self._inotify: Inotify | None = None
        self._every_name: set[int] = set()
        self._names: set[tuple[int, str]] = set()

    def __enter__(self) -> "FolderWatch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def follow(self, scan: Scan) -> bool:
        """Watch exactly the directories of a scan. Returns whether a watch is new: only another scan finds earlier changes in its
        directory.
        """
        self.problem = None
        inotify = self._open()
        if inotify is None:
            self.complete = False
            return False
        known = {watch.wd for watch in inotify.watches}
        paths = scan.directories | {directory for directory, _name in scan.names}
        watches = {path: wd for path in paths if (wd := self._add_watch(inotify, path)) is not None}
        self.complete = len(watches) == len(paths)
        current = set(watches.values())
        self._every_name = {watches[path] for path in scan.directories & watches.keys()}
        self._names = {(watches[path], name) for path, name in scan.names if path in watches}
        for watch in inotify.watches:
            if watch.wd not in current:
                with contextlib.suppress(OSError):  # the kernel removed the watch with its directory
                    inotify.rm_watch(watch)
        return not current <= known

    def _open(self) -> Inotify | None:
        """The inotify instance; None if the kernel refuses one. Each scan tries again: instances become free when other programs end."""
        if self._inotify is None:
            try:
                self._inotify = Inotify(sync_timeout=0)
                os.set_blocking(self._inotify.fd, False)
            except OSError as error:
                reason = _NO_INSTANCE.get(error.errno or 0, f"inotify cannot be used: {error.strerror or error}")
                self.problem = f"{reason}; {_INSTEAD}"
        return self._inotify

    def _add_watch(self, inotify: Inotify, path: str) -> int | None:
        """The watch descriptor of a directory, the same for the same directory; None if the kernel refuses the watch."""
        try:
            return inotify.add_watch(path, _WATCHED).wd
        except OSError as error:
            if error.errno in _NO_WATCH:
                self.problem = f"{_NO_WATCH[error.errno]}; {_INSTEAD}"
            return None

    async def changed(self, within_s: float) -> bool:
        """Whether a relevant event arrives within a time. Returns as soon as it does."""
        if self._inotify is None:
            await asyncio.sleep(within_s)
            return False
        try:
            async with asyncio.timeout(within_s):
                while not self._is_relevant(await self._inotify.get()):
                    pass
        except TimeoutError:
            return False
        return True

    async def quiet(self, for_s: float, at_most_s: float) -> None:
        """Wait until no relevant event has arrived for `for_s`, at most `at_most_s`."""
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline and await self.changed(for_s):
            pass

    def take_events(self) -> bool:
        """Discard all pending events. Returns whether any was relevant. Call it after a scan too, which may see only part of a change."""
        is_relevant = False
        if self._inotify is None:
            return False
        for _ in range(_MAX_EVENTS):
            event = self._inotify.sync_get()
            if event is None:
                break
            is_relevant |= self._is_relevant(event)
        return is_relevant

    def _is_relevant(self, event: Event) -> bool:
        if event.mask & _WATCH_EVENTS:
            return True
        if event.watch is None or event.name is None:
            return False
        name = str(event.name)
        if (event.watch.wd, name) in self._names:
            return True
        if event.watch.wd not in self._every_name or name.startswith("."):
            return False
        return bool(event.mask & (_STRUCTURE | Mask.ISDIR)) or self._is_file_name(name)
