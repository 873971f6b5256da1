"""Content of a manifest folder that is in force, updated by scans.

The rules, by priority: a half-written file is never used; an unreadable file never removes an object, and isolates what it may concern
(`broken_file.py`); a deleted file removes its objects. The code is synchronous, and time is an argument.
"""

import hashlib
import time

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from netpolq.model import Rejection, Update
from netpolq.sources.folder.broken_file import Retained
from netpolq.sources.folder.manifest_file import Content, parse, unreadable
from netpolq.sources.folder.objects import FolderObjects, RetainedFile
from netpolq.sources.folder.open_file import OpenFile, UnreadableError, Writers, open_file
from netpolq.sources.folder.scan import Fingerprint, FoundFile, Scan, scan

STABLE_NS = {Writers.NONE: 0, Writers.UNKNOWN: 100_000_000, Writers.SOME: 1_000_000_000}
"""How long a file must stay as it is before it is read."""

ABANDONED_NS = 30_000_000_000
"""A file that a process holds open for writing this long without a change is used as it is."""

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


@dataclass(slots=True)
class _File:
    """A file and its content in force (`retained`). `taken`: fingerprint of the last read, None to read the file again. `seen`, `seen_ns`:
    the latest fingerprint, and since when.
    """

    retained: Retained = field(default_factory=Retained)
    taken: Fingerprint | None = None
    digest: bytes = b""
    seen: Fingerprint | None = None
    seen_ns: int = 0
    refused: bool = False
    missing_ns: int | None = None
    parsing: "_Parsing | None" = None


@dataclass(slots=True)
class _Parsing:
    """A content in the background executor, or one that waits for others there, with the fingerprint and digest of the file."""

    fingerprint: Fingerprint
    digest: bytes
    content: Future[Content]


@dataclass(slots=True, kw_only=True)
class ScanResult:
    """Result of a refresh. `rescan_after_ns`: delay of the next scan without an event, or None. `unfinished`: files that a process still
    writes and that have no content in force yet. `parsing`: files in the background executor. `inline_bytes`: size of the files that
    the refresh has parsed itself.
    """

    scan: Scan
    rescan_after_ns: int | None = None
    unfinished: int = 0
    parsing: int = 0
    inline_bytes: int = 0

    def rescan_after(self, after_ns: int) -> None:
        """Request another scan after this time, unless an earlier one is requested."""
        self.rescan_after_ns = after_ns if self.rescan_after_ns is None else min(self.rescan_after_ns, after_ns)


class FolderContents:
    """The files of a folder and their objects. `stable_ns`: see STABLE_NS. `background`: parses large files, or None."""

    def __init__(self, folder: str, stable_ns: Mapping[Writers, int] = STABLE_NS, background: Executor | None = None) -> None:
        self._folder = folder
        self._background = background
        self._holds_back = False
        self._stable_ns = stable_ns
        self._files: dict[str, _File] = {}
        self._scan = Scan()
        self._root: tuple[int, int] | None = None
        self._objects = FolderObjects()
        self._has_delivered = False
        self._delivered_rejections: tuple[Rejection, ...] = ()
        self._delivered_ignored: Mapping[str, int] = {}

    def refresh(self, now_ns: int) -> ScanResult:
        """Scan the folder and read the changed files. `now_ns`: `time.monotonic_ns()`."""
        found = scan(self._folder)
        if found.root != self._root and not found.files and self._files:
            # An unmounted volume leaves an empty folder, and a new folder may be filled soon.
            found.unreadable.setdefault("", "was replaced by an empty folder")
        elif found.files:
            self._root = found.root
        self._scan = found
        result = ScanResult(scan=found)
        changed = [(path, file) for path, file in found.files.items() if not self._is_taken(path, file)]
        changed.sort(key=_size)
        # A file in the background may have objects that others have lost: an object that moves must not be missing in between.
        self._holds_back = self._background is not None and self._will_parse_in_background(changed)
        for path, file in changed:
            self._refresh_file(path, file, now_ns, result)
        for path in [path for path in self._files if path not in found.files]:
            self._miss(path, now_ns, result)
        return result

    def update(self, observed_ns: int) -> Update | None:
        """The changes since the last call, or None. The first call always returns an update."""
        upserted, deleted = self._objects.change(
            {path: RetainedFile(file.retained.content, file.missing_ns is not None) for path, file in self._files.items()}
        )
        rejections = (*self._folder_rejections(), *self._file_rejections(), *self._duplicate_rejections())
        ignored: Counter[str] = Counter()
        for file in self._files.values():
            ignored.update(file.retained.content.ignored)
        unchanged = (
            not upserted and not deleted and rejections == self._delivered_rejections and ignored == self._delivered_ignored
        )
        if unchanged and self._has_delivered:
            return None
        self._has_delivered, self._delivered_rejections, self._delivered_ignored = True, rejections, ignored
        return Update(upserted=upserted, deleted=deleted, rejections=rejections, ignored=ignored, observed_ns=observed_ns)

    def _is_taken(self, path: str, found: FoundFile) -> bool:
        file = self._files.setdefault(path, _File())
        file.missing_ns = None
        return found.fingerprint is not None and found.fingerprint == file.taken

    def _refresh_file(self, path: str, found: FoundFile, now_ns: int, result: ScanResult) -> None:
        file = self._files[path]
        if file.parsing is not None and not file.parsing.content.done():
            _await_parsing(result)
            return
        try:
            if found.problem:
                raise UnreadableError(found.problem)
            with open_file(found.path) as opened:
                self._read(path, file, opened, now_ns, result)
        except FileNotFoundError:
            result.rescan_after(VANISHED_NS)
        except (OSError, UnreadableError) as error:
            # A file that is too large stays so until it changes. Read permission may come without a change of the file.
            file.taken = found.fingerprint if isinstance(error, UnreadableError) else None
            file.digest = b""
            file.retained = file.retained.with_broken(unreadable(_printable(path), _reason(error)))

    def _read(self, path: str, file: _File, opened: OpenFile, now_ns: int, result: ScanResult) -> None:
        if file.seen != opened.fingerprint:
            file.seen, file.seen_ns, file.refused = opened.fingerprint, now_ns, False
        writers = opened.writers()
        still_ns = now_ns - file.seen_ns
        needed_ns = ABANDONED_NS if file.refused and writers is Writers.SOME else self._stable_ns[writers]
        if still_ns < needed_ns:
            _postpone(file, result, min(needed_ns - still_ns, POLL_NS))
            return
        data = opened.read()
        if not opened.is_unchanged(writers):
            _postpone(file, result, CLOCK_TICK_NS)
            return
        file.taken = opened.fingerprint
        if 0 <= time.time_ns() - opened.fingerprint.modified_ns < CLOCK_TICK_NS:
            result.rescan_after(CLOCK_TICK_NS)
            file.taken = None
        digest = hashlib.blake2b(data).digest()
        if digest == file.digest:
            return
        content = self._parsed(path, opened.fingerprint, data, digest, result)
        if content is None:
            file.taken = None
            _await_parsing(result)
            return
        if self._holds_back and not content.keys() >= file.retained.base.keys():
            parsed: Future[Content] = Future()
            parsed.set_result(content)
            file.parsing = _Parsing(opened.fingerprint, digest, parsed)
            file.taken = None
            _await_parsing(result)
            return
        if writers is Writers.SOME and still_ns < ABANDONED_NS and _would_lose(file, content):
            file.taken, file.digest, file.refused = None, b"", True
            file.retained = file.retained.with_rejection(
                _rejection(path, "still open for writing, and its content is incomplete", file.retained.kept)
            )
            result.rescan_after(POLL_NS)
            return
        file.digest = digest
        file.retained = file.retained.with_broken(content) if content.rejections else Retained.good(content)

    def _will_parse_in_background(self, changed: list[tuple[str, FoundFile]]) -> bool:
        """Whether the background executor parses some of the changed files, or will."""
        new_bytes = 0
        for path, found in changed:
            parsing = self._files[path].parsing
            if parsing is not None and not parsing.content.done():
                return True
            if parsing is None or parsing.fingerprint != found.fingerprint:
                new_bytes += _size((path, found))
        return new_bytes > INLINE_BYTES

    def _parsed(self, path: str, fingerprint: Fingerprint, data: bytes, digest: bytes, result: ScanResult) -> Content | None:
        """The content, or None while the background executor parses it."""
        file = self._files[path]
        if file.parsing is not None and file.parsing.digest == digest:
            content = file.parsing.content.result()
            file.parsing = None
            return content
        file.parsing = None
        result.inline_bytes += len(data)
        if self._background is None or result.inline_bytes <= INLINE_BYTES:
            return parse(_printable(path), data)
        file.parsing = _Parsing(fingerprint, digest, self._background.submit(parse, _printable(path), data))
        return None

    def _miss(self, path: str, now_ns: int, result: ScanResult) -> None:
        file = self._files[path]
        if any(path.startswith(directory) for directory in result.scan.unreadable):
            file.missing_ns = None
            return
        if file.missing_ns is None:
            file.missing_ns = now_ns
        remaining_ns = VANISHED_NS - (now_ns - file.missing_ns)
        if self._holds_back:
            _await_parsing(result)
        elif remaining_ns > 0:
            result.rescan_after(remaining_ns)
        else:
            del self._files[path]

    def _duplicate_rejections(self) -> tuple[Rejection, ...]:
        return tuple(
            _rejection(
                path,
                f"is also in {_printable(first_path)} document {first_document}",
                "the one there is used",
                document=document,
                key=str(key),
            )
            for path, document, key, first_path, first_document in self._objects.duplicates()
        )

    def _folder_rejections(self) -> tuple[Rejection, ...]:
        consequence = "what was last read from it stays in force"
        return tuple(
            _rejection(directory or ".", f"the folder cannot be read: {reason}", consequence)
            for directory, reason in sorted(self._scan.unreadable.items())
        )

    def _file_rejections(self) -> tuple[Rejection, ...]:
        return tuple(rejection for path in sorted(self._files) for rejection in self._files[path].retained.rejections)


def _size(found: tuple[str, FoundFile]) -> int:
    fingerprint = found[1].fingerprint
    return 0 if fingerprint is None else fingerprint.size


def _await_parsing(result: ScanResult) -> None:
    result.parsing += 1
    result.rescan_after(POLL_NS)


def _postpone(file: _File, result: ScanResult, by_ns: int) -> None:
    result.rescan_after(by_ns)
    if not file.retained.content.objects:
        result.unfinished += 1


def _would_lose(file: _File, content: Content) -> bool:
    """Whether the content would remove objects, or replace good ones by unreadable ones."""
    base = file.retained.base
    return bool(base.objects) and (bool(content.rejections) or not content.keys() >= base.keys())


def _reason(error: OSError | UnreadableError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _rejection(origin: str, message: str, consequence: str, *, document: int = 0, key: str = "") -> Rejection:
    return Rejection(origin=_printable(origin), document=document, key=key, field="", message=message, consequence=consequence)


def _printable(path: str) -> str:
    """A printable path: file names may contain any byte."""
    return path if path.isprintable() else ascii(path)[1:-1]
