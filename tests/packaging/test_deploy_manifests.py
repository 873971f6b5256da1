"""The shipped manifests: the output of kustomize and the chart is valid, fits the agent, and requests only used privileges."""

import copy
import re

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import cast

import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from netpolq.cli import COMMANDS
from netpolq.hold.ranges import listed
from netpolq.names import resolvers
from netpolq.policy_status import lease
from netpolq.settings import Settings, resolve
from netpolq.settings.definitions import OPTIONS
from tests.support.deployment import CHART, KUSTOMIZE, OVERLAYS, Deployment, Kind, PodSpec, charted, kustomized, with_component

Values = Mapping[str, object]

VALUE_SETS: dict[str, Values] = {
    "defaults": {},
    "fail-closed": {"agent": {"failOpen": False, "workers": 4}, "updateStrategy": {"type": "OnDelete"}},
    "every setting": {
        "image": {
            "registry": "registry.example:5000/mirror",
            "repository": "network/netpolq",
            "digest": f"sha256:{'0' * 64}",
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "registry"}],
        },
        "agent": {
            "workers": 8,
            "failOpen": False,
            "nfqueueId": 200,
            "fanout": False,
            "dataplane": "native",
            "markMask": "0x700",
            "ctLabel": 26,
            "nodeEgress": "allow",
            "denyWith": "reject",
            "netfilterBug1766Fix": "auto",
            "strictMode": False,
            "policyStatus": True,
            "events": True,
            "flows": "denied",
            "flowRecords": 1000,
            "flowBytes": False,
            "policyMetrics": "rule",
            "audit": True,
            "podCidrs": ["10.244.0.0/16", "fd00:10:244::/56"],
            "verdictCache": "off",
            "verdictCacheTtl": 30,
            "verdictCacheSize": 1048576,
        },
        "logging": {"format": "text", "verbosity": 2},
        "metrics": {
            "port": 9090,
            "bindHost": "::1",
            "annotations": False,
            "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "monitoring"}},
            "prometheusRule": {"enabled": True, "labels": {"release": "monitoring"}},
            "dashboard": {"enabled": True, "annotations": {"grafana_folder": "network"}},
        },
        "runDir": "/var/run/netpolq",
        "cniConfDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "cniCacheDir": "/mnt/cni",
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "updateStrategy": {"maxSurge": "10%"},
        "tolerations": [],
        "nodeSelector": {"pool": "workers"},
        "podLabels": {"team": "network"},
        "podAnnotations": {"note": "x"},
        "fullnameOverride": "policies",
        "serviceAccount": {"name": "policy-agent", "annotations": {"owner": "network"}},
        "extraArgs": ["--queue-balance=300:307"],
        "extraEnv": [
            {"name": "NETPOLQ_KUBECONFIG", "value": "/run/netpolq/kubeconfig"},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "extraInitContainers": [{"name": "wait", "image": "registry.example/wait:1", "args": ["true"]}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "priorityClassName": "",
    },
    "without the CNI configuration": {"cniConfDir": "", "agent": {"podCidrs": ["10.244.0.0/16"]}},
    "without CNI results": {"cniCacheDir": ""},
    "with conditions of policies": {"agent": {"policyStatus": True}},
    "without conditions of policies": {"agent": {"policyStatus": False}},
    "with events": {"agent": {"events": True}},
    "without events": {"agent": {"events": False}},
    "with an export of flows": {
        "flowExport": {
            "otlp": "http://localhost:4318/v1/logs",
            "otlpHeadersSecret": "collector-token",
            "dir": "/var/log/netpolq",
            "fileMaxBytes": 1073741824,
            "fileKeep": 0,
        }
    },
    "with flows in a file": {"flowExport": {"dir": "/var/log/flows"}},
    "answers where annotations say": {"agent": {"denyWith": "drop"}},
    "an account that exists": {"serviceAccount": {"create": False, "name": "shared"}, "nameOverride": "policy"},
}
REFUSED: dict[str, Values] = {
    "no worker": {"agent": {"workers": 0}},
    "too many workers": {"agent": {"workers": 257}},
    "a word for a number of workers": {"agent": {"workers": "many"}},
    "a text for a boolean": {"agent": {"failOpen": "false"}},
    "a queue number beyond 16 bits": {"agent": {"nfqueueId": 65536}},
    "a text for conditions of policies": {"agent": {"policyStatus": "on"}},
    "a text for events": {"agent": {"events": "denied"}},
    "unknown flows": {"agent": {"flows": "accepted"}},
    "too few flow records": {"agent": {"flowRecords": 10}},
    "a text for audit": {"agent": {"audit": "on"}},
    "a URL of a receiver with a token": {"flowExport": {"otlp": "http://user:token@localhost:4318/v1/logs"}},
    "a URL of a receiver without a path": {"flowExport": {"otlp": "http://localhost:4318"}},
    "a relative folder for flows": {"flowExport": {"dir": "log"}},
    "an unknown treatment of denied packets": {"agent": {"denyWith": "reset"}},
    "an unknown form of the queue rule": {"agent": {"dataplane": "iptables"}},
    "a mask that is no number": {"agent": {"markMask": "0xfg"}},
    "a key that does not exist": {"agent": {"worker": 2}},
    "a section that does not exist": {"agents": {"workers": 2}},
    "a privileged port": {"metrics": {"port": 80}},
    "a host name to bind to": {"metrics": {"bindHost": "node"}},
    "a digest that is none": {"image": {"digest": "sha256:0"}},
    "a relative run directory": {"runDir": "run/netpolq"},
    "a relative folder of the CNI configuration": {"cniConfDir": "cni/net.d"},
    "a relative folder of CNI results": {"cniCacheDir": "lib/cni"},
    "a text for a list of pod ranges": {"agent": {"podCidrs": "10.244.0.0/16,fd00::/56"}},
    "an address for a pod range": {"agent": {"podCidrs": ["10.244.0.1"]}},
    "every address as a pod range": {"agent": {"podCidrs": ["0.0.0.0/0"]}},
    "two pod ranges in one text": {"agent": {"podCidrs": ["10.244.0.0/16,10.245.0.0/16"]}},
    "an update that never proceeds": {"updateStrategy": {"maxSurge": 0}},
    "an update that stops agents first": {"updateStrategy": {"maxUnavailable": 1}},
    "a registry with a digest": {"image": {"registry": "registry.example@sha256"}},
    "a time of decisions in the kernel that is none": {"agent": {"verdictCacheTtl": 0}},
    "a mode of the verdict cache that does not exist": {"agent": {"verdictCache": "always"}},
    "an argument that is no flag": {"extraArgs": ["workers=2"]},
    "a flag that the probes count on": {"extraArgs": ["--metrics-bind-address=:9999"]},
    "a flag that the chart sets": {"extraArgs": ["-takeover=false"]},
    "a variable that the chart sets": {"extraEnv": [{"name": "NETPOLQ_WORKERS", "value": "2"}]},
    "no account at all": {"serviceAccount": {"create": False}},
    "a name that is none": {"fullnameOverride": "Policy_Agent"},
    "a security context": {"securityContext": {"privileged": True}},
}
RENDERINGS: dict[str, Callable[[], Deployment]] = {
    "base": partial(kustomized, KUSTOMIZE / "base"),
    **{f"overlay {name}": partial(kustomized, KUSTOMIZE / "overlays" / name) for name in OVERLAYS},
    "component policy-status": partial(with_component, KUSTOMIZE / "overlays/production", KUSTOMIZE / "policy-status"),
    "component events": partial(with_component, KUSTOMIZE / "overlays/production", KUSTOMIZE / "events"),
    "component deny-with": partial(with_component, KUSTOMIZE / "overlays/production", KUSTOMIZE / "deny-with"),
    **{f"chart, {name}": partial(charted, values) for name, values in VALUE_SETS.items()},
}
CLUSTER_WIDE = ("clusternetworkpolicies", "adminnetworkpolicies", "baselineadminnetworkpolicies")
CONDITIONS_RULE = {
    "apiGroups": ["policy.networking.k8s.io"],
    "resources": [f"{plural}/status" for plural in CLUSTER_WIDE],
    "verbs": ["patch"],
}
EVENTS_RULE = {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]}
# The oldest version that the chart accepts, and the newest in the schemas here.
API_VERSIONS = ("1.25", kubernetes_validate.latest_version())


@cache
def rendered(name: str) -> Deployment:
    return RENDERINGS[name]()


@pytest.fixture(params=RENDERINGS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    return rendered(request.param)


def settings_of(deployment: Deployment) -> Settings:
    """Return the settings that the agent resolves from its arguments and environment."""
    command, *words = deployment.container["args"]
    assert command == "run"
    return resolve([word.replace("$(NODE_NAME)", "worker-1") for word in words], deployment.environment())


@pytest.mark.parametrize("api_version", API_VERSIONS)
def test_every_manifest_is_valid_in_the_oldest_and_the_newest_api(deployment: Deployment, api_version: str) -> None:
    checked = [manifest for manifest in deployment.manifests if manifest["kind"] not in {"PodMonitor", "PrometheusRule"}]
    assert {"ClusterRole", "ClusterRoleBinding", "DaemonSet"} <= {manifest["kind"] for manifest in checked}
    for manifest in checked:
        kubernetes_validate.validate(manifest, api_version, strict=True)


def test_the_validator_refuses_a_field_that_does_not_exist() -> None:
    broken = copy.deepcopy(rendered("base").one("DaemonSet"))
    broken["spec"]["template"]["spec"]["hostNetworks"] = True  # type: ignore[typeddict-unknown-key]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, API_VERSIONS[0], strict=True)


def test_the_agent_understands_every_argument_and_variable(deployment: Deployment) -> None:
    settings = settings_of(deployment)
    assert settings.hostname == "worker-1"
    assert settings.manifests is None, "without a folder it watches the cluster"
    assert settings.run_dir == Path("/run/netpolq")
    known = {f"NETPOLQ_{option.name.upper().replace('-', '_')}" for option in OPTIONS}
    assert deployment.environment().keys() <= known, "a variable of another name is ignored in silence"


def test_probes_and_scrapers_ask_the_port_that_the_agent_serves(deployment: Deployment) -> None:
    settings, container = settings_of(deployment), deployment.container
    assert "ports" not in container, (
        "on the host's network a declared port is the node's, and the next pod could not come up beside"
    )
    probes = [container["startupProbe"], container["livenessProbe"], container["readinessProbe"]]
    assert [probe["httpGet"]["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    for probe in probes:
        assert probe["httpGet"]["port"] == settings.metrics_bind_address.port
        assert probe["httpGet"].get("host", "") == settings.metrics_bind_address.host
    annotations = deployment.pod["metadata"].get("annotations", {})
    assert annotations.get("prometheus.io/port") in {None, str(settings.metrics_bind_address.port)}


def test_the_role_is_what_is_used_and_bound_to_the_pods_account(deployment: Deployment) -> None:
    role, binding = deployment.one("ClusterRole"), deployment.one("ClusterRoleBinding")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces", "pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
        {"apiGroups": ["policy.networking.k8s.io"], "resources": list(CLUSTER_WIDE), "verbs": ["list", "watch"]},
        *([CONDITIONS_RULE] if settings_of(deployment).policy_status else []),
        *([EVENTS_RULE] if settings_of(deployment).events else []),
    ]
    assert binding["roleRef"] == {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": role["metadata"]["name"],
    }
    name, namespace = deployment.pod["spec"]["serviceAccountName"], deployment.one("DaemonSet")["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    accounts = [manifest["metadata"] for manifest in deployment.manifests if manifest["kind"] == "ServiceAccount"]
    assert [(account["name"], account["namespace"]) for account in accounts] == ([] if name == "shared" else [(name, namespace)])


def test_the_role_for_the_election_is_bound_exactly_where_conditions_are_written(deployment: Deployment) -> None:
    namespaced = [one["metadata"]["name"] for one in deployment.manifests if one["kind"] in {"Role", "RoleBinding"}]
    if not settings_of(deployment).policy_status:
        assert not any(name.endswith("-policy-status") for name in namespaced)
        return
    role, binding = deployment.one("Role", "-policy-status"), deployment.one("RoleBinding", "-policy-status")
    leases = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    assert role["rules"] == [
        {**leases, "resourceNames": [lease.NAME], "verbs": ["get", "update"]},
        {**leases, "verbs": ["create"]},
    ]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
    name, namespace = deployment.pod["spec"]["serviceAccountName"], deployment.one("DaemonSet")["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace, "the Lease is where the pods are"


def test_the_role_for_services_is_about_those_of_the_dns_alone(deployment: Deployment) -> None:
    role, binding = deployment.one("Role", "-dns"), deployment.one("RoleBinding", "-dns")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["services"], "resourceNames": list(resolvers.SERVICES), "verbs": ["list", "watch"]}
    ]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == resolvers.NAMESPACE
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
    name, namespace = deployment.pod["spec"]["serviceAccountName"], deployment.one("DaemonSet")["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]


def test_chart_and_component_write_conditions_with_the_same_permissions() -> None:
    component, chart = rendered("component policy-status"), rendered("chart, with conditions of policies")
    kinds: tuple[tuple[Kind, str], ...] = (("ClusterRole", ""), ("Role", "-policy-status"), ("RoleBinding", "-policy-status"))
    for kind, end in kinds:
        ours, theirs = component.one(kind, end), chart.one(kind, end)
        assert ours["metadata"]["name"] == theirs["metadata"]["name"]
        assert {**ours, "metadata": {}} == {**theirs, "metadata": {}}


def test_chart_and_component_write_events_with_the_same_permission() -> None:
    component, chart = rendered("component events"), rendered("chart, with events")
    assert settings_of(component).events
    assert settings_of(chart).events
    assert component.one("ClusterRole")["rules"] == chart.one("ClusterRole")["rules"]


def test_only_agents_that_answer_denied_packets_have_a_second_capability(deployment: Deployment) -> None:
    answers = {"component deny-with", "chart, every setting", "chart, answers where annotations say"}
    is_answering = deployment in [rendered(name) for name in answers]
    capabilities = deployment.container["securityContext"]["capabilities"]
    assert capabilities == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] if is_answering else ["NET_ADMIN"]}


def test_chart_and_component_answer_denied_packets_alike() -> None:
    answering = settings_of(rendered("component deny-with")), settings_of(rendered("chart, every setting"))
    assert [settings.deny_with for settings in answering] == ["reject", "reject"]
    assert settings_of(rendered("chart, answers where annotations say")).deny_with == "drop"


def test_an_update_has_the_new_agent_take_the_place_of_the_old_one(deployment: Deployment) -> None:
    assert settings_of(deployment).takeover
    rolling = [{"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0}} for surge in (1, "10%")]
    assert deployment.one("DaemonSet")["spec"]["updateStrategy"] in [*rolling, {"type": "OnDelete"}]


def test_the_selector_selects_the_pods(deployment: Deployment) -> None:
    selector = deployment.one("DaemonSet")["spec"]["selector"]["matchLabels"]
    assert selector
    assert selector.items() <= deployment.pod["metadata"]["labels"].items()


def test_overlays_change_what_they_are_named_for() -> None:
    settings = {name: settings_of(rendered(f"overlay {name}")) for name in OVERLAYS}
    assert {name: found.fail_open for name, found in settings.items()} == {"kind": True, "production": True, "fail-closed": False}
    assert {name: found.queue_count for name, found in settings.items()} == {"kind": 2, "production": 4, "fail-closed": 4}
    assert settings["kind"].queue_first == 200
    assert rendered("overlay kind").container["imagePullPolicy"] == "Never"
    assert rendered("overlay fail-closed").one("DaemonSet")["spec"]["updateStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_the_charts_settings_reach_the_agent() -> None:
    deployment = rendered("chart, every setting")
    settings = settings_of(deployment)
    assert (settings.queue_first, settings.queue_count, settings.fanout) == (300, 8, False), "an argument comes before a variable"
    assert (settings.verdict_cache, settings.verdict_cache_ttl_s, settings.verdict_cache_size) == (False, 30, 1048576)
    assert (settings.mark_mask, settings.ct_label) == (0x700, 26)
    assert settings.metrics_bind_address == ("::1", 9090)
    assert (settings.verbosity, settings.logging_format.value, settings.strict_mode) == (2, "text", False)
    assert (settings.dataplane.value, settings.node_egress.value, settings.netfilter_bug_1766_fix) == ("native", "allow", None)
    assert deployment.container["image"] == f"registry.example:5000/mirror/network/netpolq@sha256:{'0' * 64}"
    assert listed(settings.pod_cidrs) == "10.244.0.0/16,fd00:10:244::/56"
    assert host_paths(deployment) == {
        "/run/netpolq": "/var/run/netpolq",
        "/etc/cni/net.d": "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "/var/lib/cni": "/mnt/cni",
    }


def host_paths(deployment: Deployment) -> dict[str, str]:
    """The folders of the node in the agent's container, by mount path. A missing folder must not prevent the start of the pod."""
    volumes = [volume for volume in deployment.pod["spec"]["volumes"] if "secret" not in volume]
    secrets = {volume["name"] for volume in deployment.pod["spec"]["volumes"]} - {volume["name"] for volume in volumes}
    folders = {volume["name"]: cast("dict[str, str]", volume["hostPath"]) for volume in volumes}
    assert {folder["type"] for folder in folders.values()} == {"DirectoryOrCreate"}
    mounts = [mount for mount in deployment.container["volumeMounts"] if mount["name"] not in secrets]
    assert sorted(str(mount["name"]) for mount in mounts) == sorted(map(str, folders))
    return {str(mount["mountPath"]): folders[mount["name"]]["path"] for mount in mounts}


def test_the_agent_reads_the_cni_configuration_of_the_node_and_writes_to_its_run_directory_alone(deployment: Deployment) -> None:
    """Without the mount, the agent would look for pod ranges in the image's folder, which does not exist.

    In fail-open mode it does not look.
    """
    settings, paths = settings_of(deployment), host_paths(deployment)
    assert settings.cni_conf_dir is not None
    assert settings.cni_results is not None
    readable = {str(settings.cni_conf_dir), str(settings.cni_results.parent)}
    written = [str(settings.run_dir)]
    if settings.flow_export_file is not None:
        written.append(str(settings.flow_export_file.parent))
    assert paths.keys() - readable == set(written)
    if settings.fail_open:
        assert str(settings.cni_conf_dir) not in paths
    else:
        assert str(settings.cni_conf_dir) in paths or settings.pod_cidrs
    writable = [mount["mountPath"] for mount in deployment.container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == written


def test_flows_go_where_the_chart_says_and_the_token_comes_from_a_secret() -> None:
    deployment = rendered("chart, with an export of flows")
    settings = settings_of(deployment)
    assert settings.flow_export_otlp == "http://localhost:4318/v1/logs"
    assert (settings.flow_export_file_max_bytes, settings.flow_export_file_keep) == (1073741824, 0)
    assert host_paths(deployment)["/var/log/netpolq"] == "/var/log/netpolq"
    (volume,) = (volume for volume in deployment.pod["spec"]["volumes"] if "secret" in volume)
    assert volume["secret"] == {
        "secretName": "collector-token",
        "defaultMode": 0o400,
        "items": [{"key": "headers", "path": "headers"}],
    }
    (mount,) = (mount for mount in deployment.container["volumeMounts"] if mount["name"] == volume["name"])
    assert mount["readOnly"]
    assert str(settings.flow_export_otlp_headers_file) == f"{mount['mountPath']}/headers"


def test_a_chart_without_the_folder_of_the_cni_configuration_mounts_none_of_it() -> None:
    """The folder may also have credentials of the network plugin."""
    deployment = rendered("chart, without the CNI configuration")
    assert host_paths(deployment).keys() == {"/run/netpolq", "/var/lib/cni"}
    assert listed(settings_of(deployment).pod_cidrs) == "10.244.0.0/16"


def test_the_agent_finds_cni_results_in_the_folder_around_them_unless_the_chart_is_told_otherwise(deployment: Deployment) -> None:
    """`results` itself may be missing, and come later: the container runtime creates it with the first pod."""
    without = rendered("chart, without CNI results")
    folder = settings_of(deployment).cni_results
    assert folder is not None
    assert (str(folder.parent) in host_paths(deployment)) == (deployment != without)
    assert str(folder) not in host_paths(deployment)


@pytest.mark.parametrize("values", REFUSED.values(), ids=REFUSED)
def test_the_schema_refuses(values: Values) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="at '"):
        charted(values)


def test_every_value_of_the_chart_is_in_its_schema() -> None:
    with helm_python.Chart.load(CHART) as chart:
        schema = chart.schema
        values = chart.values
    assert schema is not None
    assert values.keys() <= schema["properties"].keys()
    for name, section in values.items():
        if isinstance(section, dict) and "properties" in schema["properties"][name]:
            assert section.keys() <= schema["properties"][name]["properties"].keys(), name


def test_the_chart_passes_helms_own_checks() -> None:
    findings = helm_python.lint(CHART)
    assert findings["errors"] == []
    assert [message for message in findings["messages"] if "icon" not in message["error"]] == []


def test_chart_and_kustomize_render_the_same_pods() -> None:
    """With their defaults, except the labels that each uses as selector."""
    base, chart = rendered("base"), rendered("chart, defaults")
    assert sorted_pod(base) == sorted_pod(chart)
    ours, theirs = (deployment.one("DaemonSet")["spec"] for deployment in (base, chart))
    skipped = ("selector", "template")
    assert {name: value for name, value in ours.items() if name not in skipped} == {
        name: value for name, value in theirs.items() if name not in skipped
    }


def sorted_pod(deployment: Deployment) -> PodSpec:
    spec = copy.deepcopy(deployment.pod["spec"])
    for container in spec["containers"]:
        container["env"].sort(key=lambda variable: variable["name"])
    return spec


def test_two_releases_do_not_share_names_or_pods() -> None:
    one, other = charted({}, release="one", namespace="a"), charted({}, release="other", namespace="b")
    kinds: tuple[Kind, ...] = ("ClusterRole", "ClusterRoleBinding", "DaemonSet")
    for kind in kinds:
        assert one.one(kind)["metadata"]["name"] != other.one(kind)["metadata"]["name"]
    selectors = [deployment.one("DaemonSet")["spec"]["selector"] for deployment in (one, other)]
    assert selectors[0] != selectors[1]
    assert one.one("ClusterRoleBinding")["subjects"] == [{"kind": "ServiceAccount", "name": "one-netpolq", "namespace": "a"}]


@pytest.mark.parametrize("pods", ["base", "chart, every setting"])
def test_the_pod_monitor_finds_the_pods_and_their_port(pods: str) -> None:
    deployment = rendered(pods)
    source = kustomized(KUSTOMIZE / "podmonitor") if pods == "base" else deployment
    monitor = source.one("PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= deployment.pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    v4, v6 = (rule for rule in endpoint["relabelings"] if rule.get("targetLabel") == "__address__")
    port = settings_of(deployment).metrics_bind_address.port
    assert [rule["replacement"] for rule in (v4, v6)] == [f"$1:{port}", f"[$1]:{port}"]
    for address, matches in (("10.0.0.1", (True, False)), ("fd00::1", (False, True))):
        assert tuple(bool(re.fullmatch(rule["regex"], address)) for rule in (v4, v6)) == matches
    assert monitor["metadata"]["namespace"] == deployment.one("DaemonSet")["metadata"]["namespace"]


def test_what_cleans_up_is_a_valid_daemon_set_with_the_agents_image_and_privileges() -> None:
    agent, cleanup = rendered("base"), kustomized(KUSTOMIZE / "cleanup")
    for api_version in API_VERSIONS:
        kubernetes_validate.validate(cleanup.one("DaemonSet"), api_version, strict=True)
    (container,) = cleanup.pod["spec"]["initContainers"]
    assert container["args"] == ["cleanup"]
    assert container["args"][0] in COMMANDS
    assert container["securityContext"] == agent.container["securityContext"]
    assert container["image"] == cleanup.container["image"] == agent.container["image"]
