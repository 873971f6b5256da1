"""The memory in which workers count: its size, and what nothing outside can do to it."""

import mmap
import os
import struct
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from netpolq.ipc import counter_memory

COUNT_ALL = """
import sys
from netpolq.buckets import BOUNDS_NS
from netpolq_worker.waiting.outcome import Outcome
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.packet import SERIES
memory, file_id, times = map(int, sys.argv[1:])
metrics = WorkerMetrics(file_id, memory)
for _ in range(times):
    for series in range(len(SERIES)):
        for duration_ns in (*BOUNDS_NS, 10**12):
            for verdict in (0, 1):
                metrics.count_evaluated(series << 1 | verdict, 1, duration_ns)
    for cause in ("no-snapshot", "error", "orphaned", "suspect", "another", "one-more"):
        metrics.count_failed(cause)
    for outcome in (*Outcome, "another"):
        metrics.count_failed(outcome)
        metrics.count_held(outcome)
    metrics.malformed += 1
    metrics.flush(misses=1)
print(metrics.packets)
"""


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = counter_memory.make()
    yield descriptor
    os.close(descriptor)


def count_all(memory: int, file_id: int, times: int = 1) -> int:
    """Let a process of its own count a packet of every series, as a worker does. Returns how many packets that are."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT_ALL, str(memory), str(file_id), str(times)],
        pass_fds=[memory],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/nonexistent"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(done.stdout)


def packets_in(memories: dict[int, int]) -> float:
    found = {metric.name: metric for metric in counter_memory.merge(memories)}
    return sum(sample.value for sample in found["packet_count"].samples)


def test_every_series_that_a_worker_can_have_finds_room(memory: int) -> None:
    """The memory cannot grow, so one series too many would be an error in the middle of the packets."""
    packets = count_all(memory, 0)
    assert packets_in({0: memory}) == packets
    (used,) = struct.unpack("i", os.pread(memory, 4, 0))
    assert used < 0.9 * counter_memory.SIZE_BYTES


def test_counters_of_all_files_are_summed_and_a_replacement_continues(memory: int) -> None:
    other = counter_memory.make()
    try:
        packets = count_all(memory, 0) + count_all(memory, 0, 2) + count_all(other, 1)
        assert packets_in({0: memory, 1: other}) == packets
    finally:
        os.close(other)


def test_all_of_it_is_allocated_and_nothing_can_take_it_away(memory: int) -> None:
    """What is missing behind a mapping ends the process that writes there, by SIGBUS."""
    assert os.fstat(memory).st_blocks * 512 >= counter_memory.SIZE_BYTES
    for size in (0, counter_memory.SIZE_BYTES // 2, 2 * counter_memory.SIZE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
    with mmap.mmap(memory, counter_memory.SIZE_BYTES) as mapped:
        mapped[-1:] = b"x"


def test_it_needs_no_folder(memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    count_all(memory, 0)
    assert packets_in({0: memory}) > 0
    assert list(tmp_path.iterdir()) == []
