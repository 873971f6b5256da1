"""The memory in which a worker counts: a memfd in the file format of prometheus_client's multiprocess mode.

The library's own files are sparse and mapped: on a full disk a write to one ends the process with SIGBUS, and so does one behind the end
of a file that another program has cut. This memory has a fixed size, all of it is allocated before it is mapped, and it is sealed against
shrinking (memfd_create(2), posix_fallocate(3)). It depends on no file system: a run directory that is full, read-only or emptied costs no
counter.

The pool makes one for each seat, a worker inherits it, and the supervisor is given the descriptor and merges them all.
"""

import fcntl
import os

from collections.abc import Iterator, Mapping
from threading import Lock

from prometheus_client import multiprocess, values
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict

SIZE_BYTES = 512 * 1024
"""Room for every series that a worker can have (tests/unit/test_counter_memory.py makes all of them: 325 KiB)."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PREFIX = "counter_"

_reading = Lock()


def make() -> int:
    """New memory for the counters of one seat. The caller owns the descriptor. Raises `OSError` where there is no memory."""
    descriptor = os.memfd_create("netpolq-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def count_in(descriptor: int, seat: int) -> None:
    """Have the metrics that this process makes from now on count in the memory. Takes over the descriptor."""

    def in_memory(_filename: str) -> MmapedDict:
        return MmapedDict(descriptor)  # opened by open(), which takes a descriptor in place of a name

    values.MmapedDict = in_memory  # type: ignore[assignment, attr-defined]  # the library's only way to name a file is a folder
    values.ValueClass = values.MultiProcessValue(lambda: seat)


def merge(memories: Mapping[int, int]) -> Iterator[Metric]:
    """The metrics of all seats, as the library merges its files. `memories`: descriptors by seat. Raises `OSError`."""
    descriptors = {f"{_PREFIX}{seat}.db": descriptor for seat, descriptor in memories.items()}

    class Memories(MmapedDict):
        """What the library reads in place of a file of that name."""

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
