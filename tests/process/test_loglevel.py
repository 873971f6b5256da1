"""Changes of the verbosity of a running agent, by `netpolq loglevel` and by SIGHUP."""

import http.client
import re
import signal
import socket
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import admit, assert_admitted

FLAGS = ("--workers=1", "--fail-open=false", "--strict-mode=false")


@pytest.fixture
def agent(box: Box, folder: Path) -> Iterator[Agent]:
    with Agent(box, folder, *FLAGS) as agent:
        yield agent


def loglevel(agent: Agent, *arguments: str) -> str:
    """The output of `netpolq loglevel`."""
    argv = [sys.executable, "-m", "netpolq", "loglevel", *arguments, "--run-dir", str(agent.run_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def worker(agent: Agent) -> int:
    return agent.status()["workers"][0]["pid"]


def wait_for_lines(agent: Agent, pattern: str, count: int = 1, *, after: int = 0) -> list[str]:
    """Wait for `count` lines that match, from a position in the log on."""
    found: list[str] = []

    def are_there() -> bool:
        found[:] = [line for line in agent.log.read_text(encoding="utf-8")[after:].splitlines() if re.search(pattern, line)]
        return len(found) >= count

    agent.wait_until(f"{count} lines like {pattern!r}", are_there)
    return found


def written(agent: Agent) -> int:
    return len(agent.log.read_text(encoding="utf-8"))


def wait_for_supervisor(agent: Agent, verbosity: int, after: int) -> None:
    """Wait until a supervisor that was started with this verbosity has its policies in force."""
    wait_for_lines(agent, rf" starts on node .* verbosity {verbosity}$", after=after)
    agent.wait_until("ready", lambda: agent.is_ready() and re.search(": ready", agent.log.read_text()[after:]) is not None)


def test_lines_about_packets_begin_and_end_while_workers_go_on(box: Box, agent: Agent) -> None:
    """The lines have pod names, and the verdict cache hides no packet. The replacement of a killed worker writes them too."""
    before, position = worker(agent), written(agent)
    assert_admitted(box, "friend")
    assert loglevel(agent) == "log verbosity is 0\n"
    assert loglevel(agent, "2") == "log verbosity is 2, it was 0\n"
    wait_for_supervisor(agent, 2, position)
    assert worker(agent) == before
    for _ in range(3):  # with a verdict in the kernel, the last one would have no line
        assert_admitted(box, "friend")
    lines = wait_for_lines(agent, r" INFO packet\[\d+\]: ", 6, after=position)
    assert sum("(app/friend) -> 10.71.1.1:80 (app/server): allowed, ingress allowed by" in line for line in lines) == 3
    assert sum("(app/stranger) -> 10.71.1.1:80 (app/server): denied, ingress isolated by" in line for line in lines) == 3
    position = written(agent)
    agent.kill(before)
    assert_admitted(box, "friend")
    wait_for_lines(agent, r" INFO packet\[\d+\]: ", 2, after=position)
    position = written(agent)
    assert loglevel(agent, "0") == "log verbosity is 0, it was 2\n"
    wait_for_supervisor(agent, 0, position)
    position = written(agent)
    for _ in range(3):
        assert_admitted(box, "friend")
    assert " packet[" not in agent.log.read_text(encoding="utf-8")[position:]
    assert_admitted(box, "friend")


def test_debug_lines_begin_and_end_in_all_processes_without_a_restart(box: Box, agent: Agent, folder: Path) -> None:
    """Below 2 only the level changes: the supervisor goes on too, and its replacement has the same verbosity."""
    supervisor = agent.supervisor()
    assert loglevel(agent, "1") == "log verbosity is 1, it was 0\n"
    position = written(agent)
    admit(folder, "stranger")
    wait_for_lines(
        agent, r"DETAIL enforcer\[\d+\]: snapshot \d+ is in force after .*NetworkPolicy app/server changed", after=position
    )
    assert supervisor is not None
    assert agent.supervisor() == supervisor
    position = written(agent)
    supervisor.kill()
    wait_for_supervisor(agent, 1, position)
    assert loglevel(agent) == "log verbosity is 1\n"
    loglevel(agent, "4")
    wait_for_supervisor(agent, 4, position)
    position = written(agent)
    admit(folder, "friend")
    wait_for_lines(agent, r"DEBUG enforcer\[", after=position)
    wait_for_lines(agent, r"DEBUG worker\[\d+\]: worker 0 evaluates with", after=position)
    wait_for_lines(agent, r"DEBUG worker\[\d+\]: standby worker evaluates with", after=position)
    assert_admitted(box, "friend")


def test_sighup_restores_the_verbosity_of_the_configuration(box: Box, folder: Path) -> None:
    """A changed `v` and `log-denied` apply too, while the worker goes on."""
    config = box.directory / "netpolq.toml"
    config.write_text("v = 0\n")
    with Agent(box, folder, "--config", str(config), *FLAGS) as agent:
        before = worker(agent)
        loglevel(agent, "4")
        position = written(agent)
        agent.wait_until("a supervisor", lambda: agent.supervisor() is not None and agent.is_ready())
        agent.pool.send_signal(signal.SIGHUP)
        wait_for_lines(agent, "SIGHUP: restarting the supervisor with --v=0", after=position)
        wait_for_supervisor(agent, 0, position)
        assert loglevel(agent) == "log verbosity is 0\n"
        config.write_text("v = 0\nlog-denied = true\n")
        position = written(agent)
        agent.pool.send_signal(signal.SIGHUP)
        wait_for_lines(agent, "SIGHUP: restarting the supervisor with --log-denied=true", after=position)
        wait_for_supervisor(agent, 0, position)
        assert_admitted(box, "friend")
        (line,) = wait_for_lines(agent, r" packet\[\d+\]: ", after=position)
        assert ": drop TCP 10.71.1.3:" in line
        assert worker(agent) == before


ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request(sys.argv[2], "/loglevel", body="4")
print(connection.getresponse().status)
"""


def answer_to(user: int, path: Path, method: str) -> str:
    """The status code of the answer to a process of a user."""
    argv = ["setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-c", ASK, str(path), method]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


def test_other_users_and_wrong_values_change_nothing(agent: Agent) -> None:
    """The socket checks the user itself, also when the permissions of file and directory are loose."""
    path = agent.run_dir / "status.sock"
    for target, mode in ((path, 0o666), (agent.run_dir, 0o755), (agent.run_dir.parent, 0o755)):
        target.chmod(mode)
    assert [answer_to(65534, path, method) for method in ("PUT", "GET")] == ["403", "403"]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        request = http.client.HTTPConnection("localhost")
        request.sock = connection
        request.request("PUT", "/loglevel", body="11")
        answer = request.getresponse()
        assert (answer.status, answer.read()) == (400, b"invalid value '11'; allowed: 0 to 10")
    assert loglevel(agent) == "log verbosity is 0\n"
