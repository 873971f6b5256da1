"""`netpolq flows` from elsewhere: through an API server, whose pods run the real command beside a real agent."""

import json
import signal
import subprocess
import sys

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from netpolq.flow_view.exec_command import MAX_AT_ONCE
from netpolq.flows import record
from tests.process.conftest import assert_admitted, written
from tests.process.test_flows_command import Terminal, on_terminal, records, wait_for_flows
from tests.support.apiserver import ApiServer, ThreadedApiServer
from tests.support.commands import as_program, in_process

TOKEN = "secret-of-the-test"  # noqa: S105
_LIMIT_S = 60.0


class Cluster(NamedTuple):
    """An API server with the pods of agents. They share the one agent that runs."""

    api: ThreadedApiServer
    agent: Agent
    kubeconfig: Path

    def put(self, name: str, node: str, **fields: str) -> None:
        def put(server: ApiServer) -> None:
            container = server.containers.put(name, node, **fields)
            container.environment = {"NETPOLQ_RUN_DIR": str(self.agent.run_dir)}

        self.api.do(put)

    def set(self, name: str, **fields: object) -> None:
        def change(server: ApiServer) -> None:
            for field, value in fields.items():
                setattr(server.containers.pods[name], field, value)

        self.api.do(change)

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-P", "-m", "netpolq", "flows", f"--kubeconfig={self.kubeconfig}", *flags]

    def run(self, *flags: str, expected: int = ExitCode.OK) -> tuple[str, str]:
        printed, errors = as_program(self.command(*flags), expected)
        assert TOKEN not in errors
        return printed, errors


@contextmanager
def three_agents(agent: Agent, folder: Path) -> Iterator[Cluster]:
    """An API server with the pods of three agents, and its kubeconfig in a folder."""
    with ThreadedApiServer(ApiServer(tls=True, token=TOKEN)) as api:
        cluster = Cluster(api, agent, api.kubeconfig(folder / "kubeconfig", token=TOKEN))
        for number in (1, 2, 3):
            cluster.put(f"netpolq-{number}", f"node-{number}")
        yield cluster


@pytest.fixture(scope="module")
def agent(shared_box: Box) -> Iterator[Agent]:
    """An agent that has recorded connections of both clients, for all tests: what differs is the API server."""
    with Agent(shared_box, written(shared_box), "--workers=1", "--fail-open=false") as agent:
        assert_admitted(shared_box, "friend")
        wait_for_flows(agent)
        yield agent


@pytest.fixture
def cluster(agent: Agent, tmp_path: Path) -> Iterator[Cluster]:
    with three_agents(agent, tmp_path) as cluster:
        yield cluster


def test_all_agents_are_read_and_merged_by_time(cluster: Cluster) -> None:
    cluster.put("netpolq-1-old", "node-1", created="2025-01-01T00:00:00Z")
    local = in_process("flows", f"--run-dir={cluster.agent.run_dir}", "--denied")[1].splitlines()
    printed, errors = cluster.run("--denied", "--since=1h", "--from=app/stranger")
    assert sorted(printed.splitlines()) == sorted(local * 3)
    starts = [found.window_start_s for found in records(printed)]
    assert starts == sorted(starts)
    assert errors.count("knows flows only since") == 3
    commands = cluster.api.do(lambda server: server.containers.commands)
    assert commands == [["netpolq", "flows", "--output=raw", "--denied", "--from=app/stranger", "--since=3600s"]] * 3
    table, _errors = cluster.run("-o", "text", "--node=node-2,node-3")
    assert "NODE" in table
    assert "of 2 agents" in table


@pytest.mark.flows
def test_agents_that_cannot_be_read_are_named_with_the_reason(cluster: Cluster) -> None:
    """A silent one, one whose connection ends in the middle, a pod that does not run, and a command that fails."""
    cluster.set("netpolq-2", is_silent=True)
    cluster.set("netpolq-3", cut_after_bytes=700)
    cluster.put("netpolq-4", "node-4", phase="Pending")
    cluster.put("netpolq-5", "node-5")
    cluster.set("netpolq-5", environment={"NETPOLQ_RUN_DIR": "/nonexistent"})
    printed, errors = cluster.run("--timeout=15s", expected=ExitCode.INCOMPLETE)
    assert records(printed)
    assert "netpolq: node-2: no answer within 15 s (see --timeout)\n" in errors
    assert "netpolq: node-3: the connection ended in the middle; its flows are incomplete\n" in errors
    assert "netpolq: node-4: its pod is Pending\n" in errors
    assert "netpolq: node-5: no agent answers on '/nonexistent/status.sock': No such file or directory" in errors


@pytest.mark.flows
def test_without_any_answer_the_command_fails_with_the_reason(cluster: Cluster) -> None:
    cluster.api.do(lambda server: server.containers.forbidden.add("exec"))
    printed, errors = cluster.run(expected=ExitCode.FAILED)
    assert printed == ""
    (line,) = errors.splitlines()
    assert line.startswith(
        "netpolq: error: no agent could be read: node-1, node-2, node-3: you need the verbs create and get of the resource pods/exec "
        "in the namespace 'kube-system': 403 pods is forbidden"
    )
    cluster.api.do(lambda server: server.containers.forbidden.add("list"))
    _printed, errors = cluster.run(expected=ExitCode.FAILED)
    assert "does not let you list pods of the namespace 'kube-system' (verb list, resource pods): 403" in errors
    cluster.api.do(lambda server: server.rotate_token("another"))
    _printed, errors = cluster.run(expected=ExitCode.FAILED)
    assert "401" in errors


@pytest.mark.flows
def test_a_cluster_without_agents_and_a_context_that_is_missing_are_errors(cluster: Cluster) -> None:
    _printed, errors = cluster.run("--node=node-9", expected=ExitCode.FAILED)
    assert (
        "there is no agent on 'node-9' in the namespace 'kube-system' with the labels 'app.kubernetes.io/name=netpolq'" in errors
    )
    _printed, errors = cluster.run("--agent-namespace=other", expected=ExitCode.FAILED)
    assert "there is no agent in the namespace 'other'" in errors
    _printed, errors = cluster.run("--context=other", expected=ExitCode.BOOT)
    assert "there is no context 'other'; allowed: " in errors
    cluster.api.run(lambda server: server.refuse_connections())
    _printed, errors = cluster.run(expected=ExitCode.FAILED)
    assert f"the API server {cluster.api.url} cannot be reached" in errors


@pytest.mark.flows
def test_at_most_so_many_agents_are_read_at_once(cluster: Cluster) -> None:
    for number in range(4, MAX_AT_ONCE + 5):
        cluster.put(f"netpolq-{number}", f"node-{number}")
    # Silent ones, so that the machine need not run as many commands.
    for number in range(1, MAX_AT_ONCE + 5):
        cluster.set(f"netpolq-{number}", is_silent=number != 1)
    _printed, errors = cluster.run("--timeout=10s", expected=ExitCode.INCOMPLETE)
    assert f"node-13, node-14 and {MAX_AT_ONCE - 2} more: no answer within 10 s" in errors
    assert cluster.api.do(lambda server: server.containers.most_at_once) == MAX_AT_ONCE


@pytest.mark.flows
def test_a_server_of_the_older_protocol_is_read(cluster: Cluster) -> None:
    cluster.api.do(lambda server: setattr(server.containers, "protocols", ("v4.channel.k8s.io",)))
    assert records(cluster.run("--node=node-1")[0])


def test_all_agents_are_followed_also_after_their_pods_are_replaced(shared_box: Box, cluster: Cluster) -> None:
    with subprocess.Popen(
        cluster.command("--follow", "--denied", "--node=node-1", "--output=raw"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["node"] == "node"
        assert_admitted(shared_box, "friend")
        assert next_record(process).flow.source.pod_name == "app/stranger"
        cluster.put("netpolq-1-new", "node-1", created="2026-02-01T00:00:00Z")
        cluster.api.do(lambda server: server.containers.pods.pop("netpolq-1"))
        cluster.api.do(lambda server: server.cut_connections())
        assert (
            process.stderr.readline()
            == "netpolq: node-1: the connection ended in the middle; its flows are incomplete; trying again\n"
        )
        assert process.stderr.readline().startswith("netpolq: node-1: the agent answers again")
        assert_admitted(shared_box, "friend")
        assert next_record(process).flow.source.pod_name == "app/stranger"
        process.terminate()
        assert process.wait(_LIMIT_S) == ExitCode.OK
        assert process.stderr.read() == ""


def next_record(process: "subprocess.Popen[str]") -> record.FlowRecord:
    assert process.stdout is not None
    while (line := process.stdout.readline()).startswith('{"node"'):
        continue
    return record.decode(line)


@pytest.mark.flows
@pytest.mark.parametrize("flags", [(), ("--follow", "--since=1h")], ids=["once", "follow"])
def test_a_reader_that_is_gone_ends_the_command_quietly(cluster: Cluster, flags: tuple[str, ...]) -> None:
    with subprocess.Popen(cluster.command("-o", "raw", *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(_LIMIT_S) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.flows
def test_a_live_table_of_a_cluster_ends_with_an_interrupt(cluster: Cluster) -> None:
    terminal: Terminal
    with on_terminal(cluster.command("--follow", "--since=1h")) as terminal:
        terminal.read_until("app/stranger")
        terminal.read_until("of 3 agents")
        terminal.process.terminate()
        assert terminal.wait() == ExitCode.OK
        assert "Traceback" not in terminal.text
