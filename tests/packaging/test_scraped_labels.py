"""The rules and the dashboard match the labels of each shipped scrape configuration."""

import copy
import json
import re

from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TypedDict, cast

import pytest
import yaml

from tests.packaging.test_monitoring import promtool
from tests.support import prometheus
from tests.support.deployment import KUSTOMIZE, charted, kustomized
from tests.support.prometheus import SHIPPED
from tests.support.scraping import WAYS, found, operator_job, pod_target, series_labels

pytestmark = pytest.mark.monitoring
NODES = ("node-1", "node-2")
Labels = dict[str, str]


class _Series(TypedDict):
    series: str
    values: str


class _Question(TypedDict):
    expr: str
    exp_samples: list[dict[str, object]]


class _ExpectedAlert(TypedDict):
    exp_labels: Labels
    exp_annotations: Labels


class _AlertTest(TypedDict):
    exp_alerts: list[_ExpectedAlert]


class _Scenario(TypedDict):
    name: str
    input_series: list[_Series]
    promql_expr_test: list[_Question]
    alert_rule_test: list[_AlertTest]


def scenarios() -> list[_Scenario]:
    """The shipped tests of the rules."""
    text = (SHIPPED / "rules.test.yaml").read_text(encoding="utf-8")
    return cast("list[_Scenario]", yaml.safe_load(text)["tests"])


def relabelled(scenario: _Scenario, labels: dict[str, Labels]) -> _Scenario:
    """The scenario with series as they are scraped. `labels`: of the agent on each node.

    Recorded figures keep job and instance alone. An alert may keep more.
    """
    other = copy.deepcopy(scenario)
    for series in other["input_series"]:
        for node, scraped in labels.items():
            written = ",".join(f'{name}="{value}"' for name, value in scraped.items())
            series["series"] = series["series"].replace(f'job="netpolq",instance="{node}"', written)
    for question in other["promql_expr_test"]:
        question.update(json.loads(with_instances(json.dumps(question), labels)))
    for test in other.get("alert_rule_test", ()):
        for alert in test["exp_alerts"]:
            node = alert["exp_labels"]["instance"]
            alert["exp_labels"] |= labels[node]
            alert["exp_annotations"] = json.loads(with_instances(json.dumps(alert["exp_annotations"]), labels))
    return other


def with_instances(text: str, labels: dict[str, Labels]) -> str:
    return re.sub(r"\bnode-\d\b", lambda node: labels[node[0]]["instance"], text)


@pytest.fixture(scope="module", params=WAYS)
def scraped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Labels]:
    """Labels of the agents' series by node, for each shipped way of scraping."""
    series = WAYS[request.param](tmp_path_factory.mktemp("scraped"), *NODES)
    return dict(zip(NODES, sorted(series, key=lambda labels: labels["instance"]), strict=True))


def test_every_alert_and_figure_is_right_with_the_labels_that_are_scraped(scraped: dict[str, Labels]) -> None:
    """The absence of all agents, an agent that is down, and all other alerts: job and instance are those of the rules."""
    assert {labels["job"] for labels in scraped.values()} == {"netpolq"}
    tests = {
        "rule_files": [str(rules) for rules in prometheus.RULE_FILES],
        "evaluation_interval": "30s",
        "tests": [relabelled(scenario, scraped) for scenario in scenarios()],
    }
    assert_passes(yaml.safe_dump(tests))


@cache  # ways that give the same labels need the same seconds of promtool
def assert_passes(tests: str) -> None:
    """Run tests of rules."""
    with NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(tests)
        file.flush()
        promtool("test", "rules", file.name)


def test_the_instance_is_the_name_of_the_node(scraped: dict[str, Labels]) -> None:
    """A series continues when the agent's pod is replaced."""
    for node, labels in scraped.items():
        assert labels["instance"].removesuffix(":9080") == node
        assert not labels.keys() & {"pod", "container"}


def test_the_one_host_of_the_shipped_job_has_the_expected_job_and_a_name(tmp_path: Path) -> None:
    assert series_labels(tmp_path, prometheus.scrape_jobs()["netpolq"]) == [{"job": "netpolq", "instance": "this-host"}]


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("monitored", ["kustomize", "chart", "job"])
def test_an_agent_is_scraped_once_however_many_containers_its_pod_has(monitored: str, address: str, tmp_path: Path) -> None:
    """An init container and a sidecar cause additional targets, which would count everything twice."""
    port = 9080
    match monitored:
        case "kustomize":
            deployment = kustomized(KUSTOMIZE / "base")
            job = operator_job(kustomized(KUSTOMIZE / "podmonitor").one("PodMonitor"))
        case "chart":
            port = 9191
            deployment = charted(
                {"metrics": {"port": port, "podMonitor": {"enabled": True}}}, release="edge", namespace="network"
            )
            job = operator_job(deployment.one("PodMonitor"))
        case _:
            deployment, job = kustomized(KUSTOMIZE / "base"), prometheus.scrape_jobs()["netpolq-pods"]
    targets = [
        pod_target(deployment, node="node-1", address=address, container=container, init=init)
        for container, init in (("agent", False), ("hold", True), ("proxy", False))
    ]
    (labels,) = found(tmp_path, job, *targets)
    assert labels["__address__"] == (f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    assert labels["__metrics_path__"] == "/metrics"


def test_two_pods_of_one_node_are_one_target_while_one_takes_over(tmp_path: Path) -> None:
    """Both answer on the same address; two targets would give each series twice, and comparisons of series would fail."""
    deployment = kustomized(KUSTOMIZE / "base")
    job = operator_job(kustomized(KUSTOMIZE / "podmonitor").one("PodMonitor"))
    old, new = pod_target(deployment, node="node-1"), pod_target(deployment, node="node-1")
    new["labels"]["__meta_kubernetes_pod_name"] = "netpolq-new"
    assert len(found(tmp_path, job, old, new)) == 1


def test_the_dashboards_list_of_nodes_asks_for_the_job_that_is_scraped() -> None:
    (variable,) = [
        one
        for one in json.loads(prometheus.DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
        if one["name"] == "instance"
    ]
    assert variable["definition"] == 'label_values(netpolq_ready{job="netpolq"}, instance)'
