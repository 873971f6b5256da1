"""An agent of a user other than root, with CAP_NET_ADMIN as an ambient capability."""

import os
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import assert_admitted

USER = 64999
NET_ADMIN = 1 << 12


class OtherUsersAgent(Agent):
    """An agent that another user starts, with the system's interpreter: that of the tests may be in a closed home directory."""

    def __init__(self, box: Box, manifests: Path, *flags: str) -> None:
        packages = os.pathsep.join(path for path in sys.path if path)
        prefix = (
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all,+net_admin"),
            *("--ambient-caps=-all,+net_admin", "env", f"PYTHONPATH={packages}"),
        )
        super().__init__(box, manifests, *flags, prefix=prefix)
        self._argv = ["/usr/bin/python3" if argument == sys.executable else argument for argument in self._argv]


@pytest.fixture
def agent(box: Box, folder: Path, for_other_users: None) -> Iterator[Agent]:
    del for_other_users
    box.directory.chmod(0o755)
    (box.directory / "run").mkdir()
    os.chown(box.directory / "run", USER, USER)
    with OtherUsersAgent(box, folder, "--fail-open=false", "--workers=2") as agent:
        yield agent


def test_it_enforces_and_replaces_workers(box: Box, agent: Agent) -> None:
    assert_admitted(box, "friend")
    agent.wait_until("there is a standby worker", lambda: len(agent.forks()) == 4)
    first = agent.status()["workers"][0]["pid"]
    agent.kill(first)
    agent.wait_until("another worker serves", lambda: agent.status()["workers"][0]["pid"] not in {0, first})
    assert_admitted(box, "friend")


def test_metrics_lack_only_the_kernels_table_of_queues_and_the_log_says_so_once(agent: Agent) -> None:
    """The table belongs to root."""
    for _ in range(3):
        answer = agent.http("/metrics")
        assert answer.code == 200
        assert "nfqueue_queue_total{" not in answer.body
        assert "netpolq_ready 1.0" in answer.body
    assert agent.log.read_text().count("metrics nfqueue_* are left out") == 1


def test_no_process_has_more_than_the_capability_it_was_given(agent: Agent) -> None:
    supervisor = agent.supervisor()
    assert supervisor is not None
    for pid in (agent.pid, supervisor.pid, *(fork.pid for fork in agent.forks())):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm")] == [NET_ADMIN, NET_ADMIN]
        assert status["Uid"].split() == [str(USER)] * 4
