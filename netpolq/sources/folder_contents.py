"""What of a manifest folder is in force, kept up to date by looking at it.

The rules, in order of weight: nothing that was half written is ever taken for what was meant; nothing unreadable ever takes an object
away; a file that is really gone takes its objects with it. Synchronous, and no wiser about time than what it is told.
"""

import hashlib
import time

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from netpolq.model import Object, ObjectKey, Rejection, Update
from netpolq.sources.folder_scan import Fingerprint, FoundFile, Scan, scan
from netpolq.sources.manifest_file import Content, OpenFile, UnreadableError, Writers, open_file, parse

SETTLE_NS = {Writers.NONE: 0, Writers.UNKNOWN: 100_000_000, Writers.SOME: 1_000_000_000}
"""How long a file must stay as it is before it is read."""

ABANDONED_NS = 30_000_000_000
"""A file held open for writing this long without a change is taken as it is."""

VANISHED_NS = 40_000_000
"""How long a file must be missing: many a writer removes a file an instant before it writes the new one."""

CLOCK_TICK_NS = 50_000_000
"""A file changed less than this before it was read may change again without a new time stamp; it is read once more."""

LAST_GOOD = "the file's last good content stays in force"
BEST_SO_FAR = "what could be read of the file before stays in force"
NOT_THERE = "nothing of it is in force"


@dataclass(slots=True)
class _File:
    """A file and what it contributes. `taken`: fingerprint of what was last read, None to have it read again."""

    content: Content = field(default_factory=Content)
    rejections: tuple[Rejection, ...] = ()
    is_good: bool = False
    taken: Fingerprint | None = None
    digest: bytes = b""
    unsettled: Fingerprint | None = None
    unsettled_ns: int = 0
    refused: bool = False
    missing_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class Look:
    """Result of looking. `again_ns`: when to look again without being told of a change, or None. `unfinished`: files that are still
    being written and of which nothing is in force yet.
    """

    scan: Scan
    again_ns: int | None = None
    unfinished: int = 0

    def look_again(self, after_ns: int) -> None:
        """Ask for another look, if none earlier is asked for."""
        self.again_ns = after_ns if self.again_ns is None else min(self.again_ns, after_ns)


class FolderContents:
    """The files of a folder and their objects. `settle_ns`: see SETTLE_NS."""

    def __init__(self, folder: str, settle_ns: Mapping[Writers, int] = SETTLE_NS) -> None:
        self._folder = folder
        self._settle_ns = settle_ns
        self._files: dict[str, _File] = {}
        self._scan = Scan()
        self._root: tuple[int, int] | None = None
        self._delivered: dict[ObjectKey, Object] | None = None
        self._delivered_rejections: tuple[Rejection, ...] = ()
        self._delivered_ignored: Mapping[str, int] = {}

    def look(self, now_ns: int) -> Look:
        """Look at the folder and read what changed. `now_ns`: `time.monotonic_ns()`."""
        found = scan(self._folder)
        if found.root != self._root and not found.files and self._files:
            # What an unmounted volume leaves in its place, or a folder that is about to be filled.
            found.unreadable.setdefault("", "was replaced by an empty folder")
        elif found.files:
            self._root = found.root
        self._scan = found
        look = Look(scan=found)
        for path, file in found.files.items():
            self._look_at(path, file, now_ns, look)
        for path in [path for path in self._files if path not in found.files]:
            self._miss(path, now_ns, look)
        return look

    def update(self, observed_ns: int) -> Update | None:
        """What changed since the last call, or None. The first call always has an answer."""
        objects, duplicates, ignored = self._compose()
        rejections = (*self._folder_rejections(), *self._file_rejections(), *duplicates)
        before = {} if self._delivered is None else self._delivered
        upserted = tuple(item for key, item in objects.items() if before.get(key) != item)
        deleted = tuple(key for key in before if key not in objects)
        unchanged = (
            not upserted and not deleted and rejections == self._delivered_rejections and ignored == self._delivered_ignored
        )
        if unchanged and self._delivered is not None:
            return None
        self._delivered, self._delivered_rejections, self._delivered_ignored = objects, rejections, ignored
        return Update(upserted=upserted, deleted=deleted, rejections=rejections, ignored=ignored, observed_ns=observed_ns)

    def _look_at(self, path: str, found: FoundFile, now_ns: int, look: Look) -> None:
        file = self._files.setdefault(path, _File())
        file.missing_ns = None
        if found.fingerprint is not None and found.fingerprint == file.taken:
            return
        try:
            if found.problem:
                raise UnreadableError(found.problem)
            with open_file(found.path) as opened:
                self._read(path, file, opened, now_ns, look)
        except FileNotFoundError:
            look.look_again(VANISHED_NS)
        except (OSError, UnreadableError) as error:
            message = (error.strerror if isinstance(error, OSError) else None) or str(error)
            file.taken, file.digest = (found.fingerprint if isinstance(error, UnreadableError) else None), b""
            self._reject(path, file, Content(rejections=(_rejection(path, message),)))

    def _read(self, path: str, file: _File, opened: OpenFile, now_ns: int, look: Look) -> None:
        writers = opened.writers()
        if not self._is_settled(file, opened.fingerprint, writers, now_ns, look):
            if not file.content.objects:
                look.unfinished += 1
            return
        data = opened.read()
        if time.time_ns() - opened.fingerprint.modified_ns < CLOCK_TICK_NS:
            look.look_again(CLOCK_TICK_NS)
            taken = None
        else:
            taken = opened.fingerprint
        digest = hashlib.blake2b(data).digest()
        if digest == file.digest and not file.refused:
            file.taken = taken
            return
        try:
            content = parse(path, data)
        except UnreadableError as error:
            content = Content(rejections=(_rejection(path, str(error)),))
        held_open = writers is Writers.SOME and now_ns - file.unsettled_ns < ABANDONED_NS
        if held_open and (content.rejections or not content.keys() >= file.content.keys()) and file.content.objects:
            file.refused = True
            file.rejections = (_rejection(path, "still open for writing, and what it holds so far is not whole", BEST_SO_FAR),)
            return
        file.taken, file.digest, file.unsettled, file.refused = taken, digest, None, False
        if content.rejections:
            self._reject(path, file, content)
        else:
            file.content, file.rejections, file.is_good = content, (), True
