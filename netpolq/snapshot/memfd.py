"""Snapshots in shared memory, one sealed memfd per version and passed by file descriptor, and the snapshot file.

No process, not even the publisher, can change a sealed memfd (memfd_create(2), F_ADD_SEALS in fcntl(2)), so readers need no lock and
cannot see a partial version. Readers map it private, because older kernels refuse a shared mapping of a write-sealed memfd.
"""

import fcntl
import mmap
import os
import stat

from array import array
from pathlib import Path
from typing import Union

from netpolq.errors import SnapshotError
from netpolq.snapshot.layout import MAX_SNAPSHOT_BYTES
from netpolq.snapshot.reader import SnapshotReader

Piece = Union[bytes, bytearray, "array[int]"]
"""A part of an encoded snapshot."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

_STALE = b"\x00"
_NEWEST = b"\x01"


def seal(*pieces: Piece) -> int:
    """Write an encoded snapshot, in one piece or several, to a new sealed memfd. The caller owns the descriptor."""
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


def open_view(descriptor: int) -> SnapshotReader:
    """Map a sealed memfd and validate all of its contents. The caller keeps the descriptor. Raises `SnapshotError`."""
    return SnapshotReader(map_sealed(descriptor))


def map_trusted(descriptor: int) -> SnapshotReader:
    """Map a sealed memfd that `open_view` has accepted in another process: check header, layout and bounds, not the section checksums.

    This is safe because the contents of a sealed memfd cannot change: the pool passes only descriptors whose pages it has validated.
    A pass over every byte would delay packets for milliseconds in a large cluster.
    Raises `SnapshotError`.
    """
    return SnapshotReader(map_sealed(descriptor), is_validated=True)


def map_sealed(descriptor: int) -> mmap.mmap:
    """Map the bytes of a sealed memfd. Raises `SnapshotError` if it is not sealed."""
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise SnapshotError("the memfd is not sealed")
    size = os.lseek(descriptor, 0, os.SEEK_END)  # fstat(2) is a call with a path in some C libraries, which workers may not make
    if not 0 < size <= MAX_SNAPSHOT_BYTES:
        raise SnapshotError(f"invalid size of a snapshot: {size} bytes")
    return mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ)


def save(path: Path, descriptor: int) -> None:
    """Save a sealed snapshot to a file (mode 0600), atomically replacing an older one. The caller keeps the descriptor.

    One byte after the snapshot records whether it is the newest. Its initial value is "not the newest"; see `mark`. Raises `OSError` and
    leaves the older file.
    """
    temporary = path.with_suffix(".new")
    size = os.fstat(descriptor).st_size
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        offset = 0
        while offset < size:
            offset += os.sendfile(file, descriptor, offset, size - offset)
        os.pwrite(file, _STALE, size)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # its blocks may be what another program lacks
        raise
    finally:
        os.close(file)


def mark(path: Path, *, is_newest: bool) -> os.stat_result:
    """Record in a snapshot file whether it is the newest, and sync before returning. Returns the status of the file.

    The byte lies in a block that the file already has, so a full disk does not matter. Raises `OSError`.
    """
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        os.pwrite(file, _NEWEST if is_newest else _STALE, max(found.st_size - 1, 0))
        os.fdatasync(file)
        return found
    finally:
        os.close(file)


def load(path: Path) -> bytes:
    """Read the snapshot file of this user and validate it. Raises `OSError` if it cannot be read.

    Raises `SnapshotError` if it is no snapshot, if it is not marked as the newest, or if another user could have written it.
    """
    image, is_newest = read(path, owner=os.geteuid())
    SnapshotReader(image).close()
    if not is_newest:
        raise SnapshotError("a newer one was published after it, and this one could accept connections that are denied since")
    return image


def read(path: Path, *, owner: int | None = None) -> tuple[bytes, bool]:
    """Read a snapshot file without validating it: the snapshot, and whether it is marked as the newest. `owner`: the user id that it must
    have. Raises `OSError` if it cannot be read, and `SnapshotError` if it is no regular file or belongs to another user.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or (owner is not None and found.st_uid != owner):
            raise SnapshotError(
                "it must be a regular file" if owner is None else f"it must be a regular file owned by user {owner}"
            )
        kept = file.read(MAX_SNAPSHOT_BYTES + 2)
    return kept[:-1], kept[-1:] == _NEWEST
