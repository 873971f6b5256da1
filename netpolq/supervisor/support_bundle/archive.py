"""The archive of a support bundle: a stream of bounded files without secrets, and a list of what could not be read."""

import io
import re
import subprocess
import tarfile

from collections.abc import Callable
from contextlib import suppress
from typing import IO

from netpolq.errors import NetpolqError, SnapshotError
from netpolq.logs import one_line

MAX_PART_BYTES = 8 << 20
"""Maximum size of a part. The largest is the ruleset, with a set element for each address and each cached verdict: some 100 bytes each."""

ERRORS = "errors.txt"

_SECRET = re.compile(rb"(?i)\b(bearer\s+)[\w.~+/=-]+|(://)[^/@\s\"']+(?=@)")
"""A token as HTTP has it, or user and password in a URL. No part should have one; a URL of a proxy or a server may."""

_UNREADABLE = (NetpolqError, SnapshotError, OSError, ValueError, subprocess.SubprocessError)
"""Errors that concern one part only."""


class Archive:
    """An archive that is written to a stream, part by part. `errors`: the reason by the name of a part that could not be read.

    `folder`: the folder in the archive that has all files. `now_s`: their time. A context manager: its end writes `errors.txt`, if there
    are errors. Raises `OSError` when the stream cannot be written.
    """

    def __init__(self, stream: IO[bytes], *, folder: str, now_s: float) -> None:
        self._tar = tarfile.open(fileobj=stream, mode="w|gz", format=tarfile.PAX_FORMAT)  # noqa: SIM115  (closed by __exit__)
        self._folder = folder
        self._now_s = now_s
        self.parts: list[str] = []
        self.errors: dict[str, str] = {}

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, exception: type[BaseException] | None, *_rest: object) -> None:
        if exception is not None:
            with suppress(OSError):  # of the stream, perhaps again
                self._tar.close()
            return
        if self.errors:
            self._write(ERRORS, "".join(f"{name}: {reason}\n" for name, reason in self.errors.items()).encode())
        self._tar.close()

    def add(self, name: str, read: Callable[[], bytes]) -> None:
        """Read a part and write it. A part that cannot be read becomes an error."""
        try:
            content = read()
        except _UNREADABLE as error:
            self.errors[name] = _reason(error)
            return
        self._write(name, cleaned(content))
        self.parts.append(name)

    def _write(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(f"{self._folder}/{name}")
        member.size, member.mtime, member.mode = len(content), int(self._now_s), 0o600
        self._tar.addfile(member, io.BytesIO(content))


def cleaned(content: bytes) -> bytes:
    """The content without secrets, and not longer than `MAX_PART_BYTES` and a note about what was cut."""
    if len(content) > MAX_PART_BYTES:
        note = f"\n[cut: the first {MAX_PART_BYTES} of {len(content)} bytes]\n"
        content = content[:MAX_PART_BYTES] + note.encode()
    return _SECRET.sub(rb"\1\2[removed]", content) if b"://" in content or b"earer" in content.lower() else content


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return one_line(cleaned((text or type(error).__name__).encode(errors="replace")).decode(errors="replace"))
