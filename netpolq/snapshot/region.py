"""A snapshot in shared memory: one sealed memfd per version, handed on by file descriptor.

Sealed means that nobody, not even the publisher, can change it any more (memfd_create(2), F_ADD_SEALS in fcntl(2)), so readers need no
lock and cannot see half a version. Mapped private, because older kernels refuse a shared mapping of a write-sealed memfd.
"""

import fcntl
import mmap
import os

from array import array
from pathlib import Path
from typing import Union

from netpolq.errors import SnapshotError
from netpolq.snapshot.layout import MAX_IMAGE_BYTES
from netpolq.snapshot.view import SnapshotView

Piece = Union[bytes, bytearray, "array[int]"]
"""A part of an encoded snapshot."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def seal(*pieces: Piece) -> int:
    """Put an encoded snapshot, in one piece or several, into a new sealed memfd. The caller owns the descriptor."""
    descriptor = os.memfd_create("netpolq-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        remaining = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        while remaining:
            written = os.writev(descriptor, remaining)
            while remaining and written >= len(remaining[0]):
                written -= len(remaining.pop(0))
            if written:
                remaining[0] = remaining[0][written:]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_view(descriptor: int) -> SnapshotView:
    """Map a sealed memfd and validate all of what it holds. Does not take over the descriptor. Raises `SnapshotError`."""
    return SnapshotView(_map(descriptor))


def open_validated(descriptor: int) -> SnapshotView:
    """Map a sealed memfd that `open_view` has accepted in another process: check header, layout and bounds, not the sums of sections.

    That is safe because what a sealed memfd holds cannot change: the descriptor that the pool hands on leads to the very pages that it
    validated, and the pool hands on no other. A pass over every byte would keep packets waiting for milliseconds in a large cluster.
    Raises `SnapshotError`.
    """
    return SnapshotView(_map(descriptor), is_validated=True)


def _map(descriptor: int) -> mmap.mmap:
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise SnapshotError("the memory region is not sealed")
    size = os.lseek(descriptor, 0, os.SEEK_END)  # fstat(2) is a call with a path in some C libraries, which workers may not make
    if not 0 < size <= MAX_IMAGE_BYTES:
        raise SnapshotError(f"{size} bytes is no possible size of a snapshot")
    return mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ)


def save(path: Path, descriptor: int) -> None:
    """Keep a sealed snapshot in a file (mode 0600), replacing an older one in one step. Does not take over the descriptor."""
    draft = path.with_suffix(".new")
    size = os.fstat(descriptor).st_size
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while offset < size:
            offset += os.sendfile(file, descriptor, offset, size - offset)
    finally:
        os.close(file)
    draft.replace(path)


def load(path: Path) -> bytes:
    """Read a kept snapshot and validate it. Raises `SnapshotError` if it is none, `OSError` if it cannot be read."""
    with path.open("rb") as file:
        image = file.read(MAX_IMAGE_BYTES + 1)
    SnapshotView(image).close()
    return image
