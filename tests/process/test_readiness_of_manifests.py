"""Readiness of an agent whose manifests may enforce less than intended."""

import http

from pathlib import Path

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from tests.process.conftest import FRIEND, NODE, SERVER

ELSEWHERE = Host(name="node-a.example.org", addresses=NODE.addresses)


def test_a_folder_without_a_pod_of_this_node_is_not_ready_until_there_is_one(box: Box) -> None:
    """The manifests may have another name for the node than the host; then the agent enforces nothing."""
    folder = box.directory / "manifests"
    folder.mkdir()
    manifests.write(folder / "pods.json", [manifests.pod(SERVER, ELSEWHERE), manifests.pod(FRIEND, ELSEWHERE)])
    agent = Agent(box, folder, "--workers=1")
    agent.launch()
    try:
        agent.wait_until("in force", lambda: _reasons_of(agent) != "" and _is_enforcing(agent))
        assert ELSEWHERE.name in _reasons_of(agent)
        assert repr(NODE.name) in _reasons_of(agent)
        manifests.write(folder / "pods.json", [manifests.pod(SERVER, NODE), manifests.pod(FRIEND, ELSEWHERE)])
        agent.wait_until("ready", agent.is_ready)
    finally:
        agent.stop()
        agent.cleanup()


def test_a_file_with_an_unknown_set_of_isolated_pods_keeps_the_agent_unready(box: Box, folder: Path) -> None:
    template = folder / "template.yaml"
    template.write_text("kind: NetworkPolicy\nmetadata: {namespace: {{ .Values.namespace }}}\n")
    agent = Agent(box, folder, "--workers=1")
    agent.launch()
    try:
        agent.wait_until("in force", lambda: _reasons_of(agent) != "" and _is_enforcing(agent))
        assert "template.yaml" in _reasons_of(agent)
        template.unlink()
        agent.wait_until("ready", agent.is_ready)
    finally:
        agent.stop()
        agent.cleanup()


def _reasons_of(agent: Agent) -> str:
    try:
        answer = agent.http("/readyz")
    except OSError:
        return ""
    return "" if answer.code == http.HTTPStatus.OK else answer.body


def _is_enforcing(agent: Agent) -> bool:
    reasons = _reasons_of(agent)
    return "manifests" in reasons and not any(part in reasons for part in ("snapshot", "workers"))
