"""The truth table, evaluated by `netpolq explain`: from manifest files to one JSON line for each attempt, by both evaluators."""

import json

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from netpolq import explain
from netpolq.addresses import parse_address
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.flow import parse_protocol
from netpolq.explain.manifests import reader
from netpolq.explain.names import parse_names
from netpolq.policy.evaluator import Evaluator
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.sources.folder.source import load
from netpolq.store import Store
from tests.support.cases import ADDRESSES, Case, Expectation, chain_text, load_cases

CASES = load_cases()


def flow(expected: Expectation) -> tuple[str, str, str, int]:
    """Source, destination, protocol and port of an attempt."""
    protocol = "ICMPv6" if (expected.protocol, expected.family) == ("ICMP", 6) else expected.protocol
    source, destination = ADDRESSES[expected.source][expected.family], ADDRESSES[expected.destination][expected.family]
    return source, destination, protocol, expected.port


def question(expected: Expectation) -> str:
    source, destination, protocol, port = flow(expected)
    return json.dumps({"src": source, "dst": destination, "proto": protocol, "sport": 40000, "dport": port})


def _unmatched(fields: Iterable[str], reported: Sequence[str]) -> tuple[list[str], list[str]]:
    """Fields of which no problem is reported, and reported lines about no such field."""
    return (
        [field for field in fields if not any(f".{field}:" in line for line in reported)],
        [line for line in reported if not any(f".{field}:" in line for field in fields)],
    )


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
        read=reader(folder),
        source=None,
        destination=None,
        protocol="TCP",
        port=None,
        packets=str(packets),
        evaluator=evaluator,
        output="text",
        names=",".join(f"{name}={address}" for name, address in case.resolved),
    )
    written = capsys.readouterr()
    assert code == 0
    assert _unmatched(case.problems, written.err.splitlines()) == ([], [])
    answers = [json.loads(line)["verdict"] == "accept" for line in written.out.splitlines()]
    wrong = [expected for expected, allowed in zip(expectations, answers, strict=True) if expected.allowed is not allowed]
    assert wrong == []


@pytest.mark.parametrize("evaluator", [CompiledEvaluator, ReferenceEvaluator])
@pytest.mark.parametrize(
    "case", [case for case in CASES if any(" by " in line for line in case.lines)], ids=lambda case: case.name
)
def test_the_rules_that_decide_are_those_of_the_table(
    case: Case, evaluator: Callable[[Store], Evaluator], tmp_path: Path
) -> None:
    (tmp_path / "case.json").write_text(case.manifest())
    store = Store()
    store.apply(load(tmp_path))
    for address, names in parse_names(",".join(f"{name}={address}" for name, address in case.resolved)).items():
        store.set_names(address, names)
    decide = evaluator(store)
    wrong = []
    for expected in case.expectations():
        source, destination, protocol, port = flow(expected)
        answer = decide.explain(parse_address(source), parse_address(destination), parse_protocol(protocol), port)
        for wanted, side in ((expected.result.egress, answer.egress), (expected.result.ingress, answer.ingress)):
            if wanted is not None and wanted != chain_text(side):
                wrong.append(f"{expected}: {chain_text(side)}")
    assert wrong == []
