"""Workers that hang, and packets that kill workers: the pool replaces the worker, and no packet passes because of it."""

import os
import signal
import time

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq_worker.pool.workers import _PAUSE_S, _SILENCE_S
from tests.process.conftest import (
    FRIEND,
    MODES,
    STRANGER,
    admit,
    assert_admitted,
    listening,
    receives_nothing,
    send,
    waiting_of,
    worker_of,
)
from tests.support.control_groups import control_group

STUCK, ABORTING, OUT_OF_MEMORY, GREEDY = 6661, 6662, 6663, 6664
SPINNING_S = 0.05
"""CPU time that a worker uses soon only if it spins. Its share of a CPU depends on what else runs."""
GREEDY_BYTES = 1 << 26
FAULTY = f"""
import os
from netpolq_worker.worker.flow_cache import FlowCache

evaluate = FlowCache._evaluate

def faulty(self, key, question):
    while question[3] == {STUCK}:
        pass
    if question[3] == {ABORTING}:
        os.abort()
    if question[3] == {OUT_OF_MEMORY}:
        bytearray(1 << 46)
    if question[3] == {GREEDY}:
        bytearray({GREEDY_BYTES})[::4096] = bytes({GREEDY_BYTES} // 4096)
    return evaluate(self, key, question)

FlowCache._evaluate = faulty
"""
"""Run by every Python with this directory on its path: faults in a real worker that no known packet causes."""


THIRD_DELAY_S = 0.4
"""Three restarts follow at once, the next after 0.1 s, then after twice as long each time."""

MANY_RESTARTS = 60


@contextmanager
def agent_with(box: Box, folder: Path, mode: str, *, faulty: bool = False) -> Iterator[Agent]:
    flags = (f"--fail-open={mode}", "--workers=1", "--verdict-cache=off")
    with pytest.MonkeyPatch.context() as patch:
        if faulty:
            (box.directory / "faults").mkdir()
            (box.directory / "faults" / "sitecustomize.py").write_text(FAULTY)
            patch.setenv("PYTHONPATH", str(box.directory / "faults"), prepend=os.pathsep)
        with Agent(box, folder, *flags) as agent:
            yield agent


def failed(agent: Agent, cause: str) -> int:
    lines = [line for line in agent.metrics().splitlines() if line.startswith(f'netpolq_failed_packets_total{{cause="{cause}"}}')]
    return int(float(lines[0].split()[-1])) if lines else 0


@MODES
def test_a_worker_that_hangs_is_killed_and_its_replacement_evaluates_the_waiting_packets(
    box: Box, folder: Path, mode: str
) -> None:
    with agent_with(box, folder, mode) as agent, listening(box, 9999) as server:
        worker = worker_of(agent)
        agent.kill(worker, signal.SIGSTOP)
        for client in (FRIEND, STRANGER):
            send(box, client.name, 9999, client.name.encode())
        agent.wait_until("it is replaced", lambda: worker_of(agent) not in {0, worker})
        assert not psutil.pid_exists(worker)
        assert server.recv(64) == FRIEND.name.encode()
        assert receives_nothing(server)
        assert "sent no heartbeat" in agent.log.read_text()
        agent.wait_until("ready", agent.is_ready)
        assert_admitted(box, "friend", families=(4, 6))


def test_a_standby_worker_that_hangs_is_replaced_before_it_is_needed(box: Box, folder: Path) -> None:
    with agent_with(box, folder, "false") as agent:
        worker, waiting = worker_of(agent), waiting_of(agent)

        def standbys() -> list[int]:
            return [fork.pid for fork in agent.forks() if fork.pid not in {worker, waiting}]

        agent.wait_until("there is a standby worker", lambda: len(standbys()) == 1)
        (standby,) = standbys()
        agent.kill(standby, signal.SIGSTOP)
        agent.wait_until("there is another", lambda: standbys() not in ([], [standby]))
        assert f"standby worker (pid {standby}) sent no heartbeat" in agent.log.read_text()
        (successor,) = standbys()
        agent.kill(worker)
        agent.wait_until("it serves", lambda: worker_of(agent) == successor)
        assert_admitted(box, "friend", families=(4, 6))


@pytest.mark.lifecycle
def test_no_worker_is_killed_for_being_idle_or_because_the_pool_stood_still(box: Box, folder: Path) -> None:
    """Idle and stopped for longer than a worker may be silent. A change that comes into force passes the pool after it goes on."""
    with agent_with(box, folder, "false") as agent:
        worker = worker_of(agent)
        time.sleep(_SILENCE_S + _PAUSE_S)
        agent.pool.suspend()
        time.sleep(_SILENCE_S + 2 * _PAUSE_S)
        agent.pool.resume()
        before = agent.status()
        admit(folder, "stranger")
        agent.wait_until_enforced(before)
        assert worker_of(agent) == worker
        assert "sent no heartbeat" not in agent.log.read_text()
        assert_admitted(box, "stranger")


@MODES
@pytest.mark.parametrize("port", [STUCK, ABORTING, OUT_OF_MEMORY], ids=["stuck", "aborting", "out of memory"])
def test_a_packet_that_kills_a_worker_is_dropped_in_either_mode_and_not_tried_again(
    box: Box, folder: Path, mode: str, port: int
) -> None:
    with agent_with(box, folder, mode, faulty=True) as agent, listening(box, port) as server:
        assert_admitted(box, "friend", families=(4, 6))
        worker = worker_of(agent)
        send(box, FRIEND.name, port, b"poison")
        if port == OUT_OF_MEMORY:  # an exception, which ends no worker
            agent.wait_until("it gets the verdict of the failure mode", lambda: failed(agent, "error") == 1)
            assert receives_nothing(server) is (mode == "false")
            assert worker_of(agent) == worker
        else:
            agent.wait_until("it is replaced", lambda: worker_of(agent) not in {0, worker})
            agent.wait_until("the packet is counted", lambda: failed(agent, "suspect") == 1)
            assert receives_nothing(server)
            successor = worker_of(agent)
            assert_admitted(box, "friend", families=(4, 6))
            assert worker_of(agent) == successor
        assert agent.queues()[0].queue_total == 0


@MODES
def test_a_worker_that_the_kernel_kills_for_lack_of_memory_is_replaced(box: Box, folder: Path, mode: str) -> None:
    with (
        control_group("memory", "memory.max", "memory.limit_in_bytes") as group,
        agent_with(box, folder, mode, faulty=True) as agent,
        listening(box, GREEDY) as server,
    ):
        worker = worker_of(agent)
        name = "memory.max" if (group / "memory.max").exists() else "memory.limit_in_bytes"
        (group / name).write_text(str(GREEDY_BYTES // 4))
        (group / "cgroup.procs").write_text(str(worker))
        send(box, STRANGER.name, GREEDY, b"read, and not answered")
        agent.wait_until("it is replaced", lambda: worker_of(agent) not in {0, worker})
        assert "was killed by SIGKILL" in agent.log.read_text()
        agent.wait_until("the packet is counted", lambda: failed(agent, "orphaned") == 1)
        assert receives_nothing(server) is (mode == "false")
        assert_admitted(box, "friend", families=(4, 6))


@MODES
def test_packets_that_a_killed_worker_had_read_get_the_verdict_of_the_failure_mode_and_are_counted(
    box: Box, folder: Path, mode: str
) -> None:
    """The stuck worker has read one packet. SIGKILL comes from outside, so the packet is not suspect."""
    with agent_with(box, folder, mode, faulty=True) as agent, listening(box, STUCK) as server:
        worker = psutil.Process(worker_of(agent))
        before_s = worker.cpu_times().user
        send(box, STRANGER.name, STUCK, b"read, and not answered")
        agent.wait_until("it is read", lambda: worker.cpu_times().user > before_s + SPINNING_S)
        agent.kill(worker.pid)
        agent.wait_until("the packet is counted", lambda: failed(agent, "orphaned") == 1)
        assert receives_nothing(server) is (mode == "false")
        assert_admitted(box, "friend", families=(4, 6))


def test_a_worker_that_keeps_exiting_early_is_restarted_with_a_back_off_and_the_agent_is_not_ready(
    box: Box, folder: Path
) -> None:
    with agent_with(box, folder, "false") as agent:
        restarts, restarted_s, longest_pause_s, reasons = 0, time.monotonic(), 0.0, set[str]()
        while longest_pause_s < THIRD_DELAY_S:
            for fork in agent.forks():
                with suppress(psutil.NoSuchProcess):  # killed in the last round, and reaped by the pool since
                    fork.kill()
            reasons.add(agent.http("/readyz").body)
            if (now_restarts := agent.status()["workers"][0]["restarts"]) > restarts:
                restarts, now_s = now_restarts, time.monotonic()
                longest_pause_s, restarted_s = max(longest_pause_s, now_s - restarted_s), now_s
            assert restarts < MANY_RESTARTS, "no pause between restarts"
        assert any("workers are not running: [0]" in reason for reason in reasons), reasons
        agent.wait_until("ready again when it is left alone", agent.is_ready)
        assert_admitted(box, "friend", families=(4, 6))
