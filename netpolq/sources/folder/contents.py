"""Content of a manifest folder that is in force, updated by scans.

The rules, by priority: a half-written file is never used; an unreadable file never removes an object, and isolates what it may concern
(`retained.py`); a deleted file removes its objects. The code is synchronous, and time is an argument.
"""

import hashlib
import time

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from netpolq.model import Rejection, Update
from netpolq.sources.folder.manifest_file import Content, OnIgnored, parse, unreadable
from netpolq.sources.folder.objects import FolderObjects, RetainedFile
from netpolq.sources.folder.open_file import OpenFile, Writers, open_file
from netpolq.sources.folder.retained import Retained
from netpolq.sources.folder.scan import Fingerprint, Scan, scan

STABLE_NS = {Writers.NONE: 0, Writers.UNKNOWN: 100_000_000, Writers.SOME: 1_000_000_000}
"""How long a file must stay as it is before it is read."""

ABANDONED_NS = 30_000_000_000
"""A file that a process holds open for writing this long without a change is used as it is, and a large one that is written this long holds
nothing back any more.
"""

VANISHED_NS = 40_000_000
"""How long a file must be missing before its objects go: many writers remove a file just before they write the new one."""

CLOCK_TICK_NS = 50_000_000
"""A file changed less than this before it was read may change again without a new time stamp, so it is read again."""

INLINE_BYTES = 512 * 1024
"""Bytes of changed files that one scan parses itself, the smallest files first; YAML of this size takes about a second. The background
executor parses the rest, so that a policy in a small file need not wait for a large one.
"""

POLL_NS = 250_000_000
"""Interval of scans while a process writes a file, in addition to the events."""


@dataclass(slots=True, kw_only=True)
class _File:
    """A file and its content in force (`retained`). `read`: its fingerprint when it was read, None to read it again.

    `digest`: of what was last read, empty if it was unreadable. `parsed`: the content of that, None once it is in force.
    `seen`, `seen_ns`: the latest fingerprint, and since when. `missing_ns`: since when the file is missing, or None.
    """

    retained: Retained = field(default_factory=Retained)
    read: Fingerprint | None = None
    digest: bytes = b""
    parsed: Future[Content] | None = None
    seen: Fingerprint | None = None
    seen_ns: int = 0
    missing_ns: int | None = None


@dataclass(slots=True, kw_only=True)
class ScanResult:
    """Result of a refresh. `rescan_after_ns`: delay of the next scan without an event, or None. `is_unfinished`: whether a process writes
    files, and `unread_bytes`: their size. `is_parsing`: whether the background executor parses files. `inline_bytes`: size of the files
    that the refresh has parsed itself.
    """

    scan: Scan
    rescan_after_ns: int | None = None
    is_unfinished: bool = False
    is_parsing: bool = False
    inline_bytes: int = 0
    unread_bytes: int = 0

    def rescan_after(self, after_ns: int) -> None:
        """Request another scan after this time, unless an earlier one is requested."""
        self.rescan_after_ns = after_ns if self.rescan_after_ns is None else min(self.rescan_after_ns, after_ns)


class FolderContents:
    """The files of a folder and their objects. `stable_ns`: see STABLE_NS. `background`: parses large files, or None. `on_ignored`: see
    `parse`.
    """

    def __init__(
        self,
        folder: str,
        stable_ns: Mapping[Writers, int] = STABLE_NS,
        background: Executor | None = None,
        on_ignored: OnIgnored | None = None,
    ) -> None:
        self._on_ignored = on_ignored
        self._folder = folder
        self._background = background
        self._stable_ns = stable_ns
        self._files: dict[str, _File] = {}
        self._unreadable: Mapping[str, str] = {}
        self._root: tuple[int, int] | None = None
        self._writing_ns: int | None = None
        self._objects = FolderObjects()
        self._delivered: tuple[tuple[Rejection, ...], Mapping[str, int]] | None = None

    def refresh(self, now_ns: int) -> ScanResult:
        """Scan the folder and read the changed files. `now_ns`: `time.monotonic_ns()`."""
        found = scan(self._folder)
        if found.root != self._root and not found.files and self._files:
            # An unmounted volume leaves an empty folder, and a new folder may be filled soon.
            found.unreadable.setdefault("", "was replaced by an empty folder")
        elif found.files:
            self._root = found.root
        self._unreadable = found.unreadable
        result = ScanResult(scan=found)
        for path in found.files:
            self._files.setdefault(path, _File()).missing_ns = None
        changed = [path for path, fingerprint in found.files.items() if not fingerprint or fingerprint != self._files[path].read]
        contents = [(self._files[path], self._new_content(path, now_ns, result)) for path in sorted(changed, key=found.size)]
        holds_back = self._holds_back(result, now_ns)
        for file, content in contents:
            if content is not None and holds_back and file.retained.loses(content):
                file.read = None
            elif content is not None:
                file.retained, file.parsed = file.retained.updated(content), None
        for path in self._files.keys() - found.files.keys():
            self._miss(path, now_ns, result, holds_back=holds_back)
        if holds_back:
            result.rescan_after(POLL_NS)
        return result

    def update(self, observed_ns: int) -> Update | None:
        """The changes since the last call, or None. The first call always returns an update."""
        upserted, deleted = self._objects.change(
            {path: RetainedFile(file.retained.content, file.missing_ns is not None) for path, file in self._files.items()}
        )
        contents = [self._files[path].retained.content for path in sorted(self._files)]
        ignored: Counter[str] = Counter()
        for content in contents:
            if content.ignored:
                ignored.update(content.ignored)
        rejections = (
            *(
                Rejection(
                    origin=_printable(directory or "."),
                    message=f"the folder cannot be read: {reason}",
                    consequence="what was last read from it stays in force",
                )
                for directory, reason in sorted(self._unreadable.items())
            ),
            *(rejection for content in contents for rejection in content.rejections),
            *(
                Rejection(
                    origin=_printable(path),
                    document=document,
                    key=str(key),
                    message=f"is also in {_printable(first_path)} document {first_document}",
                    consequence="the one there is used",
                )
                for path, document, key, first_path, first_document in self._objects.duplicates()
            ),
        )
        if not upserted and not deleted and self._delivered == (rejections, ignored):
            return None
        self._delivered = rejections, ignored
        return Update(upserted=upserted, deleted=deleted, rejections=rejections, ignored=ignored, observed_ns=observed_ns)

    def _holds_back(self, result: ScanResult, now_ns: int) -> bool:
        """Whether a large file may have objects that others have lost: an object that moves must not be missing in between."""
        if result.unread_bytes <= INLINE_BYTES:
            self._writing_ns = None
        elif self._writing_ns is None:
            self._writing_ns = now_ns
        return result.is_parsing or (self._writing_ns is not None and now_ns - self._writing_ns < ABANDONED_NS)

    def _new_content(self, path: str, now_ns: int, result: ScanResult) -> Content | None:
        """Read a changed file. Returns its content if that is complete and not in force."""
        file = self._files[path]
        if file.parsed is not None and not file.parsed.done():
            result.is_parsing = True
            return None
        try:
            with open_file(f"{self._folder}/{path}") as opened:
                return self._read(path, file, opened, now_ns, result)
        except FileNotFoundError:
            result.rescan_after(VANISHED_NS)
        except OSError as error:
            # Read again at each scan: permission may come without a change of the file.
            file.read, file.digest, file.parsed = None, b"", None
            file.retained = file.retained.updated(unreadable(_printable(path), error.strerror or str(error)))
        return None

    def _read(self, path: str, file: _File, opened: OpenFile, now_ns: int, result: ScanResult) -> Content | None:
        file.read = None
        if file.seen != opened.fingerprint:
            file.seen, file.seen_ns = opened.fingerprint, now_ns
        writers = opened.writers()
        still_ns = now_ns - file.seen_ns
        wait_ns = min(self._stable_ns[writers] - still_ns, POLL_NS)
        data = opened.read() if wait_ns <= 0 else b""
        if wait_ns > 0 or not opened.is_unchanged(writers):
            result.rescan_after(max(wait_ns, CLOCK_TICK_NS))
            result.unread_bytes += opened.fingerprint.size
            result.is_unfinished = True
            return None
        may_change_unseen = 0 <= time.time_ns() - opened.fingerprint.modified_ns < CLOCK_TICK_NS
        digest = hashlib.blake2b(data).digest()
        if digest != file.digest:
            file.digest, file.parsed = digest, self._parse(path, data, result)
        if file.parsed is not None:
            if not file.parsed.done():
                result.is_parsing = True
                return None
            if writers is Writers.SOME and still_ns < ABANDONED_NS and file.retained.is_spoiled_by(file.parsed.result()):
                message = "still open for writing, and its content is incomplete"
                file.retained = file.retained.with_rejection(_printable(path), message)
                result.rescan_after(POLL_NS)
                return None
        if may_change_unseen:
            result.rescan_after(CLOCK_TICK_NS)
        else:
            file.read = opened.fingerprint
        return None if file.parsed is None else file.parsed.result()

    def _parse(self, path: str, data: bytes, result: ScanResult) -> Future[Content]:
        """Parse a file, or have it parsed in the background."""
        result.inline_bytes += len(data)
        if self._background is not None and result.inline_bytes > INLINE_BYTES:
            return self._background.submit(parse, _printable(path), data, self._on_ignored)
        parsed: Future[Content] = Future()
        parsed.set_result(parse(_printable(path), data, self._on_ignored))
        return parsed

    def _miss(self, path: str, now_ns: int, result: ScanResult, *, holds_back: bool) -> None:
        """Forget a missing file after some time."""
        file = self._files[path]
        if any(path.startswith(directory) for directory in self._unreadable):
            file.missing_ns = None
            return
        if file.missing_ns is None:
            file.missing_ns = now_ns
        if holds_back:
            return
        if now_ns - file.missing_ns >= VANISHED_NS:
            del self._files[path]
        else:
            result.rescan_after(file.missing_ns + VANISHED_NS - now_ns)


def _printable(path: str) -> str:
    """A printable path: file names may contain any byte."""
    return path if path.isprintable() else ascii(path)[1:-1]
