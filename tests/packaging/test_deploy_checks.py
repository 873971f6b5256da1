"""The deployment under a security linter: what fails is what is excepted, with a reason, and nothing else."""

import json
import os
import subprocess
import sys

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.support.deployment import DEPLOY, KUSTOMIZE, OVERLAYS, charted, kustomized, tool

CONFIGURATION = DEPLOY / "lint/checkov.yaml"
_LIMIT_S = 110


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checks that fail without any exception, each with one of the objects that it fails for."""
    checkov = tool("checkov", "make setup installs it beside the tests", Path(sys.prefix) / "checkov/bin/checkov")
    folder = tmp_path_factory.mktemp("rendered")
    for name in OVERLAYS:
        (folder / f"{name}.yaml").write_text(kustomized(KUSTOMIZE / "overlays" / name).yaml(), encoding="utf-8")
    (folder / "cleanup.yaml").write_text(kustomized(KUSTOMIZE / "cleanup").yaml(), encoding="utf-8")
    (folder / "chart.yaml").write_text(charted({"agent": {"workers": 2}}).yaml(), encoding="utf-8")
    (folder / "Dockerfile").write_text((DEPLOY / "Dockerfile").read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [
            *(checkov, "--directory", str(folder), "--framework", "kubernetes", "dockerfile"),
            *("--compact", "--quiet", "--skip-download", "--output", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        cwd=folder,
    )
    reports = json.loads(done.stdout)
    assert {report["check_type"] for report in reports} == {"kubernetes", "dockerfile"}, done.stderr
    assert all(report["summary"]["passed"] > 50 and not report["summary"]["parsing_errors"] for report in reports)
    return {check["check_id"]: check["resource"] for report in reports for check in report["results"]["failed_checks"]}


def exceptions() -> list[str]:
    excepted: list[str] = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))["skip-check"]
    return excepted


def test_nothing_fails_that_is_not_excepted(failed: dict[str, str]) -> None:
    assert {check: where for check, where in failed.items() if check not in exceptions()} == {}


def test_no_exception_is_left_that_nothing_needs(failed: dict[str, str]) -> None:
    assert [check for check in exceptions() if check not in failed] == []


def test_every_exception_has_a_reason_above_it() -> None:
    """A reason may be that of several in a row."""
    for before, line in pairwise(CONFIGURATION.read_text(encoding="utf-8").splitlines()):
        if "- CKV" in line:
            assert "- CKV" in before or before.lstrip().startswith("# "), line
