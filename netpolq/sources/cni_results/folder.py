"""Content of the folder of CNI results, updated by scans.

A scan reads a file only if it has changed since. libcni writes a file in place, so one that is not JSON yet counts as incomplete for a
second before it is a problem. Names and reasons are reported, contents never. The code is synchronous, and time is an argument.
"""

import heapq
import os
import stat

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.sources.cni_results.result import CniResult, ResultError, read_result
from netpolq.sources.folder.scan import Fingerprint

MAX_FILES = 4096
"""Maximum number of files read, the newest. A node has two for each pod, and the default limit of a kubelet is 110 pods."""

MAX_FILE_BYTES = 2 * 1024 * 1024
"""Maximum size of a file. The annotations in it have at most 256 KiB before escaping. Source: apimachinery's TotalAnnotationSizeLimitB."""

INCOMPLETE_NS = 1_000_000_000
"""How long a file may be incomplete before it is a problem."""

CLOCK_TICK_NS = 50_000_000
"""A file changed less than this before it was read may change again without a new time stamp, so the next scan reads it again."""

_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW


class ResultFile(NamedTuple):
    """A result and the time at which its file was written, in nanoseconds since 1970."""

    modified_ns: int
    result: CniResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is known after a scan. `results`: all of them. `unusable`: each file that is no result, by printable name, with the reason.

    `problem`: of the folder itself. `is_present`: whether it exists. `rescan_after_ns`: delay of the next scan without an event, or None.
    """

    results: tuple[ResultFile, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    is_present: bool = True
    rescan_after_ns: int | None = None

    @property
    def example(self) -> str:
        """One of the unusable files with the reason; empty without any."""
        return ": ".join(min(self.unusable.items(), default=()))


@dataclass(slots=True, kw_only=True)
class _File:
    """A file as last read. `fingerprint`: None to read it again. `read_ns`: when it was read; `modified_ns`: when it was written."""

    fingerprint: Fingerprint | None = None
    read_ns: int = 0
    modified_ns: int = 0
    result: CniResult | None = None
    problem: str | None = None
    may_be_incomplete: bool = False


def is_result_name(name: str) -> bool:
    """Whether a file of this name counts. No network name begins with a dot. Source: libcni, `utils.ValidateNetworkName`."""
    return not name.startswith(".")


class ResultsFolder:
    """The files of a folder, which may be missing."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}

    def scan(self, now_ns: int, wall_ns: int) -> Content:
        """Read what has changed. Never raises. `now_ns`: `time.monotonic_ns()`; `wall_ns`: `time.time_ns()`."""
        problem = None
        try:
            newest, left_out = _newest(self._folder)
        except FileNotFoundError:
            return Content(is_present=False)
        except OSError as error:
            newest, left_out, problem = {}, 0, f"the folder cannot be read: {error.strerror or error}"
        if left_out:
            problem = f"more than {MAX_FILES} files: the {left_out} oldest are not read"
        self._files = {name: self._files.get(name) or _File() for name in newest}
        for name, status in newest.items():
            self._refresh(name, status, now_ns, wall_ns)
        return self._content(problem, now_ns)

    def _refresh(self, name: str, status: os.stat_result, now_ns: int, wall_ns: int) -> None:
        fingerprint = Fingerprint.of(status)
        if self._files[name].fingerprint == fingerprint:
            return
        file = self._files[name] = _File(read_ns=now_ns, modified_ns=fingerprint.modified_ns)
        try:
            file.result = read_result(_read(f"{self._folder}/{name}", status))
        except ResultError as error:
            file.problem, file.may_be_incomplete = str(error), error.may_be_incomplete
        except OSError as error:
            file.problem = error.strerror or str(error)
            return  # read again at each scan
        if not 0 <= wall_ns - max(fingerprint.modified_ns, fingerprint.changed_ns) < CLOCK_TICK_NS:
            file.fingerprint = fingerprint

    def _content(self, problem: str | None, now_ns: int) -> Content:
        results: list[ResultFile] = []
        unusable: dict[str, str] = {}
        rescan_after_ns: int | None = None
        for name, file in sorted(self._files.items()):
            if file.result is not None:
                results.append(ResultFile(file.modified_ns, file.result))
            remaining_ns = file.read_ns + INCOMPLETE_NS - now_ns
            if file.may_be_incomplete and remaining_ns > 0:
                rescan_after_ns = min(remaining_ns, rescan_after_ns or remaining_ns)
            elif file.problem is not None:
                unusable[name if name.isprintable() else ascii(name)[1:-1]] = file.problem
        return Content(results=tuple(results), unusable=unusable, problem=problem, rescan_after_ns=rescan_after_ns)


def _newest(folder: str) -> tuple[dict[str, os.stat_result], int]:
    """The `MAX_FILES` newest entries, and the number of the others. Raises OSError if the folder cannot be read."""
    count = 0

    def entries() -> Iterator[tuple[int, str, os.stat_result]]:
        nonlocal count
        for entry in listing:
            if not is_result_name(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            count += 1
            yield status.st_mtime_ns, entry.name, status

    with os.scandir(folder) as listing:
        newest = heapq.nlargest(MAX_FILES, entries(), key=lambda entry: entry[:2])
    return {name: status for _modified_ns, name, status in newest}, count - len(newest)


def _read(path: str, status: os.stat_result) -> bytes:
    """The bytes of a file. Raises OSError, and `ResultError` for anything but a regular file of a moderate size."""
    if not stat.S_ISREG(status.st_mode):
        raise ResultError("is not a regular file")  # opening a device may change its state
    # The flags: another program may put a pipe or a link in its place meanwhile.
    descriptor = os.open(path, _OPEN_FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ResultError("is not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ResultError(f"is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return data
