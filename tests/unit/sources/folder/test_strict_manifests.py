"""Manifests that strict field validation refuses: the agent reports them with their position, and they isolate."""

import codecs

from pathlib import Path

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Verdict
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.sources.folder.source import load
from netpolq.store import Store

POD = """apiVersion: v1
kind: Pod
metadata: {{namespace: {namespace}, name: {name}, labels: {{app: {name}}}}}
status: {{podIP: {address}}}
"""
WEB, DB, FAR = (parse_address(address) for address in ("10.0.0.1", "10.0.0.2", "10.0.1.1"))
PODS = "---\n".join(
    POD.format(namespace=namespace, name=name, address=address)
    for namespace, name, address in (("shop", "web", "10.0.0.1"), ("shop", "db", "10.0.0.2"), ("far", "far", "10.0.1.1"))
)
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
METADATA = "metadata:\n  name: p\n  namespace: shop\n"
SELECTOR = "  podSelector:\n    matchLabels:\n      app: web\n"
DENY = f"{HEAD}{METADATA}spec:\n{SELECTOR}"
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  namespace: shop\n"
JSON_DENY = (
    '{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"},'
    ' "spec": {"podSelector": {"matchLabels": {"app": "web"}}}}'
)


def read(folder: Path, data: str | bytes, name: str = "np.yaml") -> Store:
    """The pods, and one other file beside them."""
    (folder / "pods.yaml").write_text(PODS)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    store = Store()
    store.apply(load(folder))
    return store


def is_open(store: Store, source: AddressKey = FAR, destination: AddressKey = WEB) -> bool:
    return CompiledEvaluator(store).explain(source, destination, 6, 22).verdict is Verdict.ACCEPT


def rule(text: str) -> str:
    return f"{DENY}  ingress:\n  - {text}\n"


UNKNOWN_FIELDS = [
    (rule("port: 80\n    protocol: TCP"), "spec.ingress[0].port", "belongs to spec.ingress.ports"),
    (rule("From: []"), "spec.ingress[0].From", "did you mean from?"),
    (rule("form: []"), "spec.ingress[0].form", "did you mean from?"),
    (rule("froms: []"), "spec.ingress[0].froms", "did you mean from?"),
    (rule("Ports: []"), "spec.ingress[0].Ports", "did you mean ports?"),
    (rule("to: []"), "spec.ingress[0].to", "did you mean from?"),
    (rule("podSelector: {}"), "spec.ingress[0].podSelector", "belongs to"),
    (rule("ipBlock: {cidr: 10.0.0.0/8}"), "spec.ingress[0].ipBlock", "belongs to spec.ingress.from"),
    (rule("cidr: 10.0.0.0/8"), "spec.ingress[0].cidr", "belongs to"),
    (
        rule("from: [{podSelector: {matchlabels: {app: good}}}]"),
        "spec.ingress[0].from[0].podSelector.matchlabels",
        "matchLabels?",
    ),
    (rule("from: [{podSelector: {app: good}}]"), "spec.ingress[0].from[0].podSelector.app", "unknown field"),
    (rule("from: [{podSelector: {}, namespaceselector: {}}]"), "spec.ingress[0].from[0].namespaceselector", "namespaceSelector?"),
    (rule("from: [{ipBlock: {cidr: 0.0.0.0/0, excepts: [10.0.0.0/8]}}]"), "spec.ingress[0].from[0].ipBlock.excepts", "except?"),
    (rule("from: [{ipBlock: {cidr: 0.0.0.0/0}, except: [10.0.0.0/8]}]"), "spec.ingress[0].from[0].except", "belongs to"),
    (rule("ports: [{port: 80, endport: 90}]"), "spec.ingress[0].ports[0].endport", "endPort?"),
    (rule("ports: [{number: 80}]"), "spec.ingress[0].ports[0].number", "unknown field"),
    (rule("ports: [{Port: 80}]"), "spec.ingress[0].ports[0].Port", "port?"),
    (f"{DENY}  Ingress: []\n  ingress: [{{}}]\n", "spec.Ingress", "did you mean ingress?"),
    (f"{DENY}  policytypes: [Ingress]\n  ingress: [{{}}]\n", "spec.policytypes", "did you mean policyTypes?"),
    (f"{DENY}  ingress: [{{}}]\n  namespace: shop\n", "spec.namespace", "belongs to metadata"),
    (f"{DENY}  ingress: [{{}}]\ningress: []\n", "ingress", "belongs to spec"),
    (f"{DENY}  ingress: [{{}}]\npolicyTypes: [Egress]\n", "policyTypes", "belongs to spec"),
    (f"{HEAD}{METADATA}  lables: {{}}\nspec:\n{SELECTOR}  ingress: [{{}}]\n", "metadata.lables", "did you mean labels?"),
    (
        f"{HEAD}{METADATA}spec: {{podselector: {{matchLabels: {{app: db}}}}, ingress: [{{}}]}}\n",
        "spec.podselector",
        "podSelector?",
    ),
    (f"{HEAD}{METADATA}spec: {{podSelector: {{app: db}}, ingress: [{{}}]}}\n", "spec.podSelector.app", "unknown field"),
    (f"{HEAD}{METADATA}Spec: {{podSelector: {{}}}}\n", "Spec", "did you mean spec?"),
    (f"{HEAD}metadata: {{name: p, Namespace: shop}}\nspec: {{podSelector: {{}}}}\n", "metadata.Namespace", "namespace?"),
    (f"{HEAD}Metadata: {{name: p, namespace: shop}}\nspec: {{podSelector: {{}}}}\n", "Metadata", "metadata?"),
    (f"{HEAD}metadata: {{name: p}}\nnamespace: shop\nspec: {{podSelector: {{}}}}\n", "namespace", "belongs to metadata"),
]


@pytest.mark.parametrize(("text", "path", "hint"), UNKNOWN_FIELDS)
def test_an_unknown_or_misplaced_field_is_named_and_isolates(tmp_path: Path, text: str, path: str, hint: str) -> None:
    """A rule without the field that was meant would admit everything."""
    store = read(tmp_path, text)
    (rejection,) = store.rejections
    assert (rejection.origin, rejection.document, rejection.field) == ("np.yaml", 1, path)
    assert hint in rejection.message
    assert not rejection.leaves_open
    assert not is_open(store)


def test_a_field_that_may_have_meant_egress_isolates_in_both_directions(tmp_path: Path) -> None:
    """Without policyTypes, it is the rules that say whether egress is isolated."""
    assert not is_open(read(tmp_path, f"{DENY}  egres: []\n"), WEB, FAR)
    assert is_open(read(tmp_path, f"{DENY}  policyTypes: [Ingress]\n  egres: []\n"), WEB, FAR)


KINDS = [
    ("networking.k8s.io/v1", "NetworkPolicies"),
    ("networking.k8s.io/v1", "Networkpolicy"),
    ("networking.k8s.io/v1", "networkpolicy"),
    ("networking.k8s.io/v1", "NETWORKPOLICY"),
    ("networking.k8s.io/v1", "Network-Policy"),
    ("networking.k8s.io/v1", "NetworkPolcy"),
    ("networking.k8s.io/v1", "netpol"),
    ("networking.k8s.io/v1", "Policy"),
    ("networking.k8s.io/v1beta1", "NetworkPolicy"),
    ("networking.k8s.io/v2", "NetworkPolicies"),
    ("extensions/v1beta1", "NetworkPolicy"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("networking.k8s.io.v1", "NetworkPolicy"),
    ("networking.k8s.io/V1", "NetworkPolicy"),
    ("networking.k8s/v1", "NetworkPolicy"),
    ("network.k8s.io/v1", "NetworkPolicy"),
    ("networking/v1", "NetworkPolicy"),
    ("Networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "NetworkPolicy"),
    ("v1", "NetworkPolicies"),
    ("v1", "NetPol"),
    ("''", "NetworkPolicy"),
    ("1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "''"),
    ("networking.k8s.io/v1", "[NetworkPolicy]"),
]


@pytest.mark.parametrize(("version", "kind"), KINDS)
def test_a_misspelt_kind_or_version_is_reported_and_isolates(tmp_path: Path, version: str, kind: str) -> None:
    store = read(tmp_path, f"apiVersion: {version}\nkind: {kind}\n{METADATA}spec:\n{SELECTOR}  ingress: [{{}}]\n")
    (rejection,) = store.rejections
    assert rejection.document == 1
    assert not rejection.leaves_open
    assert not is_open(store)


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("v1", "Service"),
        ("v1", "PodTemplate"),
        ("v1", "Widget"),
        ("networking.k8s.io/v1", "Ingress"),
        ("networking.k8s.io/v1", "IngressClassList"),
        ("policy/v1", "PodDisruptionBudget"),
        ("crd.projectcalico.org/v1", "NetworkPolicy"),
        ("projectcalico.org/v3", "GlobalNetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "CIDRGroup"),
        ("crd.antrea.io/v1beta1", "ClusterNetworkPolicy"),
        ("networking.gke.io/v1", "FQDNNetworkPolicy"),
        ("metrics.k8s.io/v1beta1", "PodMetrics"),
        ("example.com/v1", "Pod"),
    ],
)
def test_kinds_that_have_nothing_to_do_with_it_are_ignored_without_complaint(tmp_path: Path, version: str, kind: str) -> None:
    """Their fields are not checked either."""
    store = read(tmp_path, f"apiVersion: {version}\nkind: {kind}\n{METADATA}spec: {{Ports: [], ports: [{{env: 1, env: 2}}]}}\n")
    assert store.rejections == ()
    assert sum(store.ignored.values()) == 1
    assert is_open(store)


SEVERAL = [
    ("np.yaml", DENY + CONFIG_MAP),
    ("np.yaml", CONFIG_MAP + DENY),
    ("np.yaml", f"{DENY}---apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c, namespace: shop}}\n"),
    ("np.yaml", f"{CONFIG_MAP}---{DENY}"),
    ("np.yaml", f"---{DENY}"),
    ("np.yaml", f"---kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\n{METADATA}spec:\n{SELECTOR}"),
    ("np.yaml", f"{CONFIG_MAP}---# the policy\n{DENY}"),
    ("np.yaml", f"{CONFIG_MAP}----\n{DENY}"),
    ("np.yaml", f"{CONFIG_MAP} ---\n{DENY}"),
    ("np.yaml", f"{CONFIG_MAP}--\n{DENY}"),
    ("np.yaml", f"{DENY}{METADATA}"),
    ("np.yaml", f"{DENY}  ingress: []\n  ingress: [{{}}]\n"),
    ("np.yaml", rule("from: [{podSelector: {matchLabels: {app: a, app: b}}}]")),
    ("np.yaml", f"{HEAD}{METADATA}spec: {{podSelector: {{matchLabels: {{app: web, app: db}}}}}}\n"),
    ("np.json", JSON_DENY.replace('"spec"', '"kind": "ConfigMap", "spec"')),
    ("np.json", JSON_DENY.replace('"spec": {', '"spec": {"ingress": [], "ingress": [{}], ')),
    ("np.json", JSON_DENY + "\n]"),
    ("np.json", JSON_DENY + ","),
    ("np.json", f"[{JSON_DENY}]"),
    ("np.json", JSON_DENY[:-1]),
    ("np.json", JSON_DENY.replace('"p"', "'p'")),
    ("np.json", JSON_DENY + "\nNaN x"),
    ("np.yaml", JSON_DENY + "\n" + "trailing"),
    ("np.yaml", f"{CONFIG_MAP}\ufeff---\n{DENY}"),
    ("np.yaml", f"{CONFIG_MAP}\ufeff{DENY}"),
    ("np.yaml", DENY.replace("name: p", "name: {{ .Release.Name }}-deny")),
    ("np.yaml", "{{- if .Values.enabled }}\n" + DENY + "{{- end }}\n"),
    ("np.yaml", "{% if x %}\n" + DENY + "{% endif %}\n"),
    ("np.yaml", DENY.replace("name: p", "name: '{{ x }}'")),
    ("np.yaml", DENY.replace("app: web", "app: ${APP}")),
    ("np.yaml", DENY.replace("app: web", "app: {{ .Values.app }}")),
    ("np.yaml", f"{DENY}  policyTypes: {{{{ .Values.types }}}}\n"),
    ("np.yaml", f"{DENY}\tingress: []\n"),
    ("np.yaml", DENY.replace("  name: p", "\tname: p")),
    ("np.yaml", DENY.replace("spec:", "spec: |")),
    ("np.yaml", DENY + "\0"),
    ("np.yaml", DENY.encode() + b"# \xff\n"),
    ("np.yaml", codecs.BOM_UTF16_LE + DENY.encode("utf-16-le")),
    ("np.yaml", codecs.BOM_UTF16_BE + DENY.encode("utf-16-be")),
    ("np.yaml", DENY.encode("utf-16-le")),
    ("np.yaml", codecs.BOM_UTF32_LE + DENY.encode("utf-32-le")),
    ("np.yaml", DENY.encode("utf-32-be")),
    ("np.json", codecs.BOM_UTF16_LE + JSON_DENY.encode("utf-16-le")),
    ("np.yaml", f"apiVersion: v1\nkind: List\nitmes:\n- {JSON_DENY}\n"),
    ("np.yaml", f"apiVersion: v1\nkind: Lists\nitems:\n- {JSON_DENY}\n"),
    ("np.yaml", f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicylist\nitems:\n- {JSON_DENY}\n"),
    ("np.yaml", f"apiVersion: v1\nkind: List\nitems:\n  one: {JSON_DENY}\n"),
    ("np.yaml", f"apiVersion: v1\nkind: List\nitems: [], \nitems:\n- {JSON_DENY}\n"),
    ("np.yaml", f"apiVersion: v1\nkind: List\nitems:\n- {JSON_DENY}\nitems: []\n"),
    ("np.yaml", f"- {JSON_DENY}\n"),
    ("np.yaml", f"<<: {JSON_DENY}\nkind: ConfigMap\nkind: NetworkPolicy\n"),
]


@pytest.mark.parametrize(("name", "data"), SEVERAL)
def test_what_is_no_single_object_is_reported_and_isolates_the_namespace(tmp_path: Path, name: str, data: str | bytes) -> None:
    """Two objects in one document, equal keys, glued separators, garbage, templates, other encodings."""
    store = read(tmp_path, data, name)
    assert store.rejections
    assert all(rejection.origin == name for rejection in store.rejections)
    assert not is_open(store)
    assert not any(rejection.leaves_open for rejection in store.rejections)


WHOLE = [
    ("np.yaml", f"{DENY}...\n{CONFIG_MAP}"),
    ("np.yaml", f"{DENY}... # end\n---\n{CONFIG_MAP}"),
    ("np.yaml", f"{CONFIG_MAP}...\n{DENY}...\n"),
    ("np.yaml", f"{DENY}---\n{CONFIG_MAP}".replace("\n", "\r")),
    ("np.yaml", f"# comment\n{DENY}---\n{CONFIG_MAP}".replace("\n", "\r")),
    ("np.yaml", f"{CONFIG_MAP}---\n# comment\n{DENY}".replace("\n", "\r\n")),
    ("np.yaml", f"{CONFIG_MAP}---\n{DENY}".replace("\n---\n", "\x85---\x85")),
    ("np.yaml", f"{CONFIG_MAP}---\n{DENY}".replace("\n---\n", "\u2028---\u2029")),
    ("np.yaml", f"{CONFIG_MAP}--- # policy\n{DENY}"),
    ("np.yaml", f"%YAML 1.1\n---\n{DENY}"),
    ("np.yaml", f"\ufeff{DENY}"),
    ("np.json", f"\ufeff{JSON_DENY}"),
    ("np.YAML", DENY),
    ("np.Yml", DENY),
    ("np.JSON", JSON_DENY),
    ("np.json", JSON_DENY + JSON_DENY.replace('"p"', '"q"')),
    ("np.json", JSON_DENY + "\n" + JSON_DENY.replace('"p"', '"q"') + "\n"),
    ("np.yaml", JSON_DENY + "\n" + JSON_DENY.replace('"p"', '"q"') + "\n"),
    ("np.json", JSON_DENY + "\n---\n" + JSON_DENY.replace('"p"', '"q"') + "\n"),
    ("np.json", DENY),
    ("np.yaml", f"apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems: [{JSON_DENY}]\n"),
    ("np.yaml", f"{DENY}status: {{}}\n"),
    ("np.yaml", DENY.replace("  name: p", "  name: p\n  annotations: {a: b}\n  managedFields: [{f: 1}]\n  generation: 1")),
]


@pytest.mark.parametrize(("name", "data"), WHOLE)
def test_what_kubectl_reads_is_in_force_without_complaint(tmp_path: Path, name: str, data: str) -> None:
    store = read(tmp_path, data, name)
    assert store.rejections == ()
    assert ("shop", "p") in store.policies
    assert not is_open(store)
    assert is_open(store, FAR, DB)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "key: [",
        "text",
        "a: 1\n",
        DENY.replace("namespace: shop", "namespace: {{ .Values.namespace }}"),
        DENY.replace("namespace: shop", "namespace: ${NAMESPACE}"),
        DENY.replace("namespace: shop", "namespace: Shop"),
        DENY.replace("namespace: shop", "namespace: [shop]"),
    ],
)
def test_a_text_of_an_unknown_namespace_is_reported_as_leaving_pods_open(tmp_path: Path, text: str) -> None:
    (rejection,) = read(tmp_path, text).rejections
    assert rejection.leaves_open
    assert "the agent is not ready" in rejection.consequence


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("labels:", "label:"), "metadata.label"),
        (("labels:", "Labels:"), "metadata.Labels"),
        (("app: web", "app: 1"), "metadata.labels['app']"),
        (("kind: Pod", "kind: Pod\nspec: {hostnetwork: true}"), "spec.hostnetwork"),
        (
            ("kind: Pod", "kind: Pod\nspec: {containers: [{ports: [{containerport: 80}]}]}"),
            "spec.containers[0].ports[0].containerport",
        ),
        (("apiVersion: v1", "apiVersion: v2"), "apiVersion"),
        (("podIP: 10.0.0.1", "podIP: 10.0.0.1, podips: []"), "status.podips"),
    ],
)
def test_a_pod_that_cannot_be_read_whole_is_isolated_alone(tmp_path: Path, change: tuple[str, str], field: str) -> None:
    """Its policies may select it by the label that was not understood."""
    text = POD.format(namespace="shop", name="web", address="10.0.0.1").replace(*change)
    (tmp_path / "a.yaml").write_text(text)
    store = Store()
    store.apply(load(tmp_path))
    (rejection,) = store.rejections
    assert (rejection.key, rejection.field) == ("Pod shop/web", field)
    store = read(tmp_path, "---\n", "b.yaml")  # the good copy comes after the bad one by path
    assert not is_open(store)
    assert not is_open(store, WEB, FAR)
    assert is_open(store, FAR, DB)


def test_a_pod_whose_address_cannot_be_read_is_reported_as_open(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POD.format(namespace="shop", name="new", address="10.0.0.9").replace("podIP", "podIp"))
    (rejection,) = load(tmp_path).rejections
    assert (rejection.field, rejection.leaves_open) == ("status.podIp", True)
    assert "did you mean podIP?" in rejection.message
