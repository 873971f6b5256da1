"""The page in the cluster: chart and kustomize agree, its pod has no privilege, its account only reads, and its flags fit the agents'."""

import copy

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import helm_python
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from netpolq.enums import FlowsMode
from netpolq.settings import command_flags as flags
from netpolq.settings import resolve
from netpolq.settings.definitions import REPORT_TLS_CLIENT_NAME
from netpolq.settings.options import Values, from_argv
from netpolq.settings.ui_access_flags import (
    AGENT_TLS_CA,
    AGENT_TLS_CERTIFICATE,
    AGENT_TLS_KEY,
    ALLOWED_HOSTS,
    AUTHENTICATION,
    REPORT_PORT,
    TLS_CERTIFICATE,
    TLS_KEY,
    TOKEN_FILE,
    Authentication,
)
from netpolq.sources.decode.others import OTHERS
from netpolq.ui.access import check
from netpolq.ui.access.kubernetes import URL
from netpolq.ui.agents.mutual_tls import AGENT_NAME
from tests.packaging.test_deploy_manifests import API_VERSIONS, CLUSTER_WIDE
from tests.support.deployment import DEPLOY, KUSTOMIZE, charted, with_component

Object = dict[str, Any]

EVERYTHING: Mapping[str, object] = {
    "image": {"registry": "registry.example", "tag": "1", "pullSecrets": [{"name": "registry"}]},
    "ui": {
        "enabled": True,
        "authentication": "token",
        "tokenSecret": "the-token",
        "tlsSecret": "page",
        "clientTlsSecret": "client",
        "reportTlsSecret": "report",
        "reportPort": 10443,
        "allowedHosts": ["netpolq.example", "other.example"],
        "allowFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
        "apiServerPorts": [8443],
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"pool": "tools"},
        "tolerations": [{"operator": "Exists"}],
    },
}


@cache
def rendered(name: str) -> tuple[Object, ...]:
    match name:
        case "component":
            found = with_component(KUSTOMIZE / "overlays/production", KUSTOMIZE / "ui")
        case "chart":
            found = charted({"ui": {"enabled": True}})
        case "chart, everything":
            found = charted(EVERYTHING)
        case _:
            found = charted({"ui": {"enabled": True}}, release="edge", namespace="tools")
    return cast("tuple[Object, ...]", found.manifests)


@pytest.fixture(params=["component", "chart", "chart, everything", "chart, another release"])
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return copy.deepcopy(rendered(request.param))


def one(objects: tuple[Object, ...], kind: str, end: str = "-ui") -> Object:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"].endswith(end)]
    return found


def pod_of(objects: tuple[Object, ...]) -> Object:
    return cast("Object", one(objects, "Deployment")["spec"]["template"])


def container_of(objects: tuple[Object, ...]) -> Object:
    (container,) = pod_of(objects)["spec"]["containers"]
    return cast("Object", container)


def values_of(objects: tuple[Object, ...]) -> Values:
    """The flags of the page, as the command reads them."""
    command, *argv = container_of(objects)["args"]
    assert command == "ui"
    return Values(from_argv(flags.UI_OPTIONS, argv))


@pytest.mark.parametrize("api_version", API_VERSIONS)
def test_every_object_is_valid_in_the_oldest_and_the_newest_api(objects: tuple[Object, ...], api_version: str) -> None:
    assert {"Deployment", "Service", "NetworkPolicy", "DaemonSet"} <= {found["kind"] for found in objects}
    for found in objects:
        kubernetes_validate.validate(found, api_version, strict=True)


def test_chart_and_component_render_the_same_page() -> None:
    """Except for labels, which are also those of Helm in the chart."""
    ours, theirs = (
        {
            (found["kind"], found["metadata"]["name"]): _without_labels(found)
            for found in copy.deepcopy(rendered(name))
            if "-ui" in found["metadata"]["name"]
        }
        for name in ("component", "chart")
    )
    assert len(ours) == 7
    assert ours == theirs


def _without_labels(found: Object) -> Object:
    found["metadata"].pop("labels")
    if found["kind"] == "Deployment":
        found["spec"]["template"]["metadata"].pop("labels")
    return found


def test_without_the_option_there_is_no_page_and_no_report() -> None:
    for name, found in (("off", charted({})), ("clean-up", charted({"ui": {"enabled": True}, "cleanup": {"enabled": True}}))):
        assert not [one for one in found.manifests if "-ui" in one["metadata"]["name"]], name
        assert "REPORT" not in found.yaml()
        assert "report-tls" not in found.yaml()


def test_the_flags_are_safe_together_and_reach_the_agents(objects: tuple[Object, ...]) -> None:
    values = values_of(objects)
    access = check(
        listen=values[flags.UI_LISTEN],
        allowed_hosts=tuple(values[ALLOWED_HOSTS].split(",")),
        tls_certificate=values[TLS_CERTIFICATE],
        tls_key=values[TLS_KEY],
        token_file=values[TOKEN_FILE],
        authentication=values[AUTHENTICATION],
    )
    assert access.authentication is not Authentication.NONE
    service = one(objects, "Service")["metadata"]
    name, namespace = service["name"], service["namespace"]
    assert access.allowed_hosts[:3] == (name, f"{name}.{namespace}", f"{name}.{namespace}.svc")
    agents = one(objects, "DaemonSet", "netpolq")
    (agent,) = agents["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in agent["env"] if "value" in variable}
    settings = resolve(["--hostname-override=node-1"], environment)
    assert settings.report_bind_address == ("", values[REPORT_PORT])
    assert settings.flows is FlowsMode.ON
    assert settings.report_tls_client_name == "netpolq-ui"
    labels = agents["spec"]["template"]["metadata"]["labels"]
    assert values[flags.AGENT_NAMESPACE] == agents["metadata"]["namespace"]
    selector = dict(part.split("=") for part in values[flags.AGENT_SELECTOR].split(","))
    assert selector.items() <= labels.items()


def test_the_pods_of_page_and_agents_are_not_those_of_each_other(objects: tuple[Object, ...]) -> None:
    page, agents = one(objects, "Deployment")["spec"], one(objects, "DaemonSet", "netpolq")["spec"]
    for selector, labels in ((page, agents), (agents, page)):
        wanted = selector["selector"]["matchLabels"]
        assert wanted.items() <= selector["template"]["metadata"]["labels"].items()
        assert not wanted.items() <= labels["template"]["metadata"]["labels"].items()
    wanted = page["selector"]["matchLabels"]
    assert one(objects, "Service")["spec"]["selector"] == wanted
    assert one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == wanted
    selector = dict(part.split("=") for part in values_of(objects)[flags.AGENT_SELECTOR].split(","))
    assert not selector.items() <= page["template"]["metadata"]["labels"].items()


def test_every_file_of_a_flag_is_in_a_secret_of_the_pod(objects: tuple[Object, ...]) -> None:
    values = values_of(objects)
    options = (TLS_CERTIFICATE, TLS_KEY, AGENT_TLS_CERTIFICATE, AGENT_TLS_KEY, AGENT_TLS_CA, TOKEN_FILE)
    folders = {str(path.parent) for option in options if (path := values[option]) is not None}
    mounts = {mount["mountPath"]: mount for mount in container_of(objects)["volumeMounts"]}
    assert folders == mounts.keys() - {"/tmp"}  # noqa: S108 - a path of the container
    volumes = {volume["name"]: volume for volume in pod_of(objects)["spec"]["volumes"]}
    for folder in folders:
        assert mounts[folder]["readOnly"]
        assert volumes[mounts[folder]["name"]]["secret"]["defaultMode"] == 0o440
    (agent,) = one(objects, "DaemonSet", "netpolq")["spec"]["template"]["spec"]["containers"]
    (mount,) = [mount for mount in agent["volumeMounts"] if mount["name"] == "report-tls"]
    named = [variable["value"] for variable in agent["env"] if variable["name"].startswith("NETPOLQ_REPORT_TLS")]
    assert {str(Path(name).parent) for name in named} == {mount["mountPath"]}
    assert sorted(Path(name).name for name in named) == ["ca.crt", "tls.crt", "tls.key"]
    assert mount["readOnly"]


def test_the_pod_has_no_privilege(objects: tuple[Object, ...]) -> None:
    spec, container = pod_of(objects)["spec"], container_of(objects)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    security = spec["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"].keys() == {"memory"}


def test_the_account_reads_objects_and_has_tokens_reviewed(objects: tuple[Object, ...]) -> None:
    rules = one(objects, "ClusterRole")["rules"]
    reviews = [rule for rule in rules if rule["verbs"] == ["create"]]
    reading = [rule for rule in rules if rule not in reviews]
    assert all(rule["verbs"] == ["get", "list"] for rule in reading)
    is_reviewing = values_of(objects)[AUTHENTICATION] is Authentication.KUBERNETES
    assert [(rule["apiGroups"], rule["resources"]) for rule in reviews] == (
        [(["authentication.k8s.io"], ["tokenreviews"]), (["authorization.k8s.io"], ["subjectaccessreviews"])]
        if is_reviewing
        else []
    )
    readable = {(group, plural) for rule in reading for group in rule["apiGroups"] for plural in rule["resources"]}
    others = {(version.rpartition("/")[0], f"{kind.lower()}s") for kind, version in OTHERS.items()}
    core = {("", plural) for plural in ("namespaces", "pods", "nodes")}
    policies = {("networking.k8s.io", "networkpolicies"), *(("policy.networking.k8s.io", plural) for plural in CLUSTER_WIDE)}
    assert readable == core | others | policies
    binding = one(objects, "ClusterRoleBinding")
    account, namespace = pod_of(objects)["spec"]["serviceAccountName"], one(objects, "Deployment")["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    assert binding["roleRef"]["name"] == one(objects, "ClusterRole")["metadata"]["name"]
    assert one(objects, "ServiceAccount")["metadata"]["name"] == account
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False


def test_the_role_for_users_is_the_right_that_the_page_asks_about(objects: tuple[Object, ...]) -> None:
    if values_of(objects)[AUTHENTICATION] is not Authentication.KUBERNETES:
        assert not [found for found in objects if found["metadata"]["name"].endswith("-ui-user")]
        return
    assert one(objects, "ClusterRole", "-ui-user")["rules"] == [{"nonResourceURLs": [URL], "verbs": ["get"]}]
    bound = [found["roleRef"]["name"] for found in objects if found["kind"] in {"ClusterRoleBinding", "RoleBinding"}]
    assert not [name for name in bound if name.endswith("-ui-user")]


def test_the_network_policy_admits_nothing_but_what_the_operator_names(objects: tuple[Object, ...]) -> None:
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    if objects == rendered("chart, everything"):
        (rule,) = policy["ingress"]
        assert rule["from"] == cast("Object", EVERYTHING["ui"])["allowFrom"]
        assert rule["ports"] == [{"protocol": "TCP", "port": values_of(objects)[flags.UI_LISTEN].port}]
    else:
        assert policy["ingress"] == []
    anywhere, dns = policy["egress"]
    ports = [port["port"] for port in anywhere["ports"]]
    assert ports == ([8443, 10443] if objects == rendered("chart, everything") else [443, 6443, 9443])
    assert values_of(objects)[REPORT_PORT] in ports
    assert {port["port"] for port in dns["ports"]} == {53}


def test_probes_and_service_ask_the_port_of_the_page(objects: tuple[Object, ...]) -> None:
    container = container_of(objects)
    (port,) = container["ports"]
    assert port["containerPort"] == values_of(objects)[flags.UI_LISTEN].port
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": port["name"], "scheme": "HTTPS"}
    (service_port,) = one(objects, "Service")["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]


def test_the_charts_settings_reach_the_page() -> None:
    objects = rendered("chart, everything")
    values, spec = values_of(objects), pod_of(objects)["spec"]
    assert container_of(objects)["image"] == "registry.example/netpolq:1"
    assert values[ALLOWED_HOSTS].split(",")[3:] == ["netpolq.example", "other.example"]
    secrets = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    assert secrets == {"page", "client", "the-token"}
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "tools"}
    agents = one(objects, "DaemonSet", "netpolq")["spec"]["template"]["spec"]["volumes"]
    assert {volume["secret"]["secretName"] for volume in agents if "secret" in volume} == {"report"}


def test_cert_manager_makes_the_secrets_that_the_pods_mount() -> None:
    """Each certificate has the name and the use that the other side checks."""
    text = (DEPLOY / "cert-manager/ui.yaml").read_text(encoding="utf-8")
    found = {one["metadata"]["name"]: one["spec"] for one in yaml.safe_load_all(text) if one["kind"] == "Certificate"}
    objects = rendered("chart")
    pods = (pod_of(objects), one(objects, "DaemonSet", "netpolq")["spec"]["template"])
    mounted = {volume["secret"]["secretName"] for pod in pods for volume in pod["spec"]["volumes"] if "secret" in volume}
    issued = {spec["secretName"]: spec for spec in found.values() if not spec.get("isCA")}
    assert issued.keys() == mounted
    assert issued["netpolq-report-tls"]["dnsNames"] == [AGENT_NAME]
    assert issued["netpolq-ui-client"]["dnsNames"] == [REPORT_TLS_CLIENT_NAME.default]
    uses = {name: spec["usages"][1] for name, spec in issued.items()}
    assert uses == {"netpolq-report-tls": "server auth", "netpolq-ui-client": "client auth", "netpolq-ui-tls": "server auth"}
    assert set(issued["netpolq-ui-tls"]["dnsNames"]) <= {"localhost", *values_of(objects)[ALLOWED_HOSTS].split(",")}


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": "yes"},
        {"authentication": "none"},
        {"tlsSecret": ""},
        {"tlsSecret": "A_Secret"},
        {"reportPort": 443},
        {"reportPort": "9443"},
        {"allowedHosts": ["netpolq.example:443"]},
        {"allowedHosts": ["a,b"]},
        {"allowFrom": [{}]},
        {"apiServerPorts": []},
        {"replicas": 2},
    ],
    ids=str,
)
def test_the_schema_refuses(values: Mapping[str, object]) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="at '"):
        charted({"ui": {"enabled": True, **values}})
