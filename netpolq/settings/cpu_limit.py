"""The number of CPUs that this process can use: its CPU affinity, capped by the CPU limit of its control group.

`os` does not read the control group, and a container has its CPU limit nowhere else.
"""

import math
import os

from collections.abc import Iterator
from pathlib import Path

_HIERARCHIES = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cpus(hierarchies: Path = _HIERARCHIES, own_groups: Path = _OWN_GROUPS) -> int:
    """Return the number of CPUs in the affinity of this process, or its CPU limit rounded up if that is less.

    In a Kubernetes container the limit is `resources.limits.cpu`. A limit that cannot be read is ignored.
    """
    schedulable = len(os.sched_getaffinity(0))
    limit = min(_limits(hierarchies, own_groups), default=math.inf)
    return schedulable if limit >= schedulable else max(math.ceil(limit), 1)


def _limits(hierarchies: Path, own_groups: Path) -> Iterator[float]:
    """Yield the limits of the control group of this process and of its visible ancestors, as numbers of CPUs.

    Source: cgroups(7), /proc/PID/cgroup; in the kernel's documentation cgroup-v2.rst (cpu.max) and sched-bwc.rst (version 1).
    """
    try:
        lines = own_groups.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if not controllers:
            hierarchy, read = hierarchies, _limit_of_version_2
        elif "cpu" in controllers.split(","):
            hierarchy, read = hierarchies / "cpu", _limit_of_version_1
        else:
            continue
        own = hierarchy / path.lstrip("/")
        # In a container the path may be that of the host, while the own group is the root of the hierarchy.
        for folder in (own, *own.parents):
            if folder.is_relative_to(hierarchy):
                try:
                    yield read(folder)
                except (OSError, ValueError, ZeroDivisionError):
                    continue


def _limit_of_version_2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _limit_of_version_1(folder: Path) -> float:
    quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    return math.inf if quota < 0 else quota / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
