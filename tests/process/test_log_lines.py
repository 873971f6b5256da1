"""The log lines of a running agent about itself."""

import re

from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import assert_admitted

FLAGS = ("--workers=1", "--fail-open=false")


def lines_of(agent: Agent) -> list[str]:
    return agent.log.read_text(encoding="utf-8").splitlines()


def wait_for(agent: Agent, pattern: str) -> str:
    """Wait for a line that matches, and return the first."""
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [line for line in lines_of(agent) if re.search(pattern, line)]
        return bool(found)

    agent.wait_until(f"a line like {pattern!r}", is_there)
    return found[0]


def test_the_start_is_logged_with_its_settings_and_so_is_readiness(box: Box, folder: Path) -> None:
    """One line with version, node, failure mode, queues and source; one when the agent is ready; none about settings without effect."""
    with Agent(box, folder, *FLAGS) as agent:
        start = wait_for(agent, " starts on node ")
        wait_for(agent, r"INFO supervisor\[\d+\]: ready, \d+\.\d s after the start$")
        text = agent.log.read_text(encoding="utf-8")
    assert re.search(
        rf"netpolq \d\S* starts on node {re.escape(box.node.name)}: fail-closed, queues 100:100 \((native|compat)\), "
        rf"source folder {re.escape(str(folder))}, strict mode on, verdict cache on, verbosity 0$",
        start,
    )
    assert "disable-nri" not in text
    assert "is in force" not in text
    assert "DEBUG" not in text


def test_each_version_in_force_is_logged_with_its_latency_and_the_changes(box: Box, folder: Path) -> None:
    """At --v=1. A policy that is broken and repaired is rejected, and then no longer."""
    with Agent(box, folder, "--v=1", *FLAGS) as agent:
        wait_for(agent, r"DETAIL enforcer\[\d+\]: snapshot \d+ is in force after \d+\.\d ms: .* added")
        before = agent.status()
        text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: app, name: later}\nspec: {podSelector: {}%s}\n"
        (folder / "later.yaml").write_text(text % "")
        agent.wait_until_enforced(before)
        wait_for(agent, r"snapshot \d+ is in force after \d+\.\d ms: NetworkPolicy app/later added$")
        (folder / "later.yaml").write_text(text % ", egress: 7")
        wait_for(agent, r"ERROR .* rejected: later.yaml.*egress")
        (folder / "later.yaml").unlink()
        wait_for(agent, r"INFO .* no longer rejected: later.yaml.*egress")
        wait_for(agent, r"snapshot \d+ is in force after \d+\.\d ms: NetworkPolicy app/later deleted")
        assert "DEBUG" not in agent.log.read_text(encoding="utf-8")
        assert_admitted(box, "friend")


def test_debug_lines_follow_a_change_through_supervisor_and_workers(box: Box, folder: Path) -> None:
    """At --v=4."""
    with Agent(box, folder, "--v=4", *FLAGS) as agent:
        version = agent.status()["snapshot_version"]
        wait_for(agent, r"DEBUG supervisor\[\d+\]: update of the source: [1-9]\d* upserted")
        wait_for(agent, rf"DEBUG enforcer\[\d+\]: snapshot {version} compiled in ")
        wait_for(agent, rf"DEBUG worker\[\d+\]: worker 0 evaluates with snapshot {version}$")
        wait_for(agent, rf"DEBUG enforcer\[\d+\]: the kernel isolates the pods of snapshot {version}$")
