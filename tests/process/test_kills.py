"""Processes killed with SIGKILL while connections arrive."""

import threading

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe, Result
from tests.process.conftest import FRIEND, MODES, SERVER, STRANGER, admit, assert_admitted

LOAD_S = 5.0
CONNECTIONS = 250

ONE_RETRANSMISSION_S = 2.5
"""A SYN is repeated after one second and again two seconds later: a connection within this time needed at most one repetition."""


def connect_steadily(box: Box) -> list[Result]:
    """Connections at even distances, from the friend and from the stranger, over both families."""
    probes = [
        Probe(client.name, box.address(SERVER.name, family), "TCP", 80, delay_s=number * LOAD_S / CONNECTIONS)
        for number in range(CONNECTIONS)
        for client in (FRIEND, STRANGER)
        for family in (4 + 2 * (number % 2),)
    ]
    return box.probe(probes, timeout_s=ONE_RETRANSMISSION_S)


def under_load(box: Box, disturb: Callable[[threading.Event], None]) -> list[Result]:
    """Disturb the agent while connections arrive."""
    over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            disturb(over)
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread of the test
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        results = connect_steadily(box)
    finally:
        over.set()
        thread.join()
    if failures:
        raise failures[0]
    return results


def broken(results: list[Result]) -> tuple[list[Result], list[Result]]:
    """Denied connections that were admitted, and allowed connections that were not."""
    admitted = [result for result in results if result.probe.source == STRANGER.name and result.reached]
    lost = [result for result in results if result.probe.source == FRIEND.name and not result.reached]
    return admitted, lost


def assert_policy_held(results: list[Result]) -> None:
    admitted, lost = broken(results)
    assert not admitted, "denied connections passed"
    assert not lost, "allowed connections failed"


def counted(agent: Agent, name: str) -> float:
    """The sum of all series of a counter."""
    return sum(float(line.split()[-1]) for line in agent.metrics().splitlines() if line.startswith(f"{name}{{"))


@pytest.mark.parametrize("cache", [pytest.param("off", marks=pytest.mark.lifecycle), "on"])
@MODES
def test_workers_killed_under_load_admit_no_denied_and_lose_no_allowed_connection(
    box: Box, folder: Path, mode: str, cache: str
) -> None:
    """In fail-open mode, the packets that a dead worker had read pass, and each is counted."""
    killed: list[int] = []
    counts: list[float] = []
    with Agent(box, folder, f"--fail-open={mode}", "--workers=2", f"--verdict-cache={cache}") as agent:

        def kill_workers(over: threading.Event) -> None:
            while not over.wait(0.15):
                worker = agent.status()["workers"][len(killed) % 2]
                if worker["pid"] and worker["pid"] not in killed:
                    agent.kill(worker["pid"])
                    killed.append(worker["pid"])
                    counts.append(counted(agent, "packet_count"))

        results = under_load(box, kill_workers)
        agent.wait_until("all workers are back", agent.is_ready)
        admitted, lost = broken(results)
        if mode == "true":
            agent.wait_until(
                f"{len(admitted)} denied connections are counted as passed without a verdict",
                lambda: counted(agent, "netpolq_failed_packets_total") >= len(admitted),
            )
        else:
            assert not admitted, "denied connections passed"
        assert not lost, "allowed connections failed"
        assert len(killed) >= 10
        assert counts == sorted(counts), "a counter went back when a worker was killed"
        assert cache == "on" or counts[-1] > 0, (
            "with the cache, the kernel answers nearly all, and few are counted before the next kill"
        )
        assert sum(worker["restarts"] for worker in agent.status()["workers"]) == len(killed)
        assert all(queue.queue_dropped == queue.user_dropped == 0 for queue in agent.queues())


def test_supervisor_killed_under_load_is_started_again_while_workers_go_on(box: Box, closed_agent: Agent) -> None:
    workers = [worker["pid"] for worker in closed_agent.status()["workers"]]
    killed: set[int] = set()

    def kill_supervisors(over: threading.Event) -> None:
        while not over.wait(1.2):
            supervisor = closed_agent.supervisor()
            if supervisor is not None:
                supervisor.kill()
                killed.add(supervisor.pid)

    results = under_load(box, kill_supervisors)
    assert_policy_held(results)
    assert len(killed) >= 3
    closed_agent.wait_until("the supervisor is back", closed_agent.is_ready)
    assert [worker["pid"] for worker in closed_agent.status()["workers"]] == workers


def test_a_new_supervisor_applies_what_changed_while_there_was_none(box: Box, folder: Path, closed_agent: Agent) -> None:
    before = closed_agent.status()
    supervisor = closed_agent.supervisor()
    assert supervisor is not None
    supervisor.kill()
    admit(folder, "stranger")
    closed_agent.wait_until("the supervisor is back", closed_agent.is_ready)
    closed_agent.wait_until_acknowledged(before)
    assert_admitted(box, "stranger")


def test_packets_that_a_killed_worker_had_read_are_answered_without_waiting_for_the_next_packet(
    box: Box, closed_agent: Agent
) -> None:
    """The packets of a stopped worker wait. When it is killed, its replacement answers them although no new packet arrives."""
    worker_of = {worker["queue_num"]: worker["pid"] for worker in closed_agent.status()["workers"]}
    for pid in worker_of.values():
        psutil.Process(pid).suspend()
    probe = Probe(FRIEND.name, box.address(SERVER.name, 4), "UDP", 80)
    assert not box.probe([probe])[0].reached
    assert sum(queue.queue_total for queue in closed_agent.queues()) > 0
    for pid in worker_of.values():
        closed_agent.kill(pid)
    closed_agent.wait_until("nothing waits", lambda: sum(queue.queue_total for queue in closed_agent.queues()) == 0)
    closed_agent.wait_until("all workers are back", closed_agent.is_ready)
    assert box.probe([probe])[0].reached


def test_killing_the_pool_ends_all_processes_and_the_next_start_has_the_last_snapshot_at_once(
    box: Box, closed_agent: Agent
) -> None:
    closed_agent.wait_until("there is a standby worker", lambda: len(closed_agent.forks()) == 4)
    children = closed_agent.pool.children()
    closed_agent.pool.kill()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == 5, "supervisor, two workers, waiting process, standby worker"
    address = box.address(SERVER.name, 4)
    probes = [Probe(client.name, address, "TCP", 80) for client in (FRIEND, STRANGER)]
    assert [result.reached for result in box.probe(probes)] == [False, False], "fail-closed means closed without an agent"
    position = len(closed_agent.log.read_text())
    closed_agent.start()
    log = closed_agent.log.read_text()[position:]
    assert "evaluating with snapshot" in log.partition(": ready, ")[0], "workers have the last snapshot before the first sync"
    assert [result.reached for result in box.probe(probes)] == [True, False]


def test_restarts_under_load_admit_no_denied_connection_when_failing_closed(box: Box, closed_agent: Agent) -> None:
    """The ruleset outlives the agent. Packets that arrive while the queues are bound again are evaluated or dropped."""
    restarts: list[int] = []

    def restart(over: threading.Event) -> None:
        while not over.wait(0.3):
            restarts.append(closed_agent.stop())
            closed_agent.start()

    results = under_load(box, restart)
    assert not [result for result in results if result.probe.source == STRANGER.name and result.reached]
    assert [result for result in results if result.probe.source == FRIEND.name and result.reached]
    assert set(restarts) == {0}
