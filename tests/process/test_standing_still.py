"""Processes that stand still or have no descriptor left: no version is reported as in force before it is, and no messages pile up."""

import signal
import time

from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from tests.process.conftest import FRIEND, STRANGER, admit, assert_admitted

SILENCE_LIMIT_S = 60.0
"""The pool waits 15 s for a heartbeat; the rest is for a busy machine."""

REFUSALS = 3
"""The supervisor publishes a refused snapshot again after a second."""


def lowest_free_descriptor(pid: int) -> int:
    """The number of the next descriptor of a process. With it as the limit, the process gets no descriptor."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


@pytest.mark.lifecycle
@pytest.mark.timeout(180)
def test_a_supervisor_that_hangs_is_replaced(box: Box, folder: Path) -> None:
    """A stopped process keeps its channel open and its ports bound, so only missing heartbeats reveal it."""
    flags = ("--fail-open=false", "--workers=1", "--strict-mode=false", "--verdict-cache=off")
    with Agent(box, folder, *flags, limit_s=SILENCE_LIMIT_S) as agent:
        hanging = agent.supervisor()
        assert hanging is not None
        hanging.send_signal(signal.SIGSTOP)
        admit(folder, "stranger")
        agent.wait_until("it is gone", lambda: not hanging.is_running())
        agent.wait_until("ready", agent.is_ready)
        assert_admitted(box, "stranger")
        assert f"supervisor (pid {hanging.pid}) sent no heartbeat" in agent.log.read_text()
        assert agent.supervisor() is not None


def test_a_change_whose_descriptor_is_lost_in_transit_is_published_again(box: Box, folder: Path, closed_agent: Agent) -> None:
    """A process without free descriptors gets a message without its descriptor (MSG_CTRUNC).

    The change is not reported as in force while workers do not have it, and comes into force when there is room again.
    """
    assert_admitted(box, "friend")
    pool = closed_agent.pool
    limit = pool.rlimit(psutil.RLIMIT_NOFILE)
    before = closed_agent.status()
    pool.rlimit(psutil.RLIMIT_NOFILE, (lowest_free_descriptor(pool.pid), limit[1]))
    started_s, busy_s = time.monotonic(), sum(pool.cpu_times()[:2])
    admit(folder, "stranger")
    closed_agent.wait_until(
        "it is refused again and again", lambda: closed_agent.log.read_text().count("came without its descriptor") >= REFUSALS
    )
    busy_s, elapsed_s = sum(pool.cpu_times()[:2]) - busy_s, time.monotonic() - started_s
    assert busy_s < elapsed_s / 4, "a pool without descriptors does not spin"
    assert closed_agent.status()["in_force_version"] == before["in_force_version"]
    assert_admitted(box, "friend")
    pool.rlimit(psutil.RLIMIT_NOFILE, limit)
    closed_agent.wait_until_enforced(before)
    assert_admitted(box, "stranger")


@pytest.mark.parametrize("free", [0, 1], ids=["none to receive it", "none to map it"])
def test_a_worker_without_descriptors_is_sent_the_change_again(box: Box, folder: Path, free: int) -> None:
    """Its flow cache belongs to the version that it has, and no entry outlives the version that it missed.

    The workers run as the pool's user, whose limits this test may change.
    """
    flags = ("--fail-open=false", "--workers=2", "--strict-mode=false", "--verdict-cache=off")
    with Agent(box, folder, *flags, prefix=("setpriv", "--bounding-set=-setuid,-setgid,-kill")) as agent:
        assert_refused_and_sent_again(box, folder, agent, free)


def assert_refused_and_sent_again(box: Box, folder: Path, closed_agent: Agent, free: int) -> None:
    probes = [Probe(client.name, box.address("app/server", 4), "TCP", 80) for client in (FRIEND, STRANGER)] * 4
    box.probe(probes)
    before = closed_agent.status()
    workers = [psutil.Process(worker["pid"]) for worker in before["workers"]]
    limits = [worker.rlimit(psutil.RLIMIT_NOFILE) for worker in workers]
    for worker in workers:
        worker.rlimit(psutil.RLIMIT_NOFILE, (lowest_free_descriptor(worker.pid) + free, limits[0][1]))
    admit(folder, "stranger")
    closed_agent.wait_until("it is refused", lambda: "refuses snapshot" in closed_agent.log.read_text())
    assert closed_agent.status()["in_force_version"] == before["in_force_version"]
    for worker, limit in zip(workers, limits, strict=True):
        worker.rlimit(psutil.RLIMIT_NOFILE, limit)
    closed_agent.wait_until_enforced(before)
    for _ in range(4):
        assert_admitted(box, "stranger")
    assert [worker["pid"] for worker in closed_agent.status()["workers"]] == [worker.pid for worker in workers]
