"""A snapshot in shared memory: one sealed memfd per version, handed on by file descriptor.

Sealed means that nobody, not even the publisher, can change it any more (memfd_create(2), F_ADD_SEALS in fcntl(2)), so readers need no
lock and cannot see half a version. Mapped private, because older kernels refuse a shared mapping of a write-sealed memfd.
"""

import fcntl
import mmap
import os

from pathlib import Path

from netpolq.errors import SnapshotError
from netpolq.snapshot.layout import MAX_IMAGE_BYTES
from netpolq.snapshot.view import SnapshotView

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def seal(image: bytes) -> int:
    """Put an encoded snapshot into a new sealed memfd. The caller owns the descriptor."""
    descriptor = os.memfd_create("netpolq-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        remaining = memoryview(image)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_view(descriptor: int) -> SnapshotView:
    """Map a sealed memfd and validate what it holds. Does not take over the descriptor. Raises `SnapshotError`."""
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise SnapshotError("the memory region is not sealed")
    size = os.fstat(descriptor).st_size
    if not 0 < size <= MAX_IMAGE_BYTES:
        raise SnapshotError(f"{size} bytes is no possible size of a snapshot")
    return SnapshotView(mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ))


def save(path: Path, image: bytes) -> None:
    """Keep an encoded snapshot in a file (mode 0600), replacing an older one in one step."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(image)
    draft.replace(path)


def load(path: Path) -> bytes:
    """Read a kept snapshot and validate it. Raises `SnapshotError` if it is none, `OSError` if it cannot be read."""
    with path.open("rb") as file:
        image = file.read(MAX_IMAGE_BYTES + 1)
    SnapshotView(image).close()
    return image
