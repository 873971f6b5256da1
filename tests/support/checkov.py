"""The security linter of deployments."""

import json
import os
import subprocess
import sys

from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.support.deployment import tool

_LIMIT_S = 110


def failed_checks(folder: Path, frameworks: Sequence[str], *, passed_at_least: int) -> dict[str, str]:
    """The checks that fail in a folder, each with one object for which it fails.

    `passed_at_least`: minimum of passed checks of each framework; with fewer, the linter has not read the files.
    """
    checkov = tool("checkov", "make setup installs it beside the tests", Path(sys.prefix) / "checkov/bin/checkov")
    done = subprocess.run(
        [
            *(checkov, "--directory", str(folder), "--framework", *frameworks),
            *("--compact", "--quiet", "--skip-download", "--output", "json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        cwd=folder,
    )
    found = json.loads(done.stdout)
    reports = found if isinstance(found, list) else [found]
    assert {report["check_type"] for report in reports} == set(frameworks), done.stderr
    assert all(report["summary"]["passed"] >= passed_at_least and not report["summary"]["parsing_errors"] for report in reports)
    return {check["check_id"]: check["resource"] for report in reports for check in report["results"]["failed_checks"]}


def exceptions(configuration: Path) -> list[str]:
    """The checks that a configuration skips."""
    excepted: list[str] = yaml.safe_load(configuration.read_text(encoding="utf-8"))["skip-check"]
    return excepted
