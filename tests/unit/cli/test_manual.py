"""The manual page, rendered by groff as `man` does it."""

import re
import subprocess

import pytest

from netpolq import cli
from netpolq.cli.manual import manual
from netpolq.errors import ExitCode
from netpolq.hold import command as hold_command
from netpolq.settings.definitions import OPTIONS

LISTED = {name: command for name, command in cli.COMMANDS.items() if command.summary}


def rendered(page: str) -> str:
    """The page as plain text. groff reports every mistake in it as a warning."""
    argv = ["groff", "-man", "-ww", "-Tascii", "-P-cbou", "-rLL=130n"]
    done = subprocess.run(argv, input=page, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def text() -> str:
    return rendered(manual(LISTED))


def section(text: str, title: str) -> str:
    """The lines below a title, up to the next title of the same or a higher level."""
    indent, below = re.findall(rf"(?ms)^( {{0,3}}){re.escape(title)}\n(.*)", text)[0]
    return re.split(rf"(?m)^ {{0,{len(indent)}}}\S", below)[0]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_groff_renders_the_page_without_a_warning(text: str) -> None:
    titles = re.findall(r"(?m)^[A-Z][A-Z ]+$", text)
    assert titles == ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO"]


def test_groff_finds_a_mistake() -> None:
    with pytest.raises(AssertionError, match="warning"):
        rendered(manual(LISTED) + ".WRONG\n")


def test_every_command_is_described(text: str) -> None:
    for name, command in LISTED.items():
        assert f"netpolq {name} {command.usage}".strip() in flat(section(text, "SYNOPSIS"))
        found = flat(section(text, f"netpolq {name}"))
        assert found.startswith(command.summary.removesuffix("."))
        for line in (*command.about, *command.examples):
            assert flat(line) in found


def test_every_flag_has_its_help_default_and_variable(text: str) -> None:
    for name, command in LISTED.items():
        found = flat(section(text, f"netpolq {name}"))
        for option in command.options:
            assert f"--{option.name}" in found
            if name != "hold":  # its texts are those of its own help page
                assert f"{flat(option.help)} Allowed: {option.value_type.allowed}. Default: {option.default or 'none'}." in found
    for option in OPTIONS:
        assert f"Environment: {option.environment}." in flat(section(text, "netpolq run"))


def test_the_help_page_of_hold_is_part_of_it(text: str) -> None:
    parts = hold_command.HELP.split("\n\n")
    assert len(parts) > 4
    for part in parts[1:]:
        assert flat(part) in flat(section(text, "netpolq hold"))


def test_every_exit_code_is_listed(text: str) -> None:
    codes = re.findall(r"(?m)^ +(\d) +\S", section(text, "EXIT STATUS"))
    assert [int(code) for code in codes] == sorted(ExitCode)


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["man"]) == ExitCode.OK
    assert capsys.readouterr().out == manual(LISTED)
    assert cli.main(["man", "run"]) == ExitCode.USAGE


def test_a_line_that_begins_like_a_request_of_roff_is_text() -> None:
    """So is a backslash."""
    from netpolq.cli.manual import _escaped  # noqa: PLC0415

    assert ".TH 'a' \\fB -x" in rendered(".TH X 1\n" + _escaped(".TH 'a' \\fB -x") + "\n")
