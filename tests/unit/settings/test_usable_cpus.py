"""The CPU limit of a control group counts, wherever kernels and container runtimes put it."""

import importlib
import os

from pathlib import Path

import pytest

from netpolq.settings import resolve
from netpolq.settings.cpu_limit import usable_cpus

_SCHEDULABLE = 8
_VERSION_1 = "9:name=systemd:/\n3:cpuset:/other\n2:cpu,cpuacct:{}\n0::/\n"
_VERSION_2 = "0::{}\n"


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(_SCHEDULABLE)))


def found(folder: Path, own_groups: str, files: dict[str, str]) -> int:
    hierarchies = folder / "cgroup"
    hierarchies.mkdir()
    for name, text in files.items():
        path = hierarchies / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = folder / "own"
    own.write_text(own_groups)
    return usable_cpus(hierarchies, own)


def version_1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"cpu{group}/cpu.cfs_quota_us": f"{quota}\n", f"cpu{group}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [("max", 8), ("200000", 2), ("250000", 3), ("100001", 2), ("1000", 1), ("800000", 8), ("6400000", 8)],
)
def test_a_limit_is_rounded_up_and_never_adds_cpus(tmp_path: Path, limit: str, cpus: int) -> None:
    assert found(tmp_path, _VERSION_2.format("/"), {"cpu.max": f"{limit} 100000\n"}) == cpus


def test_the_period_need_not_be_the_usual_one(tmp_path: Path) -> None:
    assert found(tmp_path, _VERSION_2.format("/"), {"cpu.max": "100000 50000\n"}) == 2


@pytest.mark.parametrize(("quota", "cpus"), [(-1, 8), (150_000, 2), (50_000, 1)])
def test_version_1_counts_too(tmp_path: Path, quota: int, cpus: int) -> None:
    assert found(tmp_path, _VERSION_1.format("/a/b"), version_1("/a/b", quota)) == cpus


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {"pods/cpu.max": "300000 100000\n", "pods/one/cpu.max": "500000 100000\n", "pods/one/agent/cpu.max": "max 100000\n"}
    assert found(tmp_path, _VERSION_2.format("/pods/one/agent"), files) == 3


def test_a_path_of_the_host_leads_to_the_group_that_a_container_sees_as_the_first(tmp_path: Path) -> None:
    assert found(tmp_path, _VERSION_1.format("/kubepods/burstable/pod1/agent"), version_1("", 200_000)) == 2


def test_limits_of_others_do_not_count(tmp_path: Path) -> None:
    files = {"other/cpu.max": "100000 100000\n", "own/below/cpu.max": "100000 100000\n", **version_1("/other", 100_000)}
    assert found(tmp_path, _VERSION_2.format("/own") + "3:cpuset:/other\n", files) == 8


@pytest.mark.parametrize("text", ["", "max", "x 100000", "100000 0", "1 2 3"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    assert found(tmp_path, _VERSION_2.format("/"), {"cpu.max": text}) == 8
    assert usable_cpus(tmp_path, tmp_path / "none") == 8


def test_auto_is_one_worker_for_each_usable_cpu_and_at_most_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("netpolq.settings.resolve")  # the package exports a function of that name
    for usable, workers in ((1, 1), (7, 7), (16, 16), (17, 16), (64, 16)):
        monkeypatch.setattr(module, "usable_cpus", lambda usable=usable: usable)
        assert resolve([], {}).queue_count == workers
        assert resolve(["--workers=64"], {}).queue_count == 64


def test_the_cpus_of_this_process_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, everything)
