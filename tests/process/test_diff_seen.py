"""`netpolq diff --since`: what a change would cut of what running agents have seen, asked on the node and through an API server."""

import json
import re
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from tests.process.conftest import admit, assert_admitted
from tests.process.test_flows_command import wait_for_flows
from tests.process.test_flows_of_cluster import TOKEN, Cluster, three_agents
from tests.support.commands import as_program

_CUT = "app/friend -> app/server: TCP 80: all -> none\n"
_ALLOWED = "app/stranger -> app/server: TCP 80: none -> all\n"


@pytest.fixture
def agent(box: Box, folder: Path) -> Iterator[Agent]:
    """An agent that has recorded connections of both clients, of which it admits the friend."""
    with Agent(box, folder, "--workers=1", "--fail-open=false") as agent:
        assert_admitted(box, "friend")
        wait_for_flows(agent)
        yield agent


@pytest.fixture
def api(box: Box, agent: Agent) -> Iterator[Cluster]:
    with three_agents(agent, box.directory) as cluster:
        yield cluster


@pytest.fixture
def new(box: Box) -> Path:
    """A policy that admits the stranger in place of the friend."""
    path = box.directory / "new"
    path.mkdir()
    admit(path, "stranger")
    return path


def diff(*words: object, expected: int) -> tuple[str, str]:
    return as_program([sys.executable, "-P", "-m", "netpolq", "diff", *map(str, words)], expected)


def test_what_the_agent_of_this_node_has_seen_would_be_cut(agent: Agent, folder: Path, new: Path) -> None:
    flags = ("--new-has", "changes", "--since", "1h", "--run-dir", agent.run_dir)
    printed, errors = diff("agent:", new, *flags, expected=ExitCode.UNEXPECTED)
    assert _CUT in printed
    assert _ALLOWED in printed
    assert "  seen 1 connections, last at " in printed
    assert "netpolq: the agent on node knows flows only since" in errors
    printed, _errors = diff(folder, new, *flags, "-o", "json", expected=ExitCode.UNEXPECTED)
    answer = json.loads(printed)
    assert answer["compared"] == 2
    assert {(change["source"], change["seen"]["connections"] > 0) for change in answer["changes"]} == {
        ("app/friend", True),
        ("app/stranger", True),
    }


@pytest.mark.flows
def test_a_change_that_cuts_nothing_that_was_seen_is_none(agent: Agent, folder: Path, new: Path) -> None:
    """The new policy admits everything: only a connection that was denied would change."""
    admit(new, "friend")
    policy = new / "policy.json"
    body = json.loads(policy.read_text(encoding="utf-8"))
    (item,) = body["items"]
    item["spec"]["ingress"] = [{}]
    policy.write_text(json.dumps(body), encoding="utf-8")
    flags = ("--new-has", "changes", "--run-dir", agent.run_dir)
    printed, _errors = diff(folder, new, *flags, "--since=1h", expected=ExitCode.OK)
    assert _ALLOWED in printed
    assert _CUT not in printed


@pytest.mark.flows
def test_without_an_agent_or_its_flows_the_command_fails(box: Box, folder: Path, new: Path) -> None:
    with Agent(box, folder, "--workers=1", "--flows=off") as agent:
        flags = ("--new-has=changes", "--since=5m", "--run-dir", agent.run_dir)
        printed, errors = diff(folder, new, *flags, expected=ExitCode.FAILED)
        assert (printed, errors) == ("", "netpolq: error: flows are off: run the agent with --flows on or --flows denied\n")
        agent.stop()
        printed, errors = diff(folder, new, *flags, expected=ExitCode.FAILED)
        assert printed == ""
        assert "no agent answers on" in errors


def test_all_agents_of_a_cluster_tell_what_they_have_seen(api: Cluster, folder: Path, new: Path) -> None:
    flags = ("--new-has=changes", "--since=1h", "--kubeconfig", api.kubeconfig)
    printed, errors = diff(folder, new, *flags, expected=ExitCode.UNEXPECTED)
    assert _CUT in printed
    assert "  seen 3 connections" in printed, "each of the three has reported it"
    assert errors.count("knows flows only since") == 3
    assert TOKEN not in errors
    commands = api.api.do(lambda server: server.containers.commands)
    assert commands == [["netpolq", "flows", "--output=raw", "--since=3600s"]] * 3
    printed, _errors = diff(folder, new, *flags, "--node=node-2", expected=ExitCode.UNEXPECTED)
    assert "  seen 1 connections" in printed


@pytest.mark.flows
def test_agents_that_cannot_be_asked_make_the_answer_incomplete(api: Cluster, folder: Path, new: Path) -> None:
    """Unless what the others have seen is cut: that is certain."""
    flags = ("--new-has=changes", "--since=1h", "--kubeconfig", api.kubeconfig)
    api.put("netpolq-2", "node-2", phase="Pending")
    printed, errors = diff(folder, new, *flags, expected=ExitCode.UNEXPECTED)
    assert _CUT in printed
    assert "netpolq: node-2: its pod is Pending\n" in errors
    printed, errors = diff(folder, folder, *flags, expected=ExitCode.INCOMPLETE)
    assert printed == "none of 2 connections that were seen changes\n"
    assert "netpolq: node-2: its pod is Pending\n" in errors
    api.api.do(lambda server: server.containers.forbidden.add("exec"))
    printed, errors = diff(folder, new, *flags, expected=ExitCode.FAILED)
    assert printed == ""
    assert "netpolq: error: no agent could be read: " in errors


@pytest.mark.flows
def test_the_context_of_the_agents_is_that_of_the_cluster_that_is_compared(api: Cluster, folder: Path, new: Path) -> None:
    """Here the current one leads nowhere."""
    for path in folder.glob("*.json"):
        for body in json.loads(path.read_text(encoding="utf-8"))["items"]:
            api.api.put(body)
    config = api.kubeconfig.read_text(encoding="utf-8")
    api.kubeconfig.write_text(re.sub("current-context(.*)test", r"current-context\1gone", config), encoding="utf-8")
    flags = ("--new-has=changes", "--since=1h", "--kubeconfig", api.kubeconfig)
    _printed, errors = diff(folder, new, *flags, expected=ExitCode.BOOT)
    assert "gone" in errors
    printed, _errors = diff("cluster:test", new, *flags, expected=ExitCode.UNEXPECTED)
    assert _CUT in printed
    printed, _errors = diff(folder, new, *flags, "--context=test", expected=ExitCode.UNEXPECTED)
    assert _CUT in printed
