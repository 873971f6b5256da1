"""Whoever comes after a killed process goes on where that one was: with the newest snapshot, the same rules, and every connection."""

import socket
import time

from contextlib import ExitStack
from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from netpolq.errors import SnapshotError
from netpolq.ipc.run_dir import IMAGE
from netpolq.snapshot.layout import PREFIX_BYTES
from netpolq.snapshot.memfd import load
from netpolq.snapshot.reader import SnapshotReader
from tests.process.conftest import FRIEND, MODES, NODE, SERVER, STRANGER, admit, hears_nothing, listening, send, worker_of

CHANGES = 20
MOMENTS_S = (0.0, 0.004, 0.008, 0.012, 0.02, 0.04)
"""After a change of the policy, which is compiled, published and put into the kernel within some 15 to 40 ms."""
OF_AGE_S = 0.15
"""A worker that dies younger than 0.1 s has failed, and its successors wait."""
TCP_PORT, UDP_PORT = 9998, 9999

InForce = tuple[list[str], bytes]
"""Lines of our table, and a snapshot."""


@MODES
def test_no_successor_judges_by_a_snapshot_that_is_older_than_the_one_in_force(box: Box, folder: Path, mode: str) -> None:
    """Killed as soon as a change is in force: what comes next is judged by that change, and not by what was before it."""
    with Agent(box, folder, f"--fail-open={mode}", "--workers=1") as agent, listening(box, UDP_PORT) as server:
        for number in range(CHANGES):
            allowed, denied = (FRIEND, STRANGER) if number % 2 else (STRANGER, FRIEND)
            before = agent.status()
            admit(folder, app(allowed))
            agent.wait_until_enforced(before)
            time.sleep(OF_AGE_S)
            agent.kill(worker_of(agent))
            for client in (denied, allowed):  # one queue, so they arrive in this order, if they do
                send(box, client.name, UDP_PORT, client.name.encode())
            assert server.recv(64) == allowed.name.encode()
        assert hears_nothing(server)


def test_a_supervisor_killed_at_any_moment_leaves_nothing_behind_that_a_fresh_start_would_not_have(
    box: Box, folder: Path
) -> None:
    """While it publishes, changes rules or empties the cache in the kernel. Workers judge on, and the next one puts all in order."""
    flags = ("--fail-open=false", "--workers=1", "--verdict-cache=on", "--verdict-cache-ttl=3600")
    with Agent(box, folder, *flags) as agent, listening(box, UDP_PORT) as server:
        succeeded: dict[str, list[InForce]] = {}
        for number, moment_s in enumerate(MOMENTS_S):
            denied, allowed = (FRIEND, STRANGER) if number % 2 == 0 else (STRANGER, FRIEND)
            fill_cache(box, agent, denied, server)
            before = agent.status()
            supervisor = agent.supervisor()
            assert supervisor is not None
            admit(folder, app(allowed))
            time.sleep(moment_s)
            supervisor.kill()
            agent.wait_until("it is gone", lambda gone=supervisor: not gone.is_running())  # type: ignore[misc]
            agent.wait_until("the next one is there", agent.is_ready)
            agent.wait_until_enforced(before)
            succeeded.setdefault(app(allowed), []).append(everything_in_force(box, agent))
            for client in (denied, allowed):
                send(box, client.name, UDP_PORT, client.name.encode())
            assert server.recv(64) == allowed.name.encode()
        for admitted, found in succeeded.items():
            agent.stop()
            agent.cleanup()
            admit(folder, admitted)
            agent.start()
            assert found == [everything_in_force(box, agent)] * len(found)


def test_connections_outlive_all_processes_of_the_agent(box: Box, folder: Path) -> None:
    """The rules stay, and in them nothing asks about a connection that was accepted: not while there is no agent, and not later."""
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
        for what in ("before", "without an agent", "with the next one"):
            if what == "without an agent":
                agent.kill_all()
            elif what == "with the next one":
                agent.start()
            for sender, receiver in ((client, server), (server, client)):
                sender.send(what.encode())
                assert receiver.recv(64) == what.encode()


def app(host: Host) -> str:
    return host.name.split("/")[1]


def fill_cache(box: Box, agent: Agent, admitted: Host, server: socket.socket) -> None:
    """Have the kernel keep decisions: on who is admitted, and on who is not."""
    denied = STRANGER if admitted is FRIEND else FRIEND

    def is_kept() -> bool:
        for client in (admitted, denied):
            send(box, client.name, UDP_PORT, b"again")
        assert server.recv(64) == b"again"
        return agent.status()["verdict_cache"]["entries"] >= 2

    agent.wait_until("decisions are kept in the kernel", is_kept)


def everything_in_force(box: Box, agent: Agent) -> InForce:
    """Our table without handles and counters, the elements of sets in order, and what the kept snapshot says."""
    agent.wait_until("the snapshot is kept", lambda: is_newest_kept(agent))
    listed = box.run(NODE.name, ["nft", "--stateless", "list", "table", "inet", "netpolq"])
    assert listed.returncode == 0, listed.stderr
    lines = [", ".join(sorted(line.split(", "))) for line in listed.stdout.splitlines()]
    return lines, load(agent.run_dir / IMAGE)[PREFIX_BYTES:]


def is_newest_kept(agent: Agent) -> bool:
    try:
        return kept(agent).version == agent.status()["snapshot_version"]
    except SnapshotError:  # a newer one is on its way
        return False


def kept(agent: Agent) -> SnapshotReader:
    return SnapshotReader(load(agent.run_dir / IMAGE))
