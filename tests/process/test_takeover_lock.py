"""The agent lock of a network namespace, and which processes may take over."""

import socket
import sys
import time

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from tests.process.conftest import NODE, admit, assert_admitted
from tests.process.test_standing_still import lowest_free_descriptor
from tests.process.test_start import run_to_the_end

NAME = "\0netpolq"
CLOSED = "--fail-open=false"
OTHER_USER = 65534
HOLD_THE_NAME = f"""
import socket, sys
name = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
name.bind({NAME!r})
if sys.argv[1] == "listens":
    name.listen()
print("held", flush=True)
sys.stdin.read()
"""


def connected(box: Box) -> socket.socket:
    """A connection to the agent of the node, as user 0."""
    connection = box.inside(NODE.name, lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    connection.connect(NAME)  # waits while the backlog is full
    connection.settimeout(5.0)
    return connection


def test_a_process_that_cannot_read_the_run_directory_cannot_take_over_even_as_user_0(
    shared_box: Box, shared_agent: Agent
) -> None:
    """A container on the node's network without capabilities and without files of the node is such a process."""
    supervisor = shared_agent.supervisor()
    assert supervisor is not None
    with connected(shared_box) as connection:
        assert connection.recv(64) == b"queues 100:103"
        for request in (b"stand-down", b"stand-down ", b"stand-down " + b"0" * 32, b"stand-down \xff"):
            connection.send(request)
            assert connection.recv(64) == b"refused"
        connection.send(b"leave")
        connection.send(b"stand-down")
        assert connection.recv(64) == b"refused"
    assert shared_agent.is_ready()
    assert shared_agent.supervisor() == supervisor
    before = shared_agent.status()
    assert shared_agent.manifests is not None
    admit(shared_agent.manifests, "stranger")
    shared_agent.wait_until_enforced(before)
    assert_admitted(shared_box, "stranger")


def test_process_1_that_sigterm_ends_during_a_takeover_hands_on_the_lock_and_ends(box: Box, folder: Path) -> None:
    """It does not wait for a second SIGTERM, as after it has left."""
    first = Agent(box, folder, CLOSED, "--workers=1", prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    with first, connected(box) as replacement:
        replacement.settimeout(20.0)
        assert replacement.recv(64) == b"queues 100:102"
        replacement.send(b"stand-down " + (first.run_dir / "takeover.key").read_bytes())
        assert replacement.recv(64) == b"standing-down"
        (process_1,) = psutil.Process(first.pid).children()
        process_1.terminate()
        data, descriptors, _flags, _address = socket.recv_fds(replacement, 64, 1)
        assert (data, len(descriptors)) == (b"left", 1)
        socket.socket(fileno=descriptors[0]).close()
        first.wait_until("it has ended", lambda: not first.is_running)
        assert first.stop() == ExitCode.OK
        assert "waiting for SIGTERM" not in first.log.read_text()


def test_descriptors_that_come_with_a_message_are_closed(shared_box: Box, shared_agent: Agent) -> None:
    pool = psutil.Process(shared_agent.pid)
    with connected(shared_box) as connection:
        assert connection.recv(64)
        before = pool.num_fds()
        for _ in range(50):
            socket.send_fds(connection, [b"stand-down"], [connection.fileno(), 0])
            assert connection.recv(64) == b"refused"
        assert pool.num_fds() == before


def test_an_agent_with_another_run_directory_ends_and_the_running_one_goes_on(
    shared_box: Box, shared_agent: Agent, tmp_path: Path
) -> None:
    done = run_to_the_end(
        shared_box, "--manifests", str(shared_agent.manifests), CLOSED, "--takeover", "--run-dir", str(tmp_path / "elsewhere")
    )
    assert done.returncode == ExitCode.ALREADY_RUNNING
    assert "--run-dir must be that of the running agent" in done.stderr
    assert shared_agent.is_ready()
    assert_admitted(shared_box, "friend")


@pytest.mark.parametrize("how", ["listens", "only holds it"])
def test_another_users_process_that_holds_the_name_keeps_no_agent_from_starting(box: Box, folder: Path, how: str) -> None:
    python = getattr(sys, "_base_executable", sys.executable)  # the other user may have no access to that of the checkout
    argv = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups", python, "-c", HOLD_THE_NAME, how]
    with box.inside(NODE.name, lambda: psutil.Popen(argv, stdin=-1, stdout=-1, cwd="/")) as holder:
        assert holder.stdout.readline() == b"held\n"
        with Agent(box, folder, CLOSED) as agent:
            assert "a program that is not an agent holds the socket" in agent.log.read_text()
            assert_admitted(box, "friend")
        holder.kill()


def ended(agents: Sequence[Agent]) -> Agent:
    """Wait until one of the agents ends, and return it."""
    deadline_s = time.monotonic() + 20.0
    while time.monotonic() < deadline_s:
        for agent in agents:
            if not agent.is_running:
                return agent
        time.sleep(0.02)
    raise TimeoutError(agents[0].log.read_text())


@pytest.mark.lifecycle
@pytest.mark.timeout(180)
def test_of_two_agents_that_take_over_at_the_same_time_one_does_and_the_other_ends(box: Box, folder: Path) -> None:
    serving = Agent(box, folder, CLOSED, "--workers=1")
    serving.start()
    agents = [serving]
    try:
        for queue in range(200, 240, 10):
            both = [
                Agent(box, folder, CLOSED, "--workers=1", "--takeover", f"--nfqueue-id={number}")
                for number in (queue, queue + 100)
            ]
            agents += both
            for agent in both:
                agent.launch()
            assert ended([serving]).stop() == ExitCode.OK
            loser = ended(both)
            assert loser.stop() == ExitCode.ALREADY_RUNNING
            (serving,) = [agent for agent in both if agent is not loser]
            serving.wait_until("ready", serving.is_ready)
            assert_admitted(box, "friend")
        assert serving.is_running
    finally:
        for agent in agents:
            agent.stop()
        serving.cleanup()


def test_idle_connections_keep_no_agent_from_taking_over(box: Box, folder: Path, closed_agent: Agent) -> None:
    """Any process of user 0 on the node's network can open them. The limit of connections is below their number."""
    idle = [connected(box) for _ in range(20)]
    try:
        with Agent(box, folder, CLOSED, "--workers=1", "--takeover", "--nfqueue-id=200") as successor:
            assert ended([closed_agent]).stop() == ExitCode.OK
            successor.wait_until("ready", successor.is_ready)
            assert_admitted(box, "friend")
    finally:
        for connection in idle:
            connection.close()


def test_a_connection_that_does_not_show_the_key_is_closed(shared_box: Box, shared_agent: Agent) -> None:
    """A connection that has shown it stays: the first sync of an agent that takes over may take minutes."""
    with connected(shared_box) as idle, connected(shared_box) as successor:
        successor.send(b"key " + (shared_agent.run_dir / "takeover.key").read_bytes())
        for connection in (idle, successor):
            connection.settimeout(20.0)
            assert connection.recv(64) == b"queues 100:103"
        assert idle.recv(64) == b""
        successor.settimeout(0.5)
        with pytest.raises(TimeoutError):
            successor.recv(64)


def test_a_pool_without_descriptors_does_not_spin_on_new_connections(shared_box: Box, shared_agent: Agent) -> None:
    """The socket stays readable while a connection cannot be accepted. The pool accepts it when there is a descriptor again."""
    pool = shared_agent.pool
    limit = pool.rlimit(psutil.RLIMIT_NOFILE)
    pool.rlimit(psutil.RLIMIT_NOFILE, (lowest_free_descriptor(pool.pid), limit[1]))
    with connected(shared_box) as connection:
        shared_agent.wait_until("it is logged", lambda: "cannot accept a connection" in shared_agent.log.read_text())
        busy_s = sum(pool.cpu_times()[:2])
        time.sleep(1.0)
        assert sum(pool.cpu_times()[:2]) - busy_s < 0.5
        pool.rlimit(psutil.RLIMIT_NOFILE, limit)
        assert connection.recv(64) == b"queues 100:103"
