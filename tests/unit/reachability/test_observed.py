"""`netpolq diff --flows`: which connections that were seen a change would cut or allow."""

import json

from pathlib import Path

import pytest

from loadtest.testbed import manifests
from netpolq import cli
from netpolq.errors import ExitCode
from netpolq.flows.record import FlowRecord, encode
from tests.support.seen_flows import outside, pod, record

WEB, DB, OTHER = pod("shop/web-1", app="web"), pod("shop/db-0", app="db"), pod("shop/other-7", app="other")


def pod_body(name: str, address: str, app: str) -> manifests.Body:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
        "status": {"podIPs": [{"ip": address}]},
    }


@pytest.fixture
def versions(tmp_path: Path) -> tuple[str, str]:
    """Two versions with other pods of the same workloads: the new one admits to the database only what comes from `web` to one port."""
    rule = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}
    strict = manifests.policy("shop/db", podSelector={"matchLabels": {"app": "db"}}, ingress=[rule])
    for name, last, policies in (("old", 1, []), ("new", 101, [strict])):
        folder = tmp_path / name
        folder.mkdir()
        pods = [pod_body(f"{app}-{last}", f"10.0.{number}.{last}", app) for number, app in enumerate(("web", "db", "other"), 1)]
        manifests.write(folder / "all.json", [manifests.namespace("shop"), *pods, *policies])
    return str(tmp_path / "old"), str(tmp_path / "new")


def diff(
    versions: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *records: FlowRecord,
    words: tuple[str, ...] = (),
) -> tuple[ExitCode, str]:
    flows = tmp_path / "flows.jsonl"
    flows.write_bytes(b"".join(encode(one) + b"\n" for one in records))
    code = cli.main(["diff", *versions, "--flows", str(flows), *words])
    return ExitCode(code), capsys.readouterr().out


def test_what_was_seen_and_stays_allowed_is_no_change(
    versions: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = diff(versions, tmp_path, capsys, record(WEB, DB, 5432), record(WEB, OTHER, 80))
    assert code == ExitCode.OK
    assert text.startswith("none of 2 connections that were seen changes\n")


def test_labels_tell_the_workload_where_manifests_lack_those_of_its_controller(
    versions: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web = pod("shop/web-7d9f-x2x2x", app="web", pod__template__hash="7d9f")
    assert "pod-template-hash" in web.labels
    _code, text = diff(versions, tmp_path, capsys, record(web, DB, 5432))
    assert "none of 1 connections" in text


def test_what_was_seen_and_would_be_cut_is_shown_with_the_policy_and_how_often(
    versions: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = (record(OTHER, DB, 5432, connections=3), record(OTHER, DB, 5432, connections=4, at_s=60), record(WEB, DB, 22))
    code, text = diff(versions, tmp_path, capsys, *seen)
    assert code == ExitCode.UNEXPECTED
    assert "shop/other -> shop/db: TCP 5432: all -> none\n" in text.replace("shop/other-101", "shop/other").replace(
        "db-101", "db"
    )
    assert "  new  ingress isolated by shop/db\n" in text
    assert "  seen 7 connections, last at 2023-11-14T22:14:20.000Z\n" in text
    assert "  seen 1 connections" in text
    code, text = diff(versions, tmp_path, capsys, *seen, words=("-o", "json"))
    found = json.loads(text)
    assert code == ExitCode.UNEXPECTED
    assert (found["compared"], found["not_compared"]) == (2, 0)
    assert sorted(change["seen"]["connections"] for change in found["changes"]) == [1, 7]


def test_what_would_only_be_allowed_is_shown_and_is_no_error(
    versions: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = versions
    code, text = diff((new, old), tmp_path, capsys, record(outside("192.0.2.1"), DB, 5432))
    assert code == ExitCode.OK
    assert "none -> all" in text


def test_records_that_cannot_be_compared_are_counted(
    versions: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, icmp, unnamed = (
        record(pod("shop/gone-1"), DB, 5432),
        record(WEB, DB, None, "ICMP"),
        record(outside("other"), DB, 5432),
    )
    code, text = diff(versions, tmp_path, capsys, gone, icmp, unnamed, record(WEB, DB, 5432))
    assert code == ExitCode.OK
    assert "none of 1 connections" in text
    assert "not compared: 3 records" in text
