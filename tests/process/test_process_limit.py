"""A limit of processes: present processes go on, and missing ones start as soon as the limit allows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import assert_admitted, worker_of
from tests.support.control_groups import control_group


@pytest.fixture
def group() -> Iterator[Path]:
    with control_group("pids", "pids.max") as made:
        yield made


def test_a_limit_of_processes_ends_no_agent(box: Box, folder: Path, group: Path) -> None:
    with Agent(box, folder, "--fail-open=false", "--workers=1", "--verdict-cache=off") as agent:
        agent.wait_until("there is a standby worker", lambda: len(agent.forks()) == 3)
        for process in (agent.pool, *agent.forks()):  # not the supervisor, which needs threads
            (group / "cgroup.procs").write_text(str(process.pid))
        (group / "pids.max").write_text("1")
        first = worker_of(agent)
        agent.kill(first)
        agent.wait_until("the standby worker serves", lambda: worker_of(agent) not in {0, first})
        assert_admitted(box, "friend")
        agent.wait_until("another standby worker is due", lambda: "cannot start a process" in agent.log.read_text())
        agent.kill(worker_of(agent))
        agent.wait_until("no worker serves", lambda: worker_of(agent) == 0)
        assert not agent.is_ready()
        assert_admitted(box, "")
        (group / "pids.max").write_text("max")
        agent.wait_until("ready again", agent.is_ready)
        agent.wait_until("there is a standby worker again", lambda: len(agent.forks()) == 3)
        assert_admitted(box, "friend")
