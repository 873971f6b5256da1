"""All errors of one object are reported at once: in the order of the document, each with its path, bounded, and none twice."""

import copy
import json

from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from loadtest.testbed.manifests import Body, policy
from netpolq.model import NetworkPolicy, ObjectKey, Pod, Rejection
from netpolq.sources.decode.decoder import DecodeError, decode, decode_all
from netpolq.sources.decode.known_fields import MAX_UNKNOWN
from netpolq.sources.decode.problems import MAX_CHARACTERS, MAX_REPORTED
from netpolq.sources.folder.manifest_file import parse
from netpolq.sources.folder.source import load
from netpolq.sources.kubernetes.resources import RESOURCES, read_item
from tests.property.test_decode_survives import POLICY

HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n"


def errors(text: str) -> list[DecodeError]:
    """The errors of a manifest, one for each object."""
    return [item for item in decode_all(yaml.safe_load(text)) if isinstance(item, DecodeError)]


def reported(error: DecodeError) -> list[str]:
    return [f"{error.field}: {error.message}" if error.field else error.message, *error.further]


def paths(text: str) -> list[str]:
    """The paths of all errors of the one object of a manifest that has errors."""
    (error,) = errors(text)
    return [line.partition(": ")[0] for line in reported(error)]


MANY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: Web, namespace: shop, lables: {}}
spec:
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0}}]
    ports: [{port: 0}, null, {protocol: tcp, port: HTTP}]
  ingress:
  - ports: [{port: 80, endPort: 70}]
    from:
    - podSelector: {matchLabels: {app: 1, "a b": x, team: null}}
      namespaceSelector: {matchExpressions: [{key: a, operator: in}, {key: "?", operator: Exists, values: [x]}]}
    - ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.1.0.0/16, x]}
      From: []
    - {}
  - to: []
  - text
  policyTypes: [Ingress, ingress]
  podSelector: {matchLabels: {app: [web]}}
"""


def test_every_error_of_a_policy_is_told_in_the_order_of_the_document() -> None:
    assert paths(MANY) == [
        "metadata.name",
        "metadata.lables",
        "spec.egress[0].to[0].ipBlock.cidr",
        "spec.egress[0].ports[0].port",
        "spec.egress[0].ports[1]",
        "spec.egress[0].ports[2].protocol",
        "spec.egress[0].ports[2].port",
        "spec.ingress[0].ports[0].endPort",
        "spec.ingress[0].from[0].podSelector.matchLabels",
        "spec.ingress[0].from[0].podSelector.matchLabels['app']",
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].operator",
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[1].key",
        "spec.ingress[0].from[0].namespaceSelector.matchExpressions[1].values",
        "spec.ingress[0].from[1].ipBlock.except[0]",
        "spec.ingress[0].from[1].ipBlock.except[2]",
        "spec.ingress[0].from[1].From",
        "spec.ingress[0].from[2]",
        "spec.ingress[1].to",
        "spec.ingress[2]",
        "spec.policyTypes[1]",
        "and 1 more",
    ]


def test_an_error_keeps_its_words_among_others() -> None:
    """Hints of unknown fields included."""
    (error,) = errors(MANY)
    assert {
        "metadata.lables: unknown field; did you mean labels?",
        "spec.egress[0].ports[0].port: must be between 1 and 65535, not 0",
        "spec.ingress[0].from[1].ipBlock.except[0]: must lie strictly inside 10.0.0.0/8, and 11.0.0.0/16 does not",
        "spec.ingress[1].to: unknown field; did you mean from?",
    } <= set(reported(error))
    assert str(error).startswith("NetworkPolicy of namespace shop: metadata.name: must be a DNS subdomain")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ingress: [{ports: [{port: 0}]}, {ports: [{port: 0}]}]", ["ingress[0].ports[0].port", "ingress[1].ports[0].port"]),
        ("ingress: [{from: [null, {}, 7]}]", ["ingress[0].from[0]", "ingress[0].from[1]", "ingress[0].from[2]"]),
        (
            "ingress: [{from: [{podSelector: [], namespaceSelector: x}]}]",
            ["ingress[0].from[0].podSelector", "ingress[0].from[0].namespaceSelector"],
        ),
        (
            "ingress: [{from: [{podSelector: {matchLabels: x, matchExpressions: x}}]}]",
            ["ingress[0].from[0].podSelector.matchLabels", "ingress[0].from[0].podSelector.matchExpressions"],
        ),
        (
            "ingress: [{from: [{ipBlock: {cidr: x, except: [y]}, podSelector: {matchLabels: {a: 1}}}]}]",
            [
                "ingress[0].from[0]",
                "ingress[0].from[0].ipBlock.cidr",
                "ingress[0].from[0].ipBlock.except[0]",
                "ingress[0].from[0].podSelector.matchLabels['a']",
            ],
        ),
        ("ingress: [{from: x, ports: y}]", ["ingress[0].from", "ingress[0].ports"]),
        ("ingress: x\n  egress: y", ["ingress", "egress"]),
        (
            "ingress: [{ports: [{protocol: 6, port: true, endPort: x}]}]",
            ["ingress[0].ports[0].protocol", "ingress[0].ports[0].port", "ingress[0].ports[0].endPort"],
        ),
        ("policyTypes: [x, null, y]", ["policyTypes[0]", "policyTypes[1]", "policyTypes[2]"]),
        ("policyTypes: [Ingress, Egress, x]", ["policyTypes", "policyTypes[2]"]),
        (
            "podSelector: {matchExpressions: [{key: a, operator: In, values: [1, 'a b']}, {operator: x}]}",
            [
                "podSelector.matchExpressions[0].values[0]",
                "podSelector.matchExpressions[0].values[1]",
                "podSelector.matchExpressions[1].key",
                "podSelector.matchExpressions[1].operator",
            ],
        ),
        ("podSelector: {matchLabels: {'?': 1}}", ["podSelector.matchLabels", "podSelector.matchLabels['?']"]),
    ],
)
def test_an_error_does_not_hide_those_beside_or_behind_it(spec: str, expected: list[str]) -> None:
    assert paths(f"{HEAD}spec:\n  {spec}\n") == [f"spec.{path}" for path in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEAD}spec: text\n", ["spec"]),
        (HEAD.replace("{name: web, namespace: shop}", "text") + "spec: {ingress: [{ports: 1}]}\n", ["metadata", "spec.ingress[0].ports"]),
        (f"{HEAD}spec: {{ingress: [{{to: []}}]}}\n", ["spec.ingress[0].to"]),
        (f"{HEAD}spec: {{ingress: [{{from: [{{podselector: {{}}}}]}}]}}\n", ["spec.ingress[0].from[0].podselector"]),
        (f"{HEAD}spec: {{ingress: [{{ports: [{{Port: 80, endPort: 90}}]}}]}}\n", ["spec.ingress[0].ports[0].Port"]),
        (f"{HEAD}spec: {{ingress: [{{from: [{{ipBlock: {{CIDR: 10.0.0.0/8}}}}]}}]}}\n", ["spec.ingress[0].from[0].ipBlock.CIDR"]),
        (HEAD.replace("metadata", "Metadata") + "spec: {}\n", ["Metadata"]),
        (HEAD.replace("apiVersion", "apiversion") + "spec: {}\n", ["apiversion"]),
    ],
)  # fmt: skip
def test_what_follows_from_an_error_is_not_told_beside_it(text: str, expected: list[str]) -> None:
    """A field that is missing where one is misspelled, and one error that two readers find."""
    assert paths(text) == expected


def test_a_missing_field_of_another_object_than_the_one_with_an_unknown_field_is_told() -> None:
    assert paths(f"{HEAD}spec: {{ingress: [{{Ports: [], from: [{{}}, null, {{ipBlock: {{}}}}]}}]}}\n") == [
        "spec.ingress[0].Ports",
        "spec.ingress[0].from[0]",
        "spec.ingress[0].from[1]",
        "spec.ingress[0].from[2].ipBlock.cidr",
    ]


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (
            HEAD.replace("shop", "Shop").replace("/v1", "/v2") + "spec: {podSelector: 1, Ingress: [], ingress: [{from: [{}]}]}\n",
            "NetworkPolicy",
            ["apiVersion", "metadata.namespace", "spec.podSelector", "spec.Ingress", "spec.ingress[0].from[0]"],
        ),
        (
            HEAD.replace("kind: NetworkPolicy", "kind: NetworkPolicies") + "spec: {podselector: {}, ingress: [{ports: [{port: 0}]}]}\n",
            "NetworkPolicies",
            ["kind", "spec.podselector", "spec.ingress[0].ports[0].port"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: P, labels: {a: 1}, Labels: {}}\nstatus: {podIP: x, phase: run}\n",
            "Pod",
            ["metadata.name", "metadata.labels['a']", "metadata.Labels", "status.podIP", "status.phase"],
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: N, labels: {a: 1, b: [], c: ok, d e: x}, label: {}}\n",
            "Namespace",
            ["metadata.name", "metadata.labels", "metadata.labels['a']", "metadata.labels['b']", "metadata.label"],
        ),
    ],
)  # fmt: skip
def test_an_object_without_a_usable_name_or_kind_tells_the_rest_of_its_errors_too(
    text: str, key: str, expected: list[str]
) -> None:
    (error,) = errors(text)
    assert (error.key, error.partial) == (key, None)
    assert paths(text) == expected


def test_every_error_of_a_pod_is_told_and_the_rest_of_it_used() -> None:
    (error,) = errors("""apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db, tier: 1}, deletionTimestamp: now}
spec:
  nodename: x
  hostNetwork: "yes"
  containers:
  - {name: a, ports: [{name: HTTP, protocol: tcp, containerPort: 0}, {name: ok, containerPort: 80}, null]}
  - {Ports: [], ports: 1}
status:
  podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0}, {ip: 127.0.0.1}]
  hostIP: x
""")
    assert [line.partition(": ")[0] for line in reported(error)] == [
        "metadata.labels['tier']",
        "metadata.deletionTimestamp",
        "spec.nodename",
        "spec.hostNetwork",
        "spec.containers[0].ports[0].name",
        "spec.containers[0].ports[0].protocol",
        "spec.containers[0].ports[0].containerPort",
        "spec.containers[0].ports[2]",
        "spec.containers[1].Ports",
        "spec.containers[1].ports",
        "status.podIPs[1].ip",
        "status.podIPs[2].ip",
        "status.hostIP",
    ]
    assert isinstance(error.partial, Pod)
    assert (len(error.partial.ips), error.partial.labels["app"], len(error.partial.named_ports)) == (1, "db", 1)


def test_every_item_of_a_list_tells_its_own_errors_and_the_list_those_of_its_own() -> None:
    item = policy("shop/web", podSelector={"matchLabels": {"a": 1, "b": 2}})
    body = {"apiVersion": "v2", "kind": "List", "Items": [], "item": [], "items": [item, item]}
    found = [error for error in decode_all(body) if isinstance(error, DecodeError)]
    assert [[line.partition(": ")[0] for line in reported(error)] for error in found] == [
        ["Items", "item"],
        ["apiVersion"],
        ["items[0].spec.podSelector.matchLabels['a']", "items[0].spec.podSelector.matchLabels['b']"],
        ["items[1].spec.podSelector.matchLabels['a']", "items[1].spec.podSelector.matchLabels['b']"],
    ]
    (error,) = errors("apiVersion: v2\nkind: List\nItems: []\nitems: text\n")
    assert [line.partition(": ")[0] for line in reported(error)] == ["apiVersion", "Items", "items"]


FAULTS: dict[str, tuple[list[str | int], object]] = {
    "metadata.name": (["metadata", "name"], "W"),
    "metadata.label": (["metadata", "label"], {}),
    "spec.podSelector.matchLabels['a']": (["spec", "podSelector", "matchLabels", "a"], 1),
    "spec.policyTypes[1]": (["spec", "policyTypes", 1], "egress"),
    "spec.ingress[0].from[0].ipBlock.except[0]": (["spec", "ingress", 0, "from", 0, "ipBlock", "except", 0], "10.0.0.0/8"),
    "spec.ingress[0].from[0].podselector": (["spec", "ingress", 0, "from", 0, "podselector"], {}),
    "spec.ingress[0].from[1].namespaceSelector": (["spec", "ingress", 0, "from", 1, "namespaceSelector"], []),
    "spec.ingress[0].ports[0].endPort": (["spec", "ingress", 0, "ports", 0, "endPort"], 79),
    "spec.ingress[0].ports[1].protocol": (["spec", "ingress", 0, "ports", 1, "protocol"], "tcp"),
    "spec.ingress[0].to": (["spec", "ingress", 0, "to"], []),
    "spec.egress[0].to[0].podSelector.matchExpressions[0].operator": (
        ["spec", "egress", 0, "to", 0, "podSelector", "matchExpressions", 0, "operator"],
        "exists",
    ),
    "spec.egress[0].ports": (["spec", "egress", 0, "ports"], {}),
}
"""Paths in a valid policy, and what makes an error of each."""


@pytest.mark.parametrize(("first", "second"), list(combinations(FAULTS, 2)))
def test_no_error_hides_another(first: str, second: str) -> None:
    body = copy.deepcopy(POLICY)
    for steps, value in (FAULTS[first], FAULTS[second]):
        *outer, last = steps
        holder: Any = body
        for step in outer:
            holder = holder[step]
        holder[last] = value
    (error,) = (item for item in decode_all(body) if isinstance(item, DecodeError))
    assert {line.partition(": ")[0] for line in reported(error)} == {first, second}


# --- bounds ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "last"), [(MAX_REPORTED, None), (MAX_REPORTED + 1, "and 1 more"), (5000, "and at least 980 more")]
)
def test_many_errors_are_counted(count: int, last: str | None) -> None:
    ports = [{"port": 0}] * count
    with pytest.raises(DecodeError) as caught:
        decode(policy("shop/web", ingress=[{"ports": ports}]))
    lines = reported(caught.value)
    assert lines[:MAX_REPORTED] == [
        f"spec.ingress[0].ports[{n}].port: must be between 1 and 65535, not 0" for n in range(MAX_REPORTED)
    ]
    assert lines[MAX_REPORTED:] == ([] if last is None else [last])


def test_a_long_path_and_a_long_value_are_clipped() -> None:
    body: object = policy("shop/web", podSelector={"matchLabels": {"k" * 5000: "v" * 5000}, "u" * 5000: 1})
    for _ in range(200):
        body = {"apiVersion": "v1", "kind": "List", "items": [body]}
    (error,) = (item for item in decode_all(body) if isinstance(item, DecodeError))
    assert len(error.further) == 2
    assert all(len(line) <= 2 * MAX_CHARACTERS + 2 for line in reported(error))
    assert error.field.startswith("items[0].items[0]")
    assert "spec.podSelector" in error.field


def test_more_unknown_fields_than_are_looked_for_isolate_the_whole_namespace() -> None:
    """One of those that are not looked at may have been meant to select pods."""
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}
    for count, is_whole in ((25, False), (MAX_UNKNOWN, True)):
        body = policy("shop/web", **spec)
        body["metadata"] |= {f"x{number}": 1 for number in range(count)}  # type: ignore[index, operator]
        (error,) = (item for item in decode_all(body) if isinstance(item, DecodeError))
        assert isinstance(error.partial, NetworkPolicy)
        assert (error.partial.pod_selector.requirements == ()) is is_whole


# --- what isolates --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "requirements", "directions"),
    [
        ({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "selectors": {}}, 0, 1),
        ({"podSelector": {"matchLabels": {"app": "web"}, "matchlabels": {}}, "policyTypes": ["Ingress"]}, 0, 1),
        ({"podSelector": {"matchLabels": {"app": "web"}}, "egres": []}, 1, 2),
        ({"podSelector": {"matchLabels": {"app": "web"}}, "egress.to": []}, 1, 2),
        ({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egres": []}, 1, 1),
    ],
)
def test_an_unknown_field_widens_what_is_isolated_in_a_list_as_it_does_alone(
    spec: Body, requirements: int, directions: int
) -> None:
    """It may have been meant to select pods, or as rules of egress."""
    alone = policy("shop/web", **spec)
    for body in (alone, {"apiVersion": "v1", "kind": "List", "items": [alone]}):
        (error,) = (item for item in decode_all(body) if isinstance(item, DecodeError))
        assert isinstance(error.partial, NetworkPolicy)
        assert len(error.partial.pod_selector.requirements) == requirements
        assert len(error.partial.policy_types) == directions


@pytest.mark.parametrize(
    ("status", "leaves_open"),
    [("{podIP: 10.0.0}", True), ("{podip: 10.0.0.1}", True), ("{podIP: 10.0.0.1}", False), ("{}", False)],
)
def test_an_error_of_a_pods_metadata_does_not_hide_that_its_address_is_not_known(status: str, leaves_open: bool) -> None:
    text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: db, labels: {{app: 1}}}}\nstatus: {status}\n"
    for data in (text, f"apiVersion: v1\nkind: List\nitems: [{json.dumps(yaml.safe_load(text))}]\n"):
        content = parse("a.yaml", data.encode())
        assert [rejection.leaves_open for rejection in content.rejections] == [leaves_open]


# --- where they are reported -----------------------------------------------------------------------------------------------------------

TWICE = f"{HEAD}spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: 0}}], From: []}}]}}\n"
PORT = "spec.ingress[0].ports[0].port: must be between 1 and 65535, not 0"
FROM = "spec.ingress[0].From: unknown field; did you mean from?"
REACH = "(isolates the pods it selects (Ingress) and admits nothing)"


def test_one_object_is_one_rejection_that_says_everything_in_a_line_or_in_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"---\n---\n{TWICE}")
    (rejection,) = load(tmp_path).rejections
    where = f"a.yaml document {rejection.document}: NetworkPolicy shop/web"
    assert str(rejection) == f"{where}: {PORT}; {FROM} {REACH}"
    assert rejection.lines() == [f"{where}: {PORT}", f"{where}: {FROM} {REACH}"]


def test_the_api_servers_objects_tell_all_their_errors() -> None:
    """But for unknown fields: the API server may be newer than the agent."""
    body = policy("shop/web", ingress=[{"ports": [{"port": 0}], "new": 1}, {"from": [{}]}])
    item = read_item(RESOURCES[2], body)
    assert item is not None
    assert item.rejection is not None
    assert item.rejection.key == str(ObjectKey("NetworkPolicy", "shop", "web"))
    assert str(item.rejection).startswith(f"NetworkPolicy shop/web: {PORT}; spec.ingress[1].from[0]: must have a podSelector")


def test_doubled_keys_do_not_hide_other_errors(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{TWICE}kind: NetworkPolicy\n")
    doubled, rejection = load(tmp_path).rejections
    assert "kind" in doubled.message
    assert [f"{rejection.field}: {rejection.message}", *rejection.further] == [PORT, FROM]
    assert rejection.consequence == doubled.consequence


def test_a_rejection_travels_as_json_with_its_further_errors() -> None:
    rejection = Rejection(origin="a", document=1, key="k", field="f", message="m", consequence="c", further=("g: n",))
    assert orjson.loads(orjson.dumps(rejection)) == {
        "origin": "a",
        "document": 1,
        "key": "k",
        "field": "f",
        "message": "m",
        "consequence": "c",
        "leaves_open": False,
        "further": ["g: n"],
    }
