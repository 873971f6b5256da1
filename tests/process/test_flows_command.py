"""`netpolq flows` with a running agent: what it prints, on a terminal and in a pipe, and what happens when the agent goes."""

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.cli import COMMANDS
from netpolq.errors import ExitCode
from netpolq.flows import record
from netpolq.flows.record import FlowRecord, FlowVerdict
from tests.process.conftest import assert_admitted, written
from tests.support.commands import in_process

_LIMIT_S = 30.0
FLAGS = ("--workers=1", "--fail-open=false")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def command(agent: Agent, *flags: str) -> list[str]:
    return [sys.executable, "-P", "-m", "netpolq", "flows", "--run-dir", str(agent.run_dir), *flags]


def run(agent: Agent, *flags: str, expected: int = ExitCode.OK) -> tuple[str, str]:
    code, printed, errors = in_process("flows", "--run-dir", str(agent.run_dir), *flags)
    assert code == expected, errors
    return printed, errors


def records(printed: str) -> list[FlowRecord]:
    return [record.decode(line) for line in printed.splitlines()]


def wait_for_flows(agent: Agent) -> None:
    agent.wait_until("both clients are recorded", lambda: len(verdicts(agent)) >= 2)


def verdicts(agent: Agent) -> set[FlowVerdict]:
    return {found.flow.verdict for found in records(run(agent)[0])}


class Terminal:
    """A command on a terminal of its own. `text`: all that it has written."""

    def __init__(self, argv: list[str], *, rows: int = 24, columns: int = 160, **environment: str) -> None:
        self._end, other = pty.openpty()
        self.resize(rows, columns)
        variables = {name: text for name, text in os.environ.items() if name not in {"NO_COLOR", "COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            argv, stdin=other, stdout=other, stderr=other, start_new_session=True, env=variables | {"TERM": "xterm"} | environment
        )
        os.close(other)
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, wanted: str, *, anew: bool = False) -> None:
        """Read until a text is there. `anew`: after what was read before."""
        start, limit_s = len(self.text) if anew else 0, time.monotonic() + _LIMIT_S
        while wanted not in self.text[start:]:
            assert time.monotonic() < limit_s, self.text[-2000:]
            if select.select([self._end], [], [], 0.1)[0]:
                self.text += os.read(self._end, 65536).decode()

    def wait(self) -> int:
        """Read the rest. Returns the exit code."""
        while True:
            try:
                portion = os.read(self._end, 65536)
            except OSError:  # all of the other end is closed
                portion = b""
            if not portion:
                return self.process.wait(_LIMIT_S)
            self.text += portion.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._end)


@contextmanager
def on_terminal(argv: list[str], **arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(argv, **arguments)  # type: ignore[arg-type]  # variables
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def agent(box: Box, folder: Path) -> Iterator[Agent]:
    with Agent(box, folder, *FLAGS) as agent:
        yield agent


@pytest.fixture(scope="module")
def busy_agent(shared_box: Box) -> Iterator[Agent]:
    """An agent that has recorded connections of both clients, for all tests that only read."""
    with Agent(shared_box, written(shared_box), *FLAGS) as agent:
        assert_admitted(shared_box, "friend", families=(4, 6))
        wait_for_flows(agent)
        yield agent


def test_a_pipe_gets_records_and_a_table_on_request(busy_agent: Agent) -> None:
    printed, errors = run(busy_agent)
    found = records(printed)
    assert {one.flow.destination.pod_name for one in found} == {"app/server"}
    assert errors.startswith("netpolq: the agent on node knows flows only since")
    table, errors = run(busy_agent, "--output=text")
    assert errors == ""
    heading, *rows = table.splitlines()
    assert heading.split() == ["LAST", "SEEN", "VERDICT", "SOURCE", "DESTINATION", "PORT", "CONNECTIONS", "REASON"]
    stranger = [row for row in rows if "app/stranger" in row]
    assert len(stranger) == 2, "one line for each family: the windows of a flow are merged"
    assert all(
        re.search(r"deny +app/stranger +→ app/server +\S+/TCP +\d+ +ingress isolated by app/server", row) for row in stranger
    )
    assert any("ingress allowed by app/server, spec.ingress[0]" in row for row in rows)
    total = sum(one.connections for one in found)
    assert f"4 flows, {total} connections" in table


def test_filters_select_and_wide_has_addresses(busy_agent: Agent) -> None:
    assert {one.flow.source.pod for one in records(run(busy_agent, "--denied")[0])} == {"stranger"}
    assert {one.flow.source.pod for one in records(run(busy_agent, "--from", "app/friend")[0])} == {"friend"}
    assert {one.flow.source.address for one in records(run(busy_agent, "--from=10.71.0.0/16", "--port=TCP")[0])} == {
        "10.71.1.2",
        "10.71.1.3",
    }
    assert run(busy_agent, "--pod=app/other")[0] == ""
    assert "no flows" in run(busy_agent, "--policy=app/other", "-o", "text")[0]
    wide = run(busy_agent, "-o", "wide", "-n", "app", "--to=app/server", "--policy=app/server", "--since=1h")[0]
    assert "SOURCE ADDRESS" in wide
    assert "fd71:1::3" in wide


def test_the_examples_of_the_help_page_run(busy_agent: Agent) -> None:
    """Those that ask the agent of this node once."""
    examples = [line for line in COMMANDS["flows"].examples if not re.match("#|.*--(follow|kubeconfig|context)", line)]
    assert len(examples) == 5
    for line in examples:
        _program, _flows, *words = shlex.split(line.partition(" > ")[0])
        run(busy_agent, *words)


def test_raw_lines_begin_with_the_head_of_the_answer(busy_agent: Agent) -> None:
    head, *lines = run(busy_agent, "--output=raw")[0].splitlines()
    assert json.loads(head)["node"] == "node"
    assert len(lines) == len(run(busy_agent)[0].splitlines())


def test_a_terminal_gets_a_table_with_colours_unless_they_are_not_wanted(busy_agent: Agent) -> None:
    with on_terminal(command(busy_agent)) as terminal:
        assert terminal.wait() == ExitCode.OK
        assert "\x1b[1;31mdeny" in terminal.text
        assert "app/stranger" in terminal.text
    with on_terminal(command(busy_agent), NO_COLOR="1") as terminal:
        assert terminal.wait() == ExitCode.OK
        assert "deny" in terminal.text
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.text)


@pytest.mark.flows
def test_a_live_table_follows_and_ends_with_an_interrupt(box: Box, agent: Agent) -> None:
    """It goes through a kill of the supervisor and a resize on the way, and leaves the terminal as it was."""
    with on_terminal(command(agent, "--follow")) as terminal:
        terminal.read_until("no flows")
        assert_admitted(box, "friend")
        terminal.read_until("app/stranger")
        terminal.resize(10, 100)
        supervisor = agent.supervisor()
        assert supervisor is not None
        supervisor.kill()
        terminal.read_until("the agent has restarted")
        agent.wait_until("ready", agent.is_ready)
        terminal.read_until("app/stranger", anew=True)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait() == ExitCode.OK
        assert "\x1b[?1049l" in terminal.text, "the alternate screen is left"
        last = _STYLE.sub("", terminal.text.rpartition("\x1b[?1049l")[2])
        assert "app/stranger" in last
        assert "flows" in last
        assert max(map(len, last.splitlines())) <= 100
        assert "Traceback" not in terminal.text


@pytest.mark.flows
def test_a_pipe_follows_line_by_line_and_sees_a_restart_and_a_missing_agent(box: Box, agent: Agent) -> None:
    with subprocess.Popen(
        command(agent, "--follow", "--denied", "--since=1h"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert_admitted(box, "friend")
        assert record.decode(process.stdout.readline()).flow.source.pod_name == "app/stranger"
        agent.kill_all()
        assert "Trying again." in process.stderr.readline()
        agent.start()
        remarks = [process.stderr.readline(), process.stderr.readline()]
        assert any("the agent has restarted" in remark for remark in remarks)
        assert any("answers again" in remark for remark in remarks)
        assert_admitted(box, "friend")
        assert record.decode(process.stdout.readline()).flow.source.pod_name == "app/stranger"
        process.send_signal(signal.SIGINT)
        assert process.wait(_LIMIT_S) == ExitCode.OK
        assert "knows flows only since" in process.stderr.read()


@pytest.mark.flows
def test_a_follower_ends_when_its_reader_is_gone(agent: Agent) -> None:
    """Also without any flow to write."""
    with subprocess.Popen(command(agent, "--follow"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(_LIMIT_S) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.flows
def test_no_agent_and_an_agent_without_flows_are_errors(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1", "--flows=off") as agent:
        _printed, errors = run(agent, expected=ExitCode.FAILED)
        assert errors == "netpolq: error: flows are off: run the agent with --flows on or --flows denied\n"
        agent.stop()
        for flags in ((), ("--follow",)):
            _printed, errors = run(agent, *flags, expected=ExitCode.FAILED)
            assert re.fullmatch(
                r"netpolq: error: no agent answers on .*status\.sock.*; is one running with this --run-dir\?\n", errors
            )
