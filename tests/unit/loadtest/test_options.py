"""Errors of the command line of the load test."""

import os

from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.options import parse
from loadtest.parameters import External
from loadtest.shapes import SHAPES


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no-such-shape"], "no shape is called 'no-such-shape'"),
        (["--rounds", "0"], "argument --rounds: '0'"),
        (["--rounds", "many"], "argument --rounds: 'many'"),
        (["--packets", "999"], "argument --packets: 999"),
        (["--packets", "10000000"], "argument --packets: 10000000"),
        (["--duration", "-1"], "argument --duration: '-1'"),
        (["--duration", "nan"], "argument --duration: 'nan'"),
        (["--external", "agent"], "argument --external: 'agent' is not NAME=COMMAND"),
        (["--external", "=agent {queue}"], "is not NAME=COMMAND"),
        (["--external", "agent=run it"], "without {queue}"),
        (["--external", "agent=run {queue} {other}"], "only {queue} and {policies} are known, not {other}"),
        (["--external", "agent=run {queue} {"], "argument --external"),
        (["--external", "agent=run {queue} 'it"], "argument --external"),
        (["--external", "a=x {queue}", "--external", "a=y {queue}"], "the same name twice"),
        (["--compare", "/proc"], "'/proc' is no checkout of netpolq: it has no package netpolq"),
        (["--variants", "("], "'(' is no regular expression"),
        (["--compare-flags", "flows"], "'flows' is no flag of netpolq run"),
        (["--compare-flags="], "'' is no flag"),
        (["--compare-flags=--flows='off"], "argument --compare-flags"),
        (["--compare-flags=--flows=off", "--compare-flags=--flows=off"], "the same comparison twice"),
    ],
)
def test_a_wrong_argument_is_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_without_names_every_shape_runs_and_names_keep_the_order_of_the_list() -> None:
    assert parse([]).shapes == tuple(SHAPES)
    first, second = list(SHAPES)[:2]
    assert parse([second, first]).shapes == (first, second)


def test_quick_is_one_tiny_round_whatever_else_is_asked_for() -> None:
    wanted = parse(["--quick", "--rounds", "9", "--packets", "400000"])
    assert (wanted.rounds, wanted.parameters.quick) == (1, True)
    assert wanted.parameters.packets < 10_000


def test_an_external_agent_gets_its_queue_and_the_folder_word_by_word() -> None:
    external = External(name="agent", template="/bin/agent --queue={queue} --policies '{policies}/a b'")
    assert external.argv(7, Path("/m")) == ["/bin/agent", "--queue=7", "--policies", "/m/a b"]


def test_the_list_names_every_shape_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--list"])
    assert ended.value.code == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SHAPES)


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["new-flows"]) == 2
    assert "root" in capsys.readouterr().err
