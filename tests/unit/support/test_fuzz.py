"""Fuzzing for a moment: that it reaches the code, and finds nothing in the little time that a test has."""

from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz


@pytest.mark.property
@pytest.mark.parametrize("target", fuzz.NAMES)
def test_nothing_is_found_in_a_moment(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = fuzz.main([target, "--seconds", "1", "--findings", str(tmp_path)])
    said = capsys.readouterr().out
    assert (code, list(tmp_path.iterdir())) == (0, []), said
    inputs = next(line for line in said.splitlines() if "inputs" in line).split()[2]
    assert int(inputs) > 100, said
