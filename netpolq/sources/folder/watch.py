"""Waiting for something to change in a set of directories, through inotify.

An event only says "look again": what changed is found by looking. So no event has to be understood, and a lost one (a full queue, a
race with a new directory) costs time and nothing else. Where the kernel gives no inotify instance or not enough watches, looking
regularly takes its place.
"""

import asyncio
import contextlib
import errno
import os
import time

from asyncinotify import Event, Inotify, Mask

from netpolq.sources.folder.scan import Scan, is_manifest_name

_STRUCTURE = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
_CONTENT = Mask.MODIFY | Mask.CLOSE_WRITE | Mask.ATTRIB
_ABOUT_THE_WATCH = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED | Mask.Q_OVERFLOW
_WATCHED = _STRUCTURE | _CONTENT | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR | Mask.EXCL_UNLINK

_TAKEN_AT_ONCE = 16384
"""Events taken without pause. Source: the default of fs.inotify.max_queued_events."""


_RETRY_S = 30.0
"""Time between attempts to get an inotify instance. Instances become free when other programs of the same user end."""

_LIMITS = {
    (
        errno.EMFILE,
        "instance",
    ): "no inotify instance is left: raise sysctl fs.inotify.max_user_instances (or the limit of open files)",
    (errno.ENFILE, "instance"): "no file can be opened for inotify: raise sysctl fs.file-max",
    (errno.ENOSPC, "watch"): "no inotify watch is left: raise sysctl fs.inotify.max_user_watches",
}
"""What the kernel's refusals mean. Source: inotify_init(2), inotify_add_watch(2)."""


class FolderWatch:
    """Watches on the directories of the latest scan. A context manager; belongs to one event loop.

    `complete`: whether every one of them is watched; if not, only looking regularly helps. `problem`: why not, where a limit of the kernel
    is the reason, or None.
    """

    def __init__(self) -> None:
        self.complete = True
        self.problem: str | None = None
        self._inotify: Inotify | None = None
        self._tried_s = -_RETRY_S
        self._every_name: set[int] = set()
        self._names: set[tuple[int, str]] = set()

    def __enter__(self) -> "FolderWatch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def follow(self, scan: Scan) -> bool:
        """Watch what a scan found, and nothing else. True if a watch is new: what happened before it was placed, only another scan
        can tell.
        """
        self.problem = self.problem if self._inotify is None else None
        inotify = self._open()
        if inotify is None:
            self.complete = False
            return False
        known = {watch.wd for watch in inotify.watches}
        placed = {path: self._place(inotify, path) for path in scan.directories | {directory for directory, _ in scan.names}}
        current = set(placed.values()) - {None}
        self.complete = None not in placed.values()
        self._every_name = {wd for path in scan.directories if (wd := placed[path]) is not None}
        self._names = {(wd, name) for path, name in scan.names if (wd := placed[path]) is not None}
        for watch in inotify.watches:
            if watch.wd not in current:
                with contextlib.suppress(OSError):  # its directory is gone, and the watch with it
                    inotify.rm_watch(watch)
        return not current <= known

    def _open(self) -> Inotify | None:
        """The instance; None while the kernel gives none, and then `problem` says why."""
        if self._inotify is None and time.monotonic() - self._tried_s >= _RETRY_S:
            self._tried_s = time.monotonic()
            try:
                self._inotify = Inotify(sync_timeout=0)
                os.set_blocking(self._inotify.fd, False)
                self.problem = None
            except OSError as error:
                self.problem = _meaning(error, "instance")
        return self._inotify

    def _place(self, inotify: Inotify, path: str) -> int | None:
        """The watch descriptor of a directory; the same one as long as the directory is the same. None if there can be none."""
        try:
            return inotify.add_watch(path, _WATCHED).wd
        except OSError as error:
            if (error.errno, "watch") in _LIMITS:
                self.problem = _meaning(error, "watch")
            return None

    async def changed(self, within_s: float) -> bool:
        """Whether anything that matters happens within a time. Returns at once when it does."""
        if self._inotify is None:
            await asyncio.sleep(within_s)
            return False
        try:
            async with asyncio.timeout(within_s):
                while not self._matters(await self._inotify.get()):
                    pass
        except TimeoutError:
            return False
        return True

    async def quiet(self, for_s: float, at_most_s: float) -> None:
        """Wait until nothing that matters has happened for a time, but not longer than `at_most_s`."""
        deadline = time.monotonic() + at_most_s
        while time.monotonic() < deadline and await self.changed(for_s):
            pass

    def take_events(self) -> bool:
        """Forget all events so far; whether any of them mattered. Call it after looking, too: what happens meanwhile is seen in part."""
        mattered = False
        if self._inotify is None:
            return False
        for _ in range(_TAKEN_AT_ONCE):
            event = self._inotify.sync_get()
            if event is None:
                break
            mattered |= self._matters(event)
        return mattered

    def _matters(self, event: Event) -> bool:
        if event.mask & _ABOUT_THE_WATCH:
            return True
        if event.watch is None or event.name is None:
            return False
        name = str(event.name)
        if (event.watch.wd, name) in self._names:
            return True
        if event.watch.wd not in self._every_name or name.startswith("."):
            return False
        return bool(event.mask & (_STRUCTURE | Mask.ISDIR)) or is_manifest_name(name)


def _meaning(error: OSError, of: str) -> str:
    meaning = _LIMITS.get((error.errno or 0, of), f"inotify cannot be used: {error.strerror or error}")
    return f"{meaning}; the folder is looked at every second instead"
