"""One agent takes over from another while connections arrive."""

import signal
import socket
import time

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe, Result
from netpolq.errors import ExitCode
from netpolq.ipc.agent_settings import EXTRA_QUEUES
from tests.process.conftest import FRIEND, SERVER, STRANGER, admit, assert_admitted
from tests.process.test_full_queue import unjudged
from tests.support.sizes import is_full
from tests.support.upgrades import Upgrades

PER_S = 60
WITHOUT_REPETITION_S = 0.9
"""A SYN is repeated after a second: a connection within this time needed no repetition."""

UPGRADES = 10
LOAD_S = 6.0


@pytest.fixture
def upgrades(request: pytest.FixtureRequest, box: Box, folder: Path) -> Iterator[Upgrades]:
    made = Upgrades(box, folder, *request.param)
    try:
        yield made
    finally:
        made.agent.stop()
        made.agent.cleanup()


def connect_for(box: Box, seconds: float) -> list[Result]:
    """New connections at even intervals, over both families, in TCP and UDP, from the friend and from the stranger."""
    return box.probe(
        [
            Probe(client.name, box.address(SERVER.name, family), protocol, 80, delay_s=number / PER_S)
            for number in range(int(seconds * PER_S))
            for client in (FRIEND, STRANGER)
            for family in (4 + 2 * (number % 2),)
            for protocol in (("TCP", "UDP")[number // 2 % 2],)
        ],
        timeout_s=WITHOUT_REPETITION_S,
    )


CLOSED, OPEN = "--fail-open=false", "--fail-open=true"


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("upgrades", "count"),
    [
        ((CLOSED, "--verdict-cache=off"), UPGRADES if is_full("lifecycle") else 4),
        pytest.param((OPEN, "--verdict-cache=off"), 4, marks=pytest.mark.lifecycle),
        ((CLOSED, "--verdict-cache=on"), 4),
    ],
    ids=["fail-closed", "fail-open", "verdict cache"],
    indirect=["upgrades"],
)
def test_upgrades_in_a_row_lose_no_allowed_and_admit_no_denied_connection(box: Box, upgrades: Upgrades, count: int) -> None:
    results: list[Result] = []
    queues: list[int] = []
    with ThreadPoolExecutor(max_workers=1) as thread:
        load = thread.submit(connect_for, box, LOAD_S)
        while len(queues) < count:
            upgrades.upgrade()
            queues.append(upgrades.agent.status()["workers"][0]["queue_num"])
            if load.done():
                results += load.result()
                load = thread.submit(connect_for, box, LOAD_S)
        results += load.result()
    assert [result for result in results if result.probe.source == STRANGER.name and result.reached] == []
    assert [result for result in results if result.probe.source == FRIEND.name and not result.reached] == []
    assert queues == [100 + 2 + EXTRA_QUEUES, 100] * (count // 2)
    assert unjudged(upgrades.agent) == 0
    assert "Traceback" not in upgrades.agent.log.read_text()


@pytest.mark.parametrize("upgrades", [(CLOSED, "--verdict-cache=off")], indirect=True)
def test_an_agent_that_ends_during_its_takeover_leaves_one_agent_that_enforces(
    box: Box, folder: Path, upgrades: Upgrades
) -> None:
    """Killed at several moments of its start, at some of which it may have taken over already."""
    survivor = upgrades.agent
    for number in range(8):
        other = Agent(box, folder, CLOSED, "--verdict-cache=off", "--workers=2", "--takeover")
        other.launch()
        time.sleep(0.2 + 0.15 * number)
        other.kill_all()
        while not survivor.is_ready():
            if not survivor.is_running:  # the killed agent had taken over
                survivor = Agent(box, folder, CLOSED, "--verdict-cache=off", "--workers=2", "--takeover")
                survivor.launch()
            time.sleep(0.01)
    upgrades.agent = survivor
    upgrades.upgrade()
    before = upgrades.agent.status()
    admit(folder, "stranger")
    upgrades.agent.wait_until_enforced(before)
    assert_admitted(box, "stranger")


def test_a_takeover_without_a_running_agent_is_an_ordinary_start(box: Box, folder: Path) -> None:
    with Agent(box, folder, CLOSED, "--takeover") as agent:
        assert agent.status()["workers"][0]["queue_num"] == 100


@pytest.mark.parametrize("upgrades", [(CLOSED,)], indirect=True)
def test_established_connections_survive_an_upgrade(box: Box, upgrades: Upgrades) -> None:
    with box.inside(FRIEND.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as connection:
        connection.settimeout(WITHOUT_REPETITION_S)
        connection.connect((box.address(SERVER.name, 4), 80))
        connection.send(b"before")
        assert connection.recv(64)
        upgrades.upgrade()
        connection.send(b"after")
        assert connection.recv(64)


def test_process_1_of_a_container_waits_for_sigterm_after_it_was_taken_over_from(box: Box, folder: Path) -> None:
    """If it ended, the container would be started again, and would take over in its turn."""
    first = Agent(box, folder, CLOSED, "--workers=1", prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    with first:
        with Agent(box, folder, CLOSED, "--workers=1", "--takeover") as second:
            second.wait_until("the other has left", lambda: "waiting for SIGTERM" in first.log.read_text())
            assert first.is_running
            assert second.status()["workers"][0]["queue_num"] == 101 + EXTRA_QUEUES
        assert first.is_running
        (process_1,) = psutil.Process(first.pid).children()
        process_1.send_signal(signal.SIGTERM)
        assert first.stop() == ExitCode.OK


def test_a_supervisor_that_hangs_delays_no_takeover_and_the_new_agent_serves_the_status(box: Box, folder: Path) -> None:
    """Also when another process has replaced the status socket meanwhile, as a restarted supervisor of the first agent does."""
    with Agent(box, folder, CLOSED, "--workers=1") as first, ExitStack() as stack:
        path = first.run_dir / "status.sock"
        supervisor, before = first.supervisor(), path.stat().st_ino
        assert supervisor is not None
        supervisor.suspend()  # it has some seconds to leave, enough for the next steps
        second = Agent(box, folder, CLOSED, "--workers=1", "--takeover")
        second.launch()
        stack.callback(second.stop)
        second.wait_until("it has the socket", lambda: path.stat().st_ino != before)
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(first.run_dir / "other.sock"))
        (first.run_dir / "other.sock").rename(path)
        second.wait_until("the first has left", lambda: not first.is_running)

        def serves_status() -> bool:
            with suppress(ConnectionError):
                return second.status()["workers"][0]["queue_num"] == 101 + EXTRA_QUEUES
            return False

        second.wait_until("it serves its status", serves_status)
