"""A CPU limit by a control group, as container runtimes set it."""

import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed.box import CHECKOUT
from tests.support.control_groups import control_group

_COUNT = "import os; from netpolq.settings import resolve; print(resolve([], {}).queue_count, len(os.sched_getaffinity(0)))"


@pytest.fixture
def group() -> Iterator[Path]:
    with control_group("cpu", "cpu.max", "cpu.cfs_quota_us") as made:
        yield made


def limit(group: Path, cpus: float) -> None:
    quota = round(cpus * 100_000)
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota} 100000")
    else:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(quota))


def workers_in(group: Path) -> tuple[int, int]:
    """Number of workers of `auto` for a process in a control group, and number of CPUs that it may run on."""
    join = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    argv = ["sh", "-c", join, str(group), sys.executable, "-c", _COUNT]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    workers, schedulable = done.stdout.split()
    return int(workers), int(schedulable)


def test_auto_starts_no_more_workers_than_the_cpu_limit_allows(group: Path) -> None:
    workers, schedulable = workers_in(group)
    assert workers == min(schedulable, 16)
    limit(group, 0.5)
    assert workers_in(group)[0] == 1
    limit(group, 1.5)
    assert workers_in(group)[0] == min(schedulable, 2)
