"""The deployment and the jobs of the load test under a security linter: exactly the excepted checks fail, each with a reason."""

from itertools import pairwise

import pytest

from tests.support.checkov import exceptions, failed_checks
from tests.support.deployment import DEPLOY, KUSTOMIZE, LOADTEST, LOADTEST_FOLDERS, OVERLAYS, charted, kustomized

pytestmark = pytest.mark.checkov

CONFIGURATIONS = {"deployment": DEPLOY / "lint/checkov.yaml", "load test": LOADTEST / "checkov.yaml"}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The checks that fail without exceptions, each with one object for which it fails; by configuration."""
    deployment, loadtest = tmp_path_factory.mktemp("deployment"), tmp_path_factory.mktemp("loadtest")
    for name in OVERLAYS:
        (deployment / f"{name}.yaml").write_text(kustomized(KUSTOMIZE / "overlays" / name).yaml(), encoding="utf-8")
    (deployment / "cleanup.yaml").write_text(kustomized(KUSTOMIZE / "cleanup").yaml(), encoding="utf-8")
    (deployment / "chart.yaml").write_text(
        charted({"agent": {"workers": 2, "policyStatus": True, "events": True}, "ui": {"enabled": True}}).yaml(), encoding="utf-8"
    )
    (deployment / "Dockerfile").write_text((DEPLOY / "Dockerfile").read_text(encoding="utf-8"), encoding="utf-8")
    for name in LOADTEST_FOLDERS:
        (loadtest / f"{name}.yaml").write_text(kustomized(LOADTEST / name).yaml(), encoding="utf-8")
    return {
        "deployment": failed_checks(deployment, ("kubernetes", "dockerfile"), passed_at_least=51),
        "load test": failed_checks(loadtest, ("kubernetes",), passed_at_least=51),
    }


@pytest.fixture(params=CONFIGURATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_nothing_fails_that_is_not_excepted(failed: dict[str, dict[str, str]], name: str) -> None:
    excepted = exceptions(CONFIGURATIONS[name])
    assert {check: where for check, where in failed[name].items() if check not in excepted} == {}


def test_every_exception_is_needed(failed: dict[str, dict[str, str]], name: str) -> None:
    assert [check for check in exceptions(CONFIGURATIONS[name]) if check not in failed[name]] == []


def test_every_exception_has_a_reason_above_it(name: str) -> None:
    """One reason may apply to several exceptions in a row."""
    for before, line in pairwise(CONFIGURATIONS[name].read_text(encoding="utf-8").splitlines()):
        if "- CKV" in line:
            assert "- CKV" in before or before.lstrip().startswith("# "), line
