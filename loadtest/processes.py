"""CPU time of processes, and time in which they waited for a CPU."""

import os
import time

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from loadtest.verdict import MAX_OTHERS_SHARE

_TOLD_BY_TICKS_S = 0.3
"""The CPU time of other programs is counted in ticks of ten milliseconds, so shorter intervals have no meaning."""

_KTHREADD = 2
"""The parent of all kernel threads. Source: rest_init in init/main.c."""


class CpuTime(NamedTuple):
    """CPU time of a process so far, all its threads, in nanoseconds.

    `waiting_ns`: ready to run while another process was on the CPU. The time includes work of the kernel in softirqs on the process's time,
    such as forwarding an accepted packet, unless the kernel defers it to its own threads.
    """

    running_ns: int
    waiting_ns: int

    def since(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(self.running_ns - earlier.running_ns, self.waiting_ns - earlier.waiting_ns)


def cpu_times(pids: Iterable[int]) -> dict[int, CpuTime]:
    """The CPU time of each process that still runs.

    From the scheduler's own count if there is one (CONFIG_SCHED_INFO); otherwise in ticks of ten milliseconds, without the waiting time.
    """
    found = {}
    for pid in pids:
        with suppress(OSError, psutil.NoSuchProcess):
            found[pid] = _scheduled(pid) or _ticked(pid)
    return found


def used(before: Mapping[int, CpuTime], after: Mapping[int, CpuTime]) -> tuple[CpuTime, ...]:
    """CPU time between two readings, of each process that is in both."""
    return tuple(after[pid].since(before[pid]) for pid in before if pid in after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU time of an interval.

    `workers`: by process; `kernel_ns`: of the threads of the kernel, which do a part of the work on packets; `others_share`: share of the
    time of all CPUs that other programs used.
    """

    workers: tuple[CpuTime, ...]
    kernel_ns: int
    others_share: float


class Watch:
    """Measures CPU time from its creation on."""

    def __init__(self, workers: Iterable[int]) -> None:
        self._threads = _kernel_threads()
        self._before_workers = cpu_times(workers)
        self._before_threads = cpu_times(self._threads)
        self._before_busy_s = _busy_s()
        self._before_own_s = time.process_time()
        self._began_s = time.monotonic()

    def usage(self, ours_s: float) -> Usage:
        """The usage until now. `ours_s`: CPU seconds of the load, without the workers and this process."""
        elapsed_s = time.monotonic() - self._began_s
        workers = used(self._before_workers, cpu_times(self._before_workers))
        kernel_ns = sum(thread.running_ns for thread in used(self._before_threads, cpu_times(self._threads)))
        known_s = ours_s + time.process_time() - self._before_own_s
        known_s += (kernel_ns + sum(worker.running_ns for worker in workers)) / 1e9
        others_s = max(0.0, _busy_s() - self._before_busy_s - known_s)
        return Usage(workers=workers, kernel_ns=kernel_ns, others_share=others_s / elapsed_s / (os.cpu_count() or 1))


def others_notes(others_share: float, elapsed_s: float) -> Iterator[str]:
    """Yield a note about other programs, if they used much CPU time."""
    if others_share > MAX_OTHERS_SHARE and elapsed_s > _TOLD_BY_TICKS_S:
        yield f"other programs took {100 * others_share:.0f} % of the machine's CPU time meanwhile"


def children_s(pids: Iterable[int]) -> float:
    """CPU seconds so far of the ended descendants of some processes."""
    total_s = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total_s += times.children_user + times.children_system
    return total_s


def descendants(pid: int) -> list[int]:
    """A process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


def supervisor_of(workers: Iterable[int]) -> int:
    """Return the supervisor of some workers: the only child of their pool with another command line, because it is not a fork."""
    pool = psutil.Process(min(workers)).parent()
    assert pool is not None
    (supervisor,) = (child.pid for child in pool.children() if child.cmdline() != pool.cmdline())
    return supervisor


def keep_on(pids: Iterable[int], cpus: Iterable[int]) -> None:
    """Pin processes, with all their threads."""
    wanted = set(cpus)
    for pid in pids:
        with suppress(OSError):
            for task in Path("/proc", str(pid), "task").iterdir():
                os.sched_setaffinity(int(task.name), wanted)


def _scheduled(pid: int) -> CpuTime | None:
    # Source: Documentation/scheduler/sched-stats.rst: time on the CPU and time on the run queue, in nanoseconds.
    with suppress(FileNotFoundError):  # of the process, or of the whole kernel
        tasks = Path("/proc", str(pid), "task").iterdir()
        fields = [(task / "schedstat").read_text(encoding="ascii").split() for task in tasks]
        return CpuTime(sum(int(field[0]) for field in fields), sum(int(field[1]) for field in fields))
    return None


def _ticked(pid: int) -> CpuTime:
    times = psutil.Process(pid).cpu_times()
    return CpuTime(int((times.user + times.system) * 1e9), 0)


def _busy_s() -> float:
    """Busy seconds of all CPUs of the machine so far, counted in ticks of ten milliseconds."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def _kernel_threads() -> list[int]:
    """The threads of the kernel. Some of them do deferred softirqs and work."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(_KTHREADD)
        if parent.name() == "kthreadd":  # in another PID namespace it is a different process
            return [thread.pid for thread in parent.children()]
    return []
