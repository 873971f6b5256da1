"""Facts about the machine of a measurement."""

import os
import platform

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import psutil


class Machine(TypedDict):
    """`load_average`: of the last 1, 5 and 15 minutes, before the load test began."""

    cpu_model: str
    cpus: int
    usable_cpus: int
    memory_bytes: int
    kernel: str
    python: str
    load_average: list[float]


def facts() -> Machine:
    """The facts about this machine now."""
    return Machine(
        cpu_model=next(_cpu_models(), platform.machine()),
        cpus=os.cpu_count() or 1,
        usable_cpus=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        load_average=[round(value, 2) for value in os.getloadavg()],
    )


def _cpu_models() -> Iterator[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            yield value.strip()
