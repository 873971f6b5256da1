"""A short soak: it runs, checks, and names what is broken."""

import json

from pathlib import Path

import pytest

from loadtest.testbed.probe import Outcome, Probe, Result
from tests.process.conftest import FRIEND, STRANGER
from tests.soak import __main__ as soak


@pytest.mark.lifecycle
@pytest.mark.timeout(180)
def test_a_short_soak_finds_nothing_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.json"
    code = soak.main(["--minutes", "0.4", "--seed", "7", "--output", str(output)])
    report = json.loads(output.read_text())
    assert (code, report["broken"]) == (0, [])
    assert report["connections"]["admitted"] > 100
    assert report["connections"]["denied"] > 100
    assert sum(report["happened"].values()) > 10
    assert report["descriptors"]
    assert "every promise was kept" in capsys.readouterr().out


def test_what_is_broken_is_named() -> None:
    report = soak.Report(minutes=1, fail_open=False, seed=0)
    results = [
        Result(Probe(name, "10.71.1.1", "TCP", 80), outcome, 0.0, 0.0)
        for name, outcome in ((STRANGER.name, Outcome.REACHED), (FRIEND.name, Outcome.TIMEOUT))
    ]
    soak._evaluate(results, report)
    report.memory_mib = {"pool": [20.0] * 6 + [60.0] * 3}
    report.descriptors = {"pool": [20.0] * 6 + [90.0] * 3}
    soak._compare(report)
    assert [broken.split(" ")[0] for broken in report.broken] == ["denied,", "allowed,", "memory", "descriptors"]
