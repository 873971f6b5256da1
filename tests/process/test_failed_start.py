"""Errors of an agent that cannot start, and `netpolq status` without an agent or with one that is not ready."""

import json
import os
import re
import socket
import subprocess
import sys

from pathlib import Path

import pytest

from loadtest.testbed.agent import METRICS_PORT, Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode
from tests.process.conftest import NODE, admit
from tests.process.test_start import run_to_the_end

ADDRESS = f"--metrics-bind-address=127.0.0.1:{METRICS_PORT}"


def run_with_taken_port(box: Box, folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    with box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", METRICS_PORT))):
        return run_to_the_end(box, "--manifests", str(folder), "--workers=1", ADDRESS, *flags)


def test_the_error_of_a_failed_start_is_the_last_line_and_the_log_claims_no_ruleset(box: Box, folder: Path) -> None:
    done = run_with_taken_port(box, folder)
    assert done.returncode == ExitCode.BOOT
    assert done.stderr.splitlines()[-1].startswith("netpolq: error: --metrics-bind-address")
    assert "stays in place" not in done.stderr
    assert "There is no ruleset of netpolq" in done.stderr
    assert "table inet netpolq" not in box.run(NODE.name, ["nft", "list", "tables"]).stdout


def test_the_log_of_a_failed_start_names_the_ruleset_that_an_earlier_agent_left(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1") as agent:
        assert agent.stop() == 0
        done = run_with_taken_port(box, folder)
    lines = done.stderr.splitlines()
    assert "The ruleset stays in place" in lines[-2]
    assert lines[-1].startswith("netpolq: error: ")


@pytest.mark.parametrize("flags", [("--logging-format=json",), ("--logging-format", "json")])
def test_the_error_is_json_when_the_log_is(box: Box, folder: Path, flags: tuple[str, ...]) -> None:
    """Errors of the supervisor, of the pool, and of the command itself."""
    blocker = box.directory / "file"
    blocker.touch()
    for done, flag in (
        (run_with_taken_port(box, folder, *flags), "--metrics-bind-address"),
        (run_to_the_end(box, "--manifests", str(folder), "--run-dir", str(blocker / "run"), *flags), "--run-dir"),
        (run_to_the_end(box, "--manifests", str(folder), "--workers=none", *flags), "--workers"),
    ):
        entries = [json.loads(line) for line in done.stderr.splitlines()]
        assert entries[-1]["level"] == "error"
        assert flag in entries[-1]["msg"]
        assert done.returncode in {ExitCode.BOOT, ExitCode.USAGE}


def test_the_error_is_json_when_the_file_or_the_environment_says_so(box: Box, folder: Path) -> None:
    config = box.directory / "netpolq.toml"
    config.write_text('logging-format = "json"\n')
    by_file = run_to_the_end(box, "--manifests", str(folder), "--workers=none", f"--config={config}")
    argv = ["env", "NETPOLQ_LOGGING_FORMAT=json", sys.executable, "-m", "netpolq", "run", "--workers=none"]
    for done in (by_file, box.run(NODE.name, argv)):
        (line,) = done.stderr.splitlines()
        assert "--workers" in json.loads(line)["msg"]


def run_status(box: Box, *flags: str, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    argv = [*prefix, sys.executable, "-m", "netpolq", "status", "--run-dir", str(box.directory / "run"), *flags]
    return box.run(NODE.name, argv)


def test_status_without_an_agent_shows_the_ruleset_that_is_left_and_its_counters(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1") as agent:
        assert run_status(box).returncode == ExitCode.OK
        assert agent.stop() == 0
        left, document = run_status(box), run_status(box, "--output=json")
        assert "table inet netpolq is left" in left.stdout
        packets = json.loads(document.stdout)["leftover"]["counters"]["unjudged"]
        assert re.search(rf"counter unjudged\W+{packets:,} packets", left.stdout), left.stdout
        for done in (left, document):
            assert done.returncode == ExitCode.FAILED
            (line,) = done.stderr.splitlines()
            assert "no agent answers" in line
    nothing = run_status(box)
    assert (nothing.returncode, nothing.stdout) == (ExitCode.FAILED, "")
    assert "No ruleset is left" in nothing.stderr


def test_status_of_an_agent_with_another_run_directory_names_it(shared_box: Box, shared_agent: Agent) -> None:
    done = run_status(shared_box, "--run-dir", str(shared_box.directory / "other"))
    assert done.returncode == ExitCode.FAILED
    assert f"pid {shared_agent.pid}" in done.stderr


@pytest.mark.usefixtures("for_other_users")
def test_status_of_another_user_says_run_as_root(box: Box, closed_agent: Agent) -> None:
    """The directories refuse the user, or the agent itself if the permissions are loose."""
    interpreter = "/usr/bin/python3"
    packages = os.pathsep.join(path for path in sys.path if path)
    as_other_user = ("setpriv", "--reuid=65534", "--clear-groups", "env", f"PYTHONPATH={packages}", interpreter)
    argv = [*as_other_user, "-m", "netpolq", "status", "--run-dir", str(closed_agent.run_dir)]
    closed_agent.run_dir.parent.chmod(0o755)
    for modes in ((), ((closed_agent.run_dir, 0o755), (closed_agent.run_dir / "status.sock", 0o666))):
        for path, mode in modes:
            path.chmod(mode)
        done = box.run(NODE.name, argv)
        assert (done.returncode, done.stdout) == (ExitCode.PRIVILEGES, ""), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.endswith("run as root")


def test_status_of_an_agent_that_is_not_ready_fails_and_says_what_is_in_force(shared_box: Box, shared_agent: Agent) -> None:
    """A pool that stands still passes no snapshot on: the supervisor has published a new one, and the old one is in force."""
    assert shared_agent.manifests is not None
    before = shared_agent.status()["snapshot_version"]
    shared_agent.pool.suspend()
    try:
        admit(shared_agent.manifests, "stranger")
        shared_agent.wait_until("it is late", lambda: not shared_agent.is_ready())
        done = run_status(shared_box)
    finally:
        shared_agent.pool.resume()
    assert done.returncode == ExitCode.FAILED
    assert "not ready: workers [0, 1] are more than 1 s behind" in done.stdout
    assert f"version {before + 1} is published, not yet in force; in force: version {before}" in done.stdout
    assert done.stderr == ""


WITHOUT_AUTHORITY = """
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: x, user: {token: t}}]
"""


def test_a_kubeconfig_that_cannot_be_used_is_one_line_that_names_it(box: Box) -> None:
    path = box.directory / "kubeconfig"
    path.write_text("a: [\n- b: {\n")
    done = run_to_the_end(box, "--kubeconfig", str(path), "--workers=1")
    assert done.returncode == ExitCode.BOOT
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("netpolq: error: ")
    assert str(path) in last


@pytest.mark.parametrize("server", ["https://api.nowhere.invalid:6443", "https://127.0.0.1:1"])
def test_a_server_that_cannot_be_reached_is_named_in_one_line(box: Box, server: str) -> None:
    """The name cannot be resolved, or the connection is refused. The agent keeps trying."""
    path = box.directory / "kubeconfig"
    path.write_text(WITHOUT_AUTHORITY.replace("https://127.0.0.1:1", server))
    agent = Agent(box, None, "--kubeconfig", str(path), "--workers=1")
    agent.launch()
    try:
        host = server.removeprefix("https://")
        agent.wait_until("the host is named", lambda: agent.log.exists() and host in agent.log.read_text())
        done = run_status(box)
        assert done.returncode == ExitCode.FAILED
        assert host in done.stdout
        assert "not ready" in done.stdout
    finally:
        agent.stop()
    assert "Traceback" not in agent.log.read_text()


def test_kubeconfig_of_the_environment_is_honoured(box: Box) -> None:
    """With a tilde that no shell expands."""
    (box.directory / "config").write_text("")
    argv = ["env", f"HOME={box.directory}", "KUBECONFIG=~/absent:~/config", sys.executable, "-m", "netpolq", "run", "--workers=1"]
    done = box.run(NODE.name, [*argv, "--run-dir", str(box.directory / "run")])
    assert done.returncode == ExitCode.BOOT, done.stderr
    assert f"{box.directory}/config: the file is empty" in done.stderr.splitlines()[-1]
