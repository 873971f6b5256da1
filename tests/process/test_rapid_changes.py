"""A hundred changes of a policy per second: the agent merges them, and the latest wins."""

import time

from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent, is_acknowledged
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from tests.process.conftest import FRIEND, SERVER, STRANGER, admit

CHANGES = 300
PERIOD_S = 0.01
PORTS = range(20_000, 20_008)
"""Enough that each worker gets some: a hash of the addresses or the CPU selects the worker."""


@pytest.mark.parametrize("last", ["friend", "stranger"])
def test_changes_that_come_faster_than_they_can_be_enforced_are_merged_and_the_latest_wins(
    box: Box, folder: Path, last: str
) -> None:
    other = "friend" if last == "stranger" else "stranger"
    with Agent(box, folder, "--fail-open=false", "--workers=2") as agent:
        before = agent.status()
        acknowledged = 0
        for number in range(CHANGES):
            due_s = time.monotonic() + PERIOD_S
            admit(folder, last if number % 2 else other)
            if number % 10 == 0:
                assert agent.is_ready()
                acknowledged = max(acknowledged, min(worker["acked_version"] for worker in agent.status()["workers"]))
            time.sleep(max(due_s - time.monotonic(), 0.0))
        assert acknowledged > before["snapshot_version"], "workers kept up meanwhile"

        def outcomes() -> set[tuple[str, bool]]:
            probes = [
                Probe(client.name, box.address(SERVER.name, family), "TCP", 80, source_port=port)
                for client in (FRIEND, STRANGER)
                for family in (4, 6)
                for port in PORTS
            ]
            return {(result.probe.source, result.reached) for result in box.probe(probes)}

        expected = {(client.name, client.name == f"app/{last}") for client in (FRIEND, STRANGER)}
        agent.wait_until("the latest is in force", lambda: outcomes() == expected)
        after = agent.status()
        assert after["in_force_version"] == after["snapshot_version"]
        assert is_acknowledged(after)
        assert 1 < after["snapshot_version"] - before["snapshot_version"] < CHANGES
        assert outcomes() == expected, "and it stays so"
        assert "sent no heartbeat" not in agent.log.read_text(), "changes delay no heartbeat beyond its limit"
