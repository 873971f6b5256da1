"""`netpolq explain` with policies in audit: the verdict is the enforced one, and the answer names the difference."""

import json

from pathlib import Path

import pytest

from loadtest.testbed import manifests
from netpolq import cli
from netpolq.errors import ExitCode

AUDIT = {"policy.netpolq.io/enforcement": "audit"}
PODS = [
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}},
        "status": {"podIPs": [{"ip": f"10.0.0.{number}"}]},
    }
    for number, name in enumerate(("web", "db"), 1)
]


def write(folder: Path, *policies: manifests.Body) -> None:
    manifests.write(folder / "all.json", [manifests.namespace("shop"), *PODS, *policies])


def policy(name: str, annotations: dict[str, str], **spec: object) -> manifests.Body:
    found = manifests.policy(f"shop/{name}", podSelector={"matchLabels": {"app": "db"}}, **spec)
    return {**found, "metadata": {"namespace": "shop", "name": name, "annotations": annotations}}


def explained(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    argv = ["explain", "--manifests", str(folder), "--src", "shop/web", "--dst", "shop/db", "--port", "5432", *words]
    assert cli.main(argv) == ExitCode.OK
    return capsys.readouterr().out


@pytest.mark.parametrize("engine", ["snapshot", "reference"])
def test_what_a_policy_in_audit_would_deny_is_accepted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    write(tmp_path, policy("strict", AUDIT))
    text = explained(tmp_path, capsys, "--expect", "allow", "--engine", engine)
    assert "verdict      accept, not-isolated" in text
    assert "in audit     would-deny: ingress is isolated by shop/strict and nothing allows it\n" in text
    found = json.loads(explained(tmp_path, capsys, "-o", "json", "--engine", engine))
    assert found["verdict"] == "accept"
    assert (found["audit"]["verdict"], found["audit"]["ingress"]["isolated_by"]) == ("would-deny", ["shop/strict"])


@pytest.mark.parametrize("engine", ["snapshot", "reference"])
def test_what_a_policy_in_audit_would_allow_is_denied_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    write(tmp_path, policy("strict", {}), policy("open", AUDIT, ingress=[{}]))
    text = explained(tmp_path, capsys, "--expect", "deny", "--engine", engine)
    assert "verdict      drop, denied" in text
    assert "in audit     would-accept: " in text


def test_the_same_verdict_is_not_told_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, policy("strict", {}), policy("also", AUDIT))
    assert "in audit" not in explained(tmp_path, capsys)
    assert "audit" not in json.loads(explained(tmp_path, capsys, "-o", "json"))
