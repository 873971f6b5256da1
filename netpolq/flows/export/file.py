"""Export to a file of JSON lines (`netpolq.flows.record.encode`), one write for each window."""

import asyncio
import errno
import time

from pathlib import Path
from typing import ClassVar

from netpolq.flows.export.backlog import Batch
from netpolq.flows.export.exporter import MAX_WAITING, Exporter, Failed, Outcome, Sent
from netpolq.flows.export.rotating_file import RotatingFile, UnusableFileError
from netpolq.flows.record import FlowRecord, encode

RETRY_S = 5.0
"""Pause after a failure: a disk does not get full again by one attempt."""
_SLOW_S = 10.0
"""A write that takes longer is a problem: the disk, or its server, does not answer."""
_LINE_START = b'{"window_start":'

_TEXTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow beyond the limit of this process (RLIMIT_FSIZE)",
    errno.ELOOP: "it is a symbolic link",
    errno.ENOENT: "its folder does not exist",
    errno.EISDIR: "it is a folder",
    errno.ENXIO: "it is not a regular file",
}


class FileExporter(Exporter):
    """Appends to `path`. Writes run in a thread, one at a time."""

    name: ClassVar[str] = "file"

    def __init__(self, path: Path, *, max_bytes: int, keep: int, capacity: int = MAX_WAITING, retry_s: float = RETRY_S) -> None:
        super().__init__(str(path), capacity=capacity)
        self._file = RotatingFile(path, max_bytes=max_bytes, keep=keep, line_start=_LINE_START)
        self._retry_s = retry_s
        self._writing_since_s: float | None = None

    @property
    def problem(self) -> str | None:
        since_s = self._writing_since_s
        if since_s is not None and (taken_s := time.monotonic() - since_s) > _SLOW_S:
            return f"flow export to {self.target}: a write has not ended for {taken_s:.0f} s"
        return super().problem

    async def _send(self, batch: Batch) -> Outcome:
        self._writing_since_s = time.monotonic()
        try:
            bad = await asyncio.to_thread(self._append, batch.records)
        except OSError as error:
            return Failed(problem=_TEXTS.get(error.errno or 0) or error.strerror or str(error), delay_s=self._retry_s)
        except UnusableFileError as error:
            return Failed(problem=str(error), delay_s=self._retry_s)
        return Sent(rejected=bad, problem=f"{bad} flow records have no JSON form" if bad else None)

    def _append(self, records: list[FlowRecord]) -> int:
        """Write the records. Returns the number of those that have no JSON form, such as a text that is not Unicode."""
        try:
            lines, bad = [], 0
            for record in records:
                try:
                    lines.append(encode(record))
                except TypeError:  # orjson's error is one
                    bad += 1
            if lines:
                self._file.append(b"\n".join(lines) + b"\n")
            return bad
        finally:
            self._writing_since_s = None  # here, because the thread goes on when its task is cancelled

    async def _close(self) -> None:
        if self._writing_since_s is None:  # else a thread still uses it, and the process ends soon
            self._file.close()
