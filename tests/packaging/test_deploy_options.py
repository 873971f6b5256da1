"""The chart's options: names, rules, dashboard, clean-up, and the migration from kustomize to the chart."""

import json
import tarfile

from pathlib import Path
from typing import cast

import helm_python
import pytest
import yaml

from netpolq.errors import SettingsError
from netpolq.settings.definitions import LOGGING_FORMAT, MARK_MASK, OPTIONS, VERBOSITY
from netpolq.settings.options import Given, parse_given
from tests.support import prometheus
from tests.support.deployment import CHART, KUSTOMIZE, Deployment, PodSpec, charted, kustomized

Schema = dict[str, object]


@pytest.mark.parametrize(
    ("release", "values"),
    [("netpolq", {}), ("edge", {"fullnameOverride": "netpolq"}), ("netpolq", {"podLabels": {"team": "network"}})],
    ids=["the release's name", "the full name", "more labels"],
)
@pytest.mark.parametrize("overlay", ["base", "overlays/production", "overlays/fail-closed"])
def test_the_chart_takes_over_what_kustomize_has_made(overlay: str, release: str, values: dict[str, object]) -> None:
    """Objects with the same name agree in their immutable fields: the selector of pods, and the role that is bound."""
    before, after = kustomized(KUSTOMIZE / overlay), charted(values, release=release)
    assert identities(before) == identities(after)
    assert before.one("DaemonSet")["spec"]["selector"] == after.one("DaemonSet")["spec"]["selector"]
    assert before.one("ClusterRoleBinding")["roleRef"] == after.one("ClusterRoleBinding")["roleRef"]


def identities(deployment: Deployment) -> set[tuple[str, str, str]]:
    """Kind, namespace and name of all objects."""
    return {
        (manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"])
        for manifest in deployment.manifests
    }


@pytest.mark.parametrize(
    ("values", "release", "name"),
    [
        ({}, "netpolq", "netpolq"),
        ({}, "edge", "edge-netpolq"),
        ({"nameOverride": "policies"}, "edge", "edge-policies"),
        ({"nameOverride": "policies"}, "policies", "policies"),
        ({"fullnameOverride": "agent"}, "edge", "agent"),
    ],
)
def test_names_follow_the_overrides_and_the_label_for_scraping_stays(values: dict[str, object], release: str, name: str) -> None:
    deployment = charted(values, release=release)
    assert {manifest["metadata"]["name"] for manifest in deployment.manifests} == {name, f"{name}-dns"}
    assert deployment.pod["spec"]["serviceAccountName"] == name
    assert deployment.pod["metadata"]["labels"]["app.kubernetes.io/name"] == "netpolq"


def test_the_account_of_the_pods_can_be_named_annotated_or_left_to_others() -> None:
    own = charted({"serviceAccount": {"name": "policy-agent", "annotations": {"owner": "network"}}})
    assert own.one("ServiceAccount")["metadata"]["name"] == "policy-agent"
    assert own.one("ServiceAccount")["metadata"]["annotations"] == {"owner": "network"}
    others = charted({"serviceAccount": {"create": False, "name": "shared"}})
    assert "ServiceAccount" not in {manifest["kind"] for manifest in others.manifests}
    assert others.one("ClusterRoleBinding")["subjects"][0]["name"] == others.pod["spec"]["serviceAccountName"] == "shared"


def test_additional_parts_of_the_pod_reach_it() -> None:
    affinity: dict[str, object] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    values = {
        "affinity": affinity,
        "priorityClassName": "urgent",
        "extraArgs": ["--v=1"],
        "extraEnv": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "extraInitContainers": [{"name": "hold", "image": "netpolq:0.1.0", "args": ["hold"]}],
    }
    spec = charted(values).pod["spec"]
    (agent,) = spec["containers"]
    assert agent["args"][-1] == "--v=1"
    assert agent["env"][-1]["name"] == "POD_IP"
    assert spec["initContainers"] == values["extraInitContainers"]
    assert spec["affinity"] == affinity
    assert spec["priorityClassName"] == "urgent"


@pytest.mark.parametrize(("written", "passed"), [("on", "on"), ("off", "off"), ('"off"', "off"), ("auto", "auto")])
def test_the_mode_of_the_verdict_cache_may_be_written_as_yaml_reads_it(written: str, passed: str) -> None:
    """A plain `on` or `off` is a boolean to Helm."""
    values = yaml.safe_load(f"agent: {{verdictCache: {written}}}")
    assert charted(values).environment()["NETPOLQ_VERDICT_CACHE"] == passed


def test_flows_and_metrics_of_policies_may_be_switched_off_as_yaml_reads_it() -> None:
    environment = charted(yaml.safe_load("agent: {flows: off, policyMetrics: off}")).environment()
    assert (environment["NETPOLQ_FLOWS"], environment["NETPOLQ_POLICY_METRICS"]) == ("off", "off")


def test_the_rule_object_holds_the_shipped_rules() -> None:
    deployment = charted({"metrics": {"prometheusRule": {"enabled": True, "labels": {"release": "monitoring"}}}})
    rule = deployment.one("PrometheusRule")
    shipped = [group for path in prometheus.RULE_FILES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    assert rule["spec"]["groups"] == shipped
    assert rule["metadata"]["labels"]["release"] == "monitoring"


def test_a_packed_chart_holds_rules_and_dashboard_too(tmp_path: Path) -> None:
    """They are links in the folder, and files in the published archive."""
    archive = Path(helm_python.package(CHART, destination=tmp_path))
    with tarfile.open(archive) as packed:
        for shipped in (*prometheus.RULE_FILES, prometheus.DASHBOARD):
            member = packed.extractfile(f"netpolq/files/{shipped.name}")
            assert member is not None
            assert member.read() == shipped.read_bytes()


def test_the_config_map_holds_the_shipped_dashboard_under_the_label_that_grafanas_sidecar_looks_for() -> None:
    deployment = charted({"metrics": {"dashboard": {"enabled": True}}})
    found = deployment.one("ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    (dashboard,) = found["data"].values()
    assert json.loads(dashboard) == json.loads(prometheus.DASHBOARD.read_text(encoding="utf-8"))


def test_by_default_there_are_no_objects_of_kinds_that_a_cluster_may_lack() -> None:
    assert {manifest["kind"] for manifest in charted({}).manifests} == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "DaemonSet",
    }


def schema_of(section: str) -> dict[str, Schema]:
    """The values of a section of the chart, with references resolved."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    properties: dict[str, Schema] = schema["properties"][section]["properties"]
    return {
        name: schema["definitions"][Path(str(found["$ref"])).name] if "$ref" in found else found
        for name, found in properties.items()
    }


CHART_OPTIONS = {
    **{option.name.replace("-", ""): option for option in OPTIONS},
    "verbosity": VERBOSITY,
    "format": LOGGING_FORMAT,
}
CHART_VALUES = {name.lower(): schema for section in ("agent", "logging") for name, schema in schema_of(section).items()}


def forms(name: str) -> list[Schema]:
    """The alternatives of a value."""
    return [CHART_VALUES[name], *cast("list[Schema]", CHART_VALUES[name].get("anyOf", []))]


@pytest.mark.parametrize("name", [name for name in CHART_VALUES if any({"enum", "const"} & form.keys() for form in forms(name))])
def test_the_chart_knows_the_modes_of_the_option(name: str) -> None:
    """And null, which leaves the default. YAML reads a plain `on` or `off` as a boolean."""
    option = CHART_OPTIONS[name]
    values = [value for form in forms(name) for value in cast("list[object]", form.get("enum", [form.get("const")]))]
    texts = {str(value).lower() for value in values if isinstance(value, str) or (isinstance(value, bool) and option.is_switch)}
    assert texts == set(option.value_type.choices)


@pytest.mark.parametrize("name", [name for name in CHART_VALUES if CHART_OPTIONS[name].value_type.toml_type is int])
def test_the_chart_has_the_bounds_of_the_option(name: str) -> None:
    option = CHART_OPTIONS[name]
    (bounds,) = [(form["minimum"], form["maximum"]) for form in forms(name) if "maximum" in form]
    low, high = cast("tuple[int, int]", bounds)
    for number in (low - 1, high + 1):
        with pytest.raises(SettingsError):
            parse_given(option, Given(name, str(number)))
    if option is not MARK_MASK:  # not every number is a mask
        assert [parse_given(option, Given(name, str(number))) for number in (low, high)] == [low, high]


def without_empty(spec: PodSpec) -> dict[str, object]:
    return {name: value for name, value in spec.items() if value}


def test_clean_up_replaces_the_agent_by_pods_that_are_those_of_kustomize() -> None:
    """The pods run on every node that had an agent, and no object of the agent is left that could start it again."""
    everything = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    chart = charted({"cleanup": {"enabled": True}, "metrics": everything})
    kustomize = kustomized(KUSTOMIZE / "cleanup")
    assert identities(chart) == identities(kustomize) == {("DaemonSet", "kube-system", "netpolq-cleanup")}
    assert without_empty(chart.pod["spec"]) == without_empty(kustomize.pod["spec"])
    assert chart.one("DaemonSet")["spec"]["selector"] == kustomize.one("DaemonSet")["spec"]["selector"]
    agent, cleanup = (charted(values).one("DaemonSet")["spec"]["selector"] for values in ({}, {"cleanup": {"enabled": True}}))
    assert not agent["matchLabels"].items() <= chart.pod["metadata"]["labels"].items()
    assert cleanup["matchLabels"].items() <= chart.pod["metadata"]["labels"].items()


def test_clean_up_reaches_the_nodes_of_the_agent_and_clears_its_bit() -> None:
    values = {
        "cleanup": {"enabled": True},
        "agent": {"ctLabel": 26},
        "nodeSelector": {"pool": "workers"},
        "image": {"registry": "registry.example", "tag": "1"},
    }
    spec = charted(values).pod["spec"]
    (container,) = spec["initContainers"]
    assert container["env"] == [{"name": "NETPOLQ_CT_LABEL", "value": "26"}]
    assert container["image"] == spec["containers"][0]["image"] == "registry.example/netpolq:1"
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "workers"}
