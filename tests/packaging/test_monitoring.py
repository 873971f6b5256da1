"""The shipped rules, scrape jobs and dashboard: syntax, tests of the rules, and completeness."""

import subprocess

from itertools import combinations, pairwise
from pathlib import Path

import pytest
import yaml

from tests.support import prometheus
from tests.support.prometheus import SHIPPED, Panel


def promtool(*words: str | Path) -> str:
    """Return the output of promtool. Fails the test if promtool reports an error."""
    argv = [prometheus.require("promtool"), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=SHIPPED)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", *prometheus.RULE_FILES)
    assert said.count("SUCCESS") == len(prometheus.RULE_FILES)


@pytest.mark.monitoring
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "rules.test.yaml")


def test_every_alert_is_seen_firing_by_the_rule_tests() -> None:
    scenarios = yaml.safe_load((SHIPPED / "rules.test.yaml").read_text(encoding="utf-8"))["tests"]
    expected = {
        sample["labels"]
        for scenario in scenarios
        for question in scenario["promql_expr_test"]
        for sample in question["exp_samples"]
    }
    silent = [rule["alert"] for rule in prometheus.rules() if "alert" in rule and not _mentioned(rule["alert"], expected)]
    assert silent == []


def _mentioned(alert: str, samples: set[str]) -> bool:
    return any(f'alertname="{alert}"' in sample for sample in samples)


def test_every_alert_says_what_happens_and_what_to_do() -> None:
    for rule in prometheus.rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}, rule["alert"]
            assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
            assert all(len(text) > 20 for text in rule["annotations"].values()), rule["alert"]


def test_promtool_accepts_every_scrape_job_the_optional_one_too(tmp_path: Path) -> None:
    """Without the discovery: Debian builds Prometheus without that of Kubernetes."""
    jobs = prometheus.scrape_jobs()
    assert set(jobs) == {"netpolq", "netpolq-pods", "kube-network-policies"}
    assert jobs["netpolq-pods"]["kubernetes_sd_configs"] == [{"role": "pod"}]
    jobs["netpolq-pods"] = prometheus.with_static_discovery(jobs["netpolq-pods"], {"targets": ["10.0.0.1:9080"]})
    promtool("check", "config", prometheus.config_file(tmp_path, list(jobs.values())))


def test_promtool_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    questions = prometheus.panel_questions()
    rules = [{"record": f"panel:{number}", "expr": expression} for number, (_title, expression) in enumerate(questions)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"{len(questions)} rules found" in promtool("check", "rules", path)


@pytest.fixture
def panels() -> list[Panel]:
    return prometheus.panels()


def test_panels_have_their_own_ids_titles_and_places(panels: list[Panel]) -> None:
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    overlapping = [
        (one["title"], other["title"]) for one, other in combinations(panels, 2) if _overlap(one["gridPos"], other["gridPos"])
    ]
    assert overlapping == []
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_no_panel_is_empty_and_each_row_has_panels(panels: list[Panel]) -> None:
    assert [panel["type"] for panel in panels][-1] != "row"
    assert not [one["title"] for one, following in pairwise(panels) if one["type"] == following["type"] == "row"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["description"], panel["title"]
            assert all('instance=~"$instance"' in target["expr"] for target in panel["targets"]), panel["title"]
