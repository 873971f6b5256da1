"""Packets that wait for an unknown address in a running agent: through restarts of its processes, and a takeover."""

import asyncio
import signal
import socket
import time

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from netpolq.dataplane.install import probe
from netpolq.dataplane.queue_rule import _replace
from netpolq.enums import Dataplane, PacketMark
from netpolq.netlink.nftables import commit
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER, admit, listening, receives_nothing, send, waiting_of

FLAGS = ("--fail-open=false", "--workers=1", "--verdict-cache=off", "--hold-unknown=off", "--hold-timeout=30")
PORT = 9999
MIN_UPTIME_S = 0.15


def know(folder: Path, *hosts: Host) -> None:
    """Write a manifest with these pods."""
    pods = [manifests.pod(host, NODE, app=host.name.split("/")[1]) for host in hosts]
    manifests.write(folder / "cluster.json", [manifests.namespace("app"), *pods])


def queue_new_connections(box: Box, queue_num: int) -> None:
    """Queue the first packet of each connection to the port, before the agent's rules, as one whose source the kernel does not know.

    The agent's rules evaluate it again afterwards, by a worker that may have an older snapshot than the waiting process had. So these
    tests look at what the waiting process has decided. tests/netns/waiting looks at what arrives.
    """

    def install() -> None:
        commit(_replace(("first-packets", "enqueue"), asyncio.run(probe(Dataplane.AUTO)), queue_num, 1, 0))

    box.inside(NODE.name, install)
    rule = f"ct state new udp dport {PORT} meta mark set {PacketMark.UNKNOWN_SOURCE << 4:#x} jump enqueue"
    chain = "add chain inet first-packets forward { type filter hook forward priority -10 ; }"
    for command in (chain, f"add rule inet first-packets forward {rule}"):
        assert box.run(NODE.name, ["nft", command]).returncode == 0


def held(agent: Agent) -> int:
    waiting = agent.status()["waiting"]
    return -1 if waiting is None else waiting["held"]


def accepted(agent: Agent) -> int:
    """Packets that have waited and were accepted."""
    start = 'netpolq_held_packets_total{outcome="accepted"} '
    return sum(int(float(line.removeprefix(start))) for line in agent.metrics().splitlines() if line.startswith(start))


@pytest.fixture
def server(box: Box, folder: Path) -> Iterator[socket.socket]:
    """The server's socket. The agent knows no pod but the server's."""
    know(folder, SERVER)
    with listening(box, PORT) as bound:
        yield bound


@pytest.fixture
def agent(box: Box, folder: Path, server: socket.socket) -> Iterator[Agent]:
    del server  # it must be there before the agent has read the manifests
    with Agent(box, folder, *FLAGS) as agent:
        queue_new_connections(box, 100)
        yield agent


def test_packets_wait_through_restarts_of_all_processes_but_the_pool(
    box: Box, folder: Path, agent: Agent, server: socket.socket
) -> None:
    send(box, FRIEND.name, PORT, b"friend")
    send(box, STRANGER.name, PORT, b"stranger")
    agent.wait_until("both wait", lambda: held(agent) == 2)
    assert "netpolq_waiting_packets 2.0" in agent.metrics()
    time.sleep(MIN_UPTIME_S)
    supervisor = agent.supervisor()
    assert supervisor is not None
    supervisor.kill()
    killed = {fork.pid for fork in agent.forks()}
    for process in agent.forks():
        process.kill()
    supervisor.wait(20)
    agent.wait_until("ready again", agent.is_ready)
    assert waiting_of(agent) not in killed
    agent.wait_until("both wait", lambda: held(agent) == 2)
    assert receives_nothing(server)
    know(folder, SERVER, FRIEND, STRANGER)
    agent.wait_until("the friend is accepted", lambda: accepted(agent) == 1)


def test_packets_that_wait_move_to_the_agent_that_takes_over(box: Box, folder: Path, agent: Agent, server: socket.socket) -> None:
    send(box, FRIEND.name, PORT, b"friend")
    agent.wait_until("it waits", lambda: held(agent) == 1)
    with Agent(box, folder, *FLAGS, "--takeover") as successor:
        assert agent._process is not None
        assert agent._process.wait(20) == 0
        successor.wait_until("it waits there", lambda: held(successor) == 1)
        status = successor.status()
        assert status["waiting"] is not None
        assert (status["workers"][0]["queue_num"], status["waiting"]["queue_num"]) == (103, 104)
        assert receives_nothing(server)
        know(folder, SERVER, FRIEND)
        successor.wait_until("it is accepted", lambda: accepted(successor) == 1)
        assert held(successor) == 0


def test_a_version_is_in_force_only_when_the_waiting_process_has_it(box: Box, folder: Path) -> None:
    """And the agent is not ready without it."""
    know(folder, SERVER, FRIEND, STRANGER)
    with Agent(box, folder, *FLAGS) as agent:
        before, waiting = agent.status(), waiting_of(agent)
        agent.kill(waiting, signal.SIGSTOP)
        admit(folder, "stranger")
        agent.wait_until(
            "the workers have it",
            lambda: agent.status()["workers"][0]["acked_version"] > before["snapshot_version"],
        )
        status = agent.status()
        if waiting_of(agent) == waiting:  # it is killed after two seconds of silence
            assert status["in_force_version"] < status["snapshot_version"]
        agent.wait_until("it is replaced", lambda: waiting_of(agent) not in {0, waiting})
        agent.wait_until_enforced(before)
        assert f"waiting process (pid {waiting}) sent no heartbeat" in agent.log.read_text()
        seen = set[str]()
        for _ in range(40):
            with suppress(ProcessLookupError):
                agent.kill(waiting_of(agent) or agent.forks()[0].pid)
            seen.add(agent.http("/readyz").body)
            if any("the waiting process is not running" in body for body in seen):
                break
        assert any("the waiting process is not running" in body for body in seen), seen
        agent.wait_until("ready again", agent.is_ready)
