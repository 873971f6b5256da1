"""Counter memory of a worker: a memfd in the file format of prometheus_client's multiprocess mode.

The library's own files are sparse and mapped: on a full disk, or after another program has truncated the file, a write ends the process
with SIGBUS. This memory has a fixed size, is allocated in full before it is mapped, and is sealed against shrinking (memfd_create(2),
posix_fallocate(3)). It depends on no file system: a full, read-only or emptied run directory loses no counter.

The pool creates one memory for each metrics file id, a worker inherits it, and the supervisor receives the descriptors and merges all.
"""

import fcntl
import os

from collections.abc import Iterator, Mapping
from threading import Lock

from prometheus_client import multiprocess, values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict

SIZE_BYTES = 512 * 1024
"""Room for every series that a worker can have (tests/unit/ipc/test_counter_memory.py makes all of them: 325 KiB)."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PREFIX = "counter_"

_reading = Lock()


def make() -> int:
    """New counter memory. The caller owns the descriptor. Raises `OSError` without free memory."""
    descriptor = os.memfd_create("netpolq-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def count_in(descriptor: int, metrics_file_id: int) -> None:
    """Store the metrics that this process creates from now on in the memory, which owns the descriptor from then on."""

    def in_memory(_filename: str) -> MmapedDict:
        return MmapedDict(descriptor)  # the library calls open(), which accepts a descriptor instead of a name

    values.MmapedDict = in_memory  # type: ignore[assignment, attr-defined]  # the library can only be given a directory
    values.ValueClass = values.MultiProcessValue(lambda: metrics_file_id)


def merge(memories: Mapping[int, int]) -> Iterator[Metric]:
    """Merged metrics of all memories. `memories`: descriptors by metrics file id. Raises `OSError`."""
    descriptors = {f"{_PREFIX}{file_id}.db": descriptor for file_id, descriptor in memories.items()}

    class Memories(MmapedDict):
        """Reads the memory instead of a file of that name."""

        @staticmethod
        def read_all_values_from_file(filename: str) -> Iterator[tuple[str, float, float, int]]:
            found: Iterator[tuple[str, float, float, int]] = MmapedDict.read_all_values_from_file(
                f"/proc/self/fd/{descriptors[filename]}"
            )
            return found

    with _reading:
        library, multiprocess.MmapedDict = multiprocess.MmapedDict, Memories  # type: ignore[attr-defined]
        try:
            merged = multiprocess.MultiProcessCollector.merge(list(descriptors))
        finally:
            multiprocess.MmapedDict = library  # type: ignore[attr-defined]
    yield from merged
