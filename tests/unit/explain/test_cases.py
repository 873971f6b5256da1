"""The truth table, evaluated by `netpolq explain`: from manifest files to one JSON line for each attempt, by both evaluators."""

import json

from pathlib import Path

import pytest

from netpolq import explain
from tests.support.cases import ADDRESSES, Case, Expectation, load_cases

CASES = load_cases()


def question(expected: Expectation) -> str:
    protocol = "ICMPv6" if (expected.protocol, expected.family) == ("ICMP", 6) else expected.protocol
    source, destination = ADDRESSES[expected.source][expected.family], ADDRESSES[expected.destination][expected.family]
    return json.dumps({"src": source, "dst": destination, "proto": protocol, "sport": 40000, "dport": expected.port})


def test_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("evaluator", ["snapshot", "reference"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_explain_gives_the_verdicts_of_the_table(
    case: Case, evaluator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "case.json").write_text(case.manifest())
    expectations = list(case.expectations())
    packets = tmp_path / "packets"
    packets.write_text("".join(f"{question(expected)}\n" for expected in expectations))
    code = explain.run(
        manifests=folder,
        source=None,
        destination=None,
        protocol="TCP",
        port=None,
        packets=str(packets),
        evaluator=evaluator,
        output="text",
    )
    written = capsys.readouterr()
    assert (code, written.err) == (0, "")
    answers = [json.loads(line)["verdict"] == "accept" for line in written.out.splitlines()]
    wrong = [expected for expected, allowed in zip(expectations, answers, strict=True) if expected.allowed is not allowed]
    assert wrong == []
