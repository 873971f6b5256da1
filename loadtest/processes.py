"""Time that processes were on a CPU, or wanted to be."""

import os

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil


class CpuTime(NamedTuple):
    """Of a process so far, all its threads, in nanoseconds. `waiting_ns`: ready to run while something else was on the CPU.

    It contains what the kernel does in softirqs on the process' time, such as handing on an accepted packet, unless it puts that off to
    threads of its own.
    """

    running_ns: int
    waiting_ns: int

    def since(self, earlier: "CpuTime") -> "CpuTime":
        return CpuTime(self.running_ns - earlier.running_ns, self.waiting_ns - earlier.waiting_ns)


def cpu_times(pids: Iterable[int]) -> dict[int, CpuTime]:
    """Of each process; one that has ended is left out.

    The scheduler's own count where there is one (CONFIG_SCHED_INFO); the usual times are counted in ticks of ten milliseconds, and
    nothing is known of waiting.
    """
    found = {}
    for pid in pids:
        with suppress(OSError, psutil.NoSuchProcess):
            found[pid] = _scheduled(pid) or _ticked(pid)
    return found


def used(before: Mapping[int, CpuTime], after: Mapping[int, CpuTime]) -> tuple[CpuTime, ...]:
    """What each of those that lived all the time has used between two readings."""
    return tuple(after[pid].since(before[pid]) for pid in before if pid in after)


def busy_s() -> float:
    """Seconds that all CPUs of the machine together have been busy so far; counted in ticks of ten milliseconds each."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def softirq_threads() -> list[int]:
    """The kernel's threads for softirqs that were put off, one for each CPU."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text(encoding="utf-8").startswith("ksoftirqd/"):
                found.append(int(process.name))
    return found


def descendants(pid: int) -> list[int]:
    """A process and all that come from it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


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
