"""`netpolq recommend`: output, exit codes and errors."""

import json
import random

from pathlib import Path

import pytest

from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.explain.manifests import load
from netpolq.flows.record import FlowVerdict, encode
from netpolq.recommendation import verification
from tests.support.seen_flows import outside, pod, record

RECORDS = [
    record(pod("shop/web"), pod("shop/db"), 5432, connections=7),
    record(pod("ops/monitor"), pod("shop/db"), 9187, at_s=90),
    record(outside("203.0.113.9"), pod("shop/web"), 8443),
    record(pod("shop/web"), pod("shop/db"), None, "ICMP"),
    record(pod("ops/debug"), pod("shop/db"), 5432, verdict=FlowVerdict.DENY),
]


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    path = tmp_path / "flows.jsonl"
    path.write_bytes(b"".join(encode(one) + b"\n" for one in RECORDS))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: object, expected: ExitCode = ExitCode.OK) -> tuple[str, str]:
    assert cli.main(["recommend", *map(str, words)]) == expected
    return capsys.readouterr()


def test_the_output_is_a_file_that_an_agent_reads_without_a_warning(
    flows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "--flows", flows)
    assert err == ""
    path = tmp_path / "policies.yaml"
    path.write_text(out)
    store = load(path).store
    assert store.rejections == ()
    assert set(store.policies) == {("ops", "monitor"), ("shop", "db"), ("shop", "web")}


def test_the_header_says_where_the_policies_come_from_and_what_is_missing(
    flows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, "--flows", flows, "--namespace=shop")
    header = out.partition("---\n")[0]
    text = " ".join(header.replace("\n#", "").split())
    assert f"Recommended by: netpolq recommend --flows {flows} --namespace=shop" in text
    assert "From 4 flow records (10 connections) of node-a, seen from 2023-11-14T22:13:20Z to 2023-11-14T22:14:50Z." in text
    assert "Verified: all 3 different connections that were seen are allowed" in text
    assert "Left out: 1 flow record of denied connections." in text
    assert "Note: shop/db: not expressed: ICMP from shop/web to shop/db (1 connection)" in text
    assert all(line.startswith("#") for line in header.splitlines())


def test_every_rule_has_its_evidence(flows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "--flows", flows)
    web = pod("shop/web")
    assert "    # 7 connections, 1 flow record, last seen 2023-11-14T22:13:20Z\n" in out
    assert f"    # such as shop/web ({web.address}) -> shop/db ({pod('shop/db').address}) TCP 5432\n" in out


def test_the_order_of_the_file_does_not_matter(flows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = run(capsys, "--flows", flows)
    lines = flows.read_text().splitlines()
    random.Random(3).shuffle(lines)
    flows.write_text("\n".join(lines))
    assert run(capsys, "--flows", flows) == (first, "")


def test_json_is_one_list_and_the_header_is_on_standard_error(flows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "--flows", flows, "-o", "json", "--direction", "ingress")
    answer = json.loads(out)
    assert (answer["kind"], [item["metadata"]["name"] for item in answer["items"]]) == ("List", ["monitor", "db", "web"])
    assert all(item["spec"]["policyTypes"] == ["Ingress"] for item in answer["items"])
    assert "# Verified: " in err


def test_audit_is_an_annotation_of_every_policy(flows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flows.write_bytes(flows.read_bytes() + encode(record(pod("shop/web"), outside("192.0.2.1", "a.example.com"), 443)))
    out, _ = run(capsys, "--flows", flows, "--audit", "--domain-names", "-o", "json")
    kinds = set()
    for item in json.loads(out)["items"]:
        kinds.add(item["kind"])
        assert item["metadata"]["annotations"] == {"policy.netpolq.io/enforcement": "audit"}
    assert kinds == {"NetworkPolicy", "ClusterNetworkPolicy"}
    out, _ = run(capsys, "--flows", flows, "--audit")
    assert out.count("    policy.netpolq.io/enforcement: audit\n") == 3


def test_pods_of_manifests_are_known(flows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pods.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: idle, namespace: shop, labels: {app: db, tier: test}}\n"
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {podSelector: {}}\n"
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {}}\n"
    )
    out, _ = run(capsys, "--flows", flows, "--manifests", tmp_path / "pods.yaml")
    assert "      - key: tier\n        operator: DoesNotExist\n" in out
    assert "# These policies replace those of the same name: shop/db." in out
    assert "# The manifests have 1 other NetworkPolicy of these namespaces" in out


def test_a_failed_verification_prints_nothing(
    flows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mistake of the builder would be found."""
    original = verification._store
    monkeypatch.setattr(verification, "_store", lambda text, *rest: original(text.replace("5432", "5431"), *rest))
    out, err = run(capsys, "--flows", flows, expected=ExitCode.FAILED)
    assert out == ""
    assert "its verification failed: shop/web (" in err
    assert "TCP 5432 was seen" in err


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--run-dir", "/nowhere"], ExitCode.FAILED, "no agent answers on '/nowhere/status.sock'"),
        (["--flows", "nowhere"], ExitCode.FAILED, "--flows 'nowhere': No such file or directory"),
        (
            ["--flows", "x", "--since", "soon"],
            ExitCode.USAGE,
            "flag --since: invalid value 'soon'; allowed: a number and one of s",
        ),
        (["--flows", "x", "--direction", "up"], ExitCode.USAGE, "flag --direction: invalid value 'up'"),
        (["--flows", "x", "--manifests", "nowhere"], ExitCode.USAGE, "--manifests 'nowhere': No such file or directory"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    words: list[str], code: ExitCode, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, err = run(capsys, *words, expected=code)
    assert part in err


def test_a_line_that_is_no_record_and_an_empty_file_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flows.jsonl"
    path.write_text('{"verdict": 7}\n')
    out, err = run(capsys, "--flows", path, expected=ExitCode.FAILED)
    assert (out, f"{path}:1: field" in err) == ("", True)
    path.write_text("\n")
    out, err = run(capsys, "--flows", path, expected=ExitCode.FAILED)
    assert (out, f"{path}: no flow records; let the agents record" in err) == ("", True)
