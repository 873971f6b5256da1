"""The completion scripts, in real shells: words that bash's function offers, and lines that TAB completes in a terminal."""

import os
import pty
import select
import shlex
import subprocess
import sys
import time

from pathlib import Path

import pytest

from netpolq import cli
from netpolq.cli.completion import SHELLS, script
from netpolq.errors import ExitCode
from netpolq.hold import command as hold_command
from netpolq.settings.command_flags import HOLD_OPTIONS
from netpolq.settings.definitions import OPTIONS

LISTED = {name: command for name, command in cli.COMMANDS.items() if command.summary}
_LIMIT_S = 30.0


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    shell: str = request.param
    return shell


def offered(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last word, as readline splits the line."""
    program = """
        source <("$1" -m netpolq completion bash); shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _netpolq; ((${#COMPREPLY[@]} == 0)) || printf '%s\\n' "${COMPREPLY[@]}"
    """
    argv = ["bash", "-uc", program, "bash", sys.executable, "netpolq", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=cwd).stdout.splitlines()


def test_bash_offers_the_commands_that_help_lists() -> None:
    assert offered("") == list(LISTED)
    assert offered("help", "") == [*LISTED, "--help"]
    assert offered("ex") == ["explain"]


def test_bash_offers_every_flag_of_a_command() -> None:
    flags = {f"--{option.name}" for option in OPTIONS} | {f"--no-{option.name}" for option in OPTIONS if option.is_switch}
    assert set(offered("run", "--")) == {*flags, "--help"}
    assert offered("cleanup", "--c") == ["--ct-label"]
    assert offered("hold", "--r") == ["--release"]
    assert offered("nonsense", "--") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--dataplane", ""), ["auto", "native", "compat"]),
        (("run", "--dataplane", "=", "n"), ["native"]),
        (("run", "--dataplane", "="), ["auto", "native", "compat"]),
        (("run", "-dataplane", "n"), ["native"]),
        (("run", "--fail-open", "="), ["true", "false"]),
        (("run", "--fail-open", "--work"), ["--workers"]),
        (("run", "--v", ""), []),
        (("status", "-o", ""), ["text", "json"]),
        (("status", "-o", "=", "j"), ["json"]),
        (("explain", "--expect", "d"), ["deny"]),
        (("matrix", "--by", "n"), ["namespace"]),
        (("matrix", "-o", "m"), ["markdown"]),
        (("completion", "z"), ["zsh"]),
        (("loglevel", "1"), ["1", "10"]),
    ],
    ids=" ".join,
)
def test_bash_offers_the_values_of_a_flag(words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(*words) == expected


def test_bash_offers_folders_or_files(tmp_path: Path) -> None:
    (tmp_path / "one folder").mkdir()
    (tmp_path / "one file").touch()
    assert offered("run", "--manifests", "o", cwd=tmp_path) == ["one folder"]
    assert set(offered("run", "--config", "=", "o", cwd=tmp_path)) == {"one folder", "one file"}
    assert set(offered("diff", "o", cwd=tmp_path)) == {"one folder", "one file"}
    assert set(offered("diff", "old", "o", cwd=tmp_path)) == {"one folder", "one file"}


def typed(shell: str, line: str, cwd: Path) -> str:
    """The arguments of `netpolq` after the line was typed in a terminal, with tabs. `netpolq` is a function that prints them."""
    setup = {
        "bash": "bind 'set enable-bracketed-paste off'",
        "zsh": "autoload -Uz compinit; compinit -u -D",
    }
    python = shlex.quote(sys.executable)
    lines = [setup[shell], f"source <({python} -m netpolq completion {shell})", 'netpolq() { echo "<$*>"; }; echo "<rea""dy>"']
    argv = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execvpe(shell, argv[shell], {**os.environ, "TERM": "vt100", "HISTFILE": "/dev/null"})  # noqa: S606  # a terminal is wanted
    try:
        os.write(terminal, ("\n".join(lines) + "\n").encode())
        read_until(terminal, "<ready>")
        os.write(terminal, f"{line}\n".encode())
        return read_until(terminal, "<run").partition("<run ")[2].partition(">")[0]
    finally:
        os.close(terminal)  # the shell gets SIGHUP
        os.waitpid(pid, 0)


def read_until(terminal: int, text: str) -> str:
    """The output up to the end of the line with the text."""
    found, deadline = "", time.monotonic() + _LIMIT_S
    while text not in found or "\n" not in found.partition(text)[2]:
        assert select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0], found
        found += os.read(terminal, 4096).decode(errors="replace")
    return found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("netpolq ru\t --logging-f\t jso\t", "--logging-format json"),
        ("netpolq run --node-egress=al\t --no-fan\t", "--node-egress=allow --no-fanout"),
        ("netpolq run --manif\t fo\t", "--manifests folder/"),
    ],
    ids=["values as words", "values after =", "a folder"],
)
def test_tab_completes_command_flag_and_value(shell: str, line: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "foreign").touch()
    if shell == "zsh":  # it inserts the = itself, and removes the / at the end of the line
        line = line.replace("f\t ", "f\t")
        expected = expected.replace(" json", "=json").replace(" folder/", "=folder")
    assert typed(shell, line, tmp_path).split() == expected.split()


def test_the_scripts_have_no_mistakes_that_shellcheck_or_zsh_finds(tmp_path: Path) -> None:
    for shell, argv in {"bash": ["shellcheck", "--shell=bash"], "zsh": ["zsh", "-n"]}.items():
        path = tmp_path / shell
        path.write_text(script(shell, LISTED))
        done = subprocess.run([*argv, str(path)], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_completion_of_hold_has_the_flags_of_its_own_parser() -> None:
    assert [option.name for option in HOLD_OPTIONS] == [*hold_command.VALUES, *hold_command.SWITCHES]


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"], ["--shell=bash"]])
def test_another_shell_is_rejected_with_those_that_exist(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", *words]) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "allowed: bash or zsh" in line
