"""The replacement of a killed process continues its work: with the newest snapshot, the same rules, and every connection."""

import socket
import time

from contextlib import ExitStack
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from netpolq.errors import SnapshotError
from netpolq.ipc.run_dir import SNAPSHOT_FILE
from netpolq.snapshot.layout import PREFIX_BYTES
from netpolq.snapshot.memfd import load
from netpolq.snapshot.reader import SnapshotReader
from tests.process.conftest import FRIEND, MODES, NODE, SERVER, STRANGER, admit, listening, receives_nothing, send, worker_of

CHANGES = 20
MOMENTS_S = (0.0, 0.004, 0.008, 0.012, 0.02, 0.04)
"""Delays after a change of the policy. The agent compiles, publishes and installs it within some 15 to 40 ms."""
MIN_UPTIME_S = 0.15
"""More than 0.1 s: a worker that exits earlier has failed, and its replacements wait."""
TCP_PORT, UDP_PORT = 9998, 9999

InForce = tuple[list[str], bytes]
"""Lines of our table, and the content of a snapshot."""


@MODES
def test_no_replacement_evaluates_with_a_snapshot_older_than_the_one_in_force(box: Box, folder: Path, mode: str) -> None:
    """The worker is killed as soon as a change is in force. The next packets are evaluated with that change."""
    with Agent(box, folder, f"--fail-open={mode}", "--workers=1") as agent, listening(box, UDP_PORT) as server:
        for number in range(CHANGES):
            allowed, denied = (FRIEND, STRANGER) if number % 2 else (STRANGER, FRIEND)
            before = agent.status()
            admit(folder, app(allowed))
            agent.wait_until_enforced(before)
            time.sleep(MIN_UPTIME_S)
            agent.kill(worker_of(agent))
            for client in (denied, allowed):  # one queue, so they arrive in this order, if at all
                send(box, client.name, UDP_PORT, client.name.encode())
            assert server.recv(64) == allowed.name.encode()
        assert receives_nothing(server)


@pytest.mark.lifecycle
def test_after_a_supervisor_was_killed_at_any_moment_the_state_is_that_of_a_fresh_start(box: Box, folder: Path) -> None:
    """While it publishes, changes rules or flushes the verdict cache. Workers go on, and the next supervisor restores the state."""
    flags = ("--fail-open=false", "--workers=1", "--verdict-cache=on", "--verdict-cache-ttl=3600")
    with Agent(box, folder, *flags) as agent, listening(box, UDP_PORT) as server:
        states: dict[str, list[InForce]] = {}
        for number, moment_s in enumerate(MOMENTS_S):
            denied, allowed = (FRIEND, STRANGER) if number % 2 == 0 else (STRANGER, FRIEND)
            fill_cache(box, agent, denied, server)
            before = agent.status()
            supervisor = agent.supervisor()
            assert supervisor is not None
            admit(folder, app(allowed))
            time.sleep(moment_s)
            supervisor.kill()
            agent.wait_until("it has exited", lambda gone=supervisor: not gone.is_running())  # type: ignore[misc]
            agent.wait_until("the next one is there", agent.is_ready)
            agent.wait_until_enforced(before)
            states.setdefault(app(allowed), []).append(everything_in_force(box, agent))
            for client in (denied, allowed):
                send(box, client.name, UDP_PORT, client.name.encode())
            assert server.recv(64) == allowed.name.encode()
        for admitted, found in states.items():
            agent.stop()
            agent.cleanup()
            admit(folder, admitted)
            agent.start()
            assert found == [everything_in_force(box, agent)] * len(found)


def test_connections_outlive_all_processes_of_the_agent(box: Box, folder: Path) -> None:
    """The rules stay, and they do not queue packets of an accepted connection, without an agent and with the next one."""
    with Agent(box, folder, "--fail-open=false", "--workers=1") as agent, ExitStack() as sockets:
        listener, client = (
            sockets.enter_context(box.inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)))
            for name in (SERVER.name, FRIEND.name)
        )
        listener.bind((box.address(SERVER.name, 4), TCP_PORT))
        listener.listen()
        for end in (listener, client):
            end.settimeout(10.0)
        client.connect((box.address(SERVER.name, 4), TCP_PORT))
        server = sockets.enter_context(listener.accept()[0])
        server.settimeout(10.0)
        for moment in ("before", "without an agent", "with the next one"):
            if moment == "without an agent":
                agent.kill_all()
            elif moment == "with the next one":
                agent.start()
            for sender, receiver in ((client, server), (server, client)):
                sender.send(moment.encode())
                assert receiver.recv(64) == moment.encode()


def app(host: Host) -> str:
    return host.name.split("/")[1]


def fill_cache(box: Box, agent: Agent, admitted: Host, server: socket.socket) -> None:
    """Fill the verdict cache in the kernel: with an accept of one client and a drop of the other."""
    denied = STRANGER if admitted is FRIEND else FRIEND

    def is_kept() -> bool:
        for client in (admitted, denied):
            send(box, client.name, UDP_PORT, b"again")
        assert server.recv(64) == b"again"
        return agent.status()["verdict_cache"]["entries"] >= 2

    agent.wait_until("the kernel has the verdicts", is_kept)


def everything_in_force(box: Box, agent: Agent) -> InForce:
    """Our table without handles and counters, with sorted elements of sets, and the content of the snapshot file."""
    agent.wait_until("the snapshot file is written", lambda: is_newest_kept(agent))
    listed = box.run(NODE.name, ["nft", "--stateless", "list", "table", "inet", "netpolq"])
    assert listed.returncode == 0, listed.stderr
    lines = [", ".join(sorted(line.split(", "))) for line in listed.stdout.splitlines()]
    return lines, load(agent.run_dir / SNAPSHOT_FILE)[PREFIX_BYTES:]


def is_newest_kept(agent: Agent) -> bool:
    try:
        return kept(agent).version == agent.status()["snapshot_version"]
    except SnapshotError:  # a newer one is on its way
        return False


def kept(agent: Agent) -> SnapshotReader:
    return SnapshotReader(load(agent.run_dir / SNAPSHOT_FILE))
