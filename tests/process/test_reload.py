"""SIGHUP: the agent reads the configuration file again."""

import signal
import socket

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import METRICS_PORT, Agent
from loadtest.testbed.box import Box
from tests.process.conftest import NODE, assert_admitted, written


class Configured(Agent):
    """An agent with a configuration file."""

    def __init__(self, box: Box, folder: Path) -> None:
        self.config = box.directory / "netpolq.toml"
        self.write()
        super().__init__(box, folder, "--config", str(self.config), "--fail-open=false")

    def write(self, *lines: str, workers: int = 2) -> None:
        self.config.write_text("\n".join([f"workers = {workers}", *lines]), encoding="utf-8")

    def hang_up(self, *parts: str) -> None:
        """Send SIGHUP, and wait for a line about it in the log that has all parts."""
        worker = self.status()["workers"][0]["pid"]
        pool = psutil.Process(worker).parent()
        assert pool is not None
        read = len(self.log.read_text())
        pool.send_signal(signal.SIGHUP)

        def is_logged() -> bool:
            return any(
                "SIGHUP" in line and all(part in line for part in parts) for line in self.log.read_text()[read:].splitlines()
            )

        self.wait_until(f"the log says SIGHUP: {parts}", is_logged)


@pytest.fixture(scope="module")
def agent(shared_box: Box) -> Iterator[Configured]:
    """For all tests: the one that changes settings comes last."""
    agent = Configured(shared_box, written(shared_box))
    with agent:
        yield agent


def pids(agent: Agent) -> list[int]:
    return [worker["pid"] for worker in agent.status()["workers"]]


@pytest.mark.parametrize(
    ("lines", "workers", "parts"),
    [
        (("mark-mask = 0x700",), 2, ("--mark-mask", "needs a restart")),
        ((), 3, ("--workers", "needs a restart")),
        (("hold-timeout = 3",), 2, ("--hold-timeout", "needs a restart")),
        (('hold-unknown-peers = "10.1.0.0/16"',), 2, ("--hold-unknown-peers", "needs a restart")),
        (('verdict-cache = "off"',), 2, ("--verdict-cache", "needs a restart")),
        (("verdict-cache-ttl = 0",), 2, ("cannot read the settings",)),
        (("what is this",), 2, ("cannot read the settings",)),
    ],
)
def test_a_setting_that_cannot_change_is_named_and_no_setting_changes(
    shared_box: Box, agent: Configured, lines: tuple[str, ...], workers: int, parts: tuple[str, ...]
) -> None:
    before = pids(agent)
    agent.write(*lines, workers=workers)
    agent.hang_up(*parts)
    assert pids(agent) == before
    assert agent.is_ready()
    assert_admitted(shared_box, "friend")


def test_settings_of_the_supervisor_change_while_the_workers_go_on(shared_box: Box, agent: Configured) -> None:
    workers = pids(agent)
    agent.write("verdict-cache-ttl = 7", f'metrics-bind-address = "127.0.0.1:{METRICS_PORT + 1}"')
    agent.hang_up("--verdict-cache-ttl=7", "--metrics-bind-address")
    agent.wait_until("the status has the new value", lambda: ttl(agent) == 7)
    assert pids(agent) == workers
    with shared_box.inside(NODE.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as connection:
        agent.wait_until("the new address answers", lambda: connection.connect_ex(("127.0.0.1", METRICS_PORT + 1)) in {0, 106})
    assert_admitted(shared_box, "friend")
    agent.hang_up("nothing has changed")


def ttl(agent: Agent) -> int:
    try:
        return agent.status()["verdict_cache"]["ttl_s"]
    except OSError:  # no process listens between two supervisors
        return 0
