"""Time that processes were on a CPU."""

import os

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil


def cpu_ns(pids: Iterable[int]) -> dict[int, int]:
    """Nanoseconds that each process has been on a CPU so far, all its threads. One that has ended is left out.

    The scheduler's own count where there is one (CONFIG_SCHED_INFO); the usual times are counted in ticks of ten milliseconds.
    It contains what the kernel does in softirqs on the process' time, such as handing on an accepted packet.
    """
    found = {}
    for pid in pids:
        with suppress(OSError, psutil.NoSuchProcess):
            found[pid] = _scheduled_ns(pid) or _ticked_ns(pid)
    return found


def used_ns(before: Mapping[int, int], after: Mapping[int, int]) -> int:
    """What those that lived all the time have used between two readings."""
    return sum(after[pid] - before[pid] for pid in before.keys() & after.keys())


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


def _scheduled_ns(pid: int) -> int:
    with suppress(FileNotFoundError):  # of the process, or of the whole kernel
        tasks = Path("/proc", str(pid), "task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks)
    return 0


def _ticked_ns(pid: int) -> int:
    times = psutil.Process(pid).cpu_times()
    return int((times.user + times.system) * 1e9)
