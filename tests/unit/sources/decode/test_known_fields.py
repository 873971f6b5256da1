"""The known fields of manifests are those of the API's schemas."""

import json

from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from netpolq.sources.decode.fields import Field
from netpolq.sources.decode.known_fields import SCHEMAS, Schema, unknown_fields

SCHEMA_FOLDERS = sorted((Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema").glob("v*-local"))


def properties(name: str) -> set[str]:
    """The fields of a type in all versions of the API."""
    found: set[str] = set()
    for folder in SCHEMA_FOLDERS:
        path = folder / f"{name}.json"
        if path.exists():
            found |= json.loads(path.read_text())["properties"].keys()
    return found


def at(kind: str, path: str) -> Schema:
    schema = SCHEMAS[kind]
    for name in path.split(".") if path else ():
        inner = schema[name]
        assert inner is not None
        schema = inner
    return schema


@pytest.mark.parametrize(
    ("kind", "path", "type_name"),
    [
        ("NetworkPolicy", "", "networkpolicy-networking-v1"),
        ("NetworkPolicy", "metadata", "objectmeta-meta-v1"),
        ("NetworkPolicy", "spec", "networkpolicyspec-networking-v1"),
        ("NetworkPolicy", "spec.podSelector", "labelselector-meta-v1"),
        ("NetworkPolicy", "spec.podSelector.matchExpressions", "labelselectorrequirement-meta-v1"),
        ("NetworkPolicy", "spec.ingress", "networkpolicyingressrule-networking-v1"),
        ("NetworkPolicy", "spec.egress", "networkpolicyegressrule-networking-v1"),
        ("NetworkPolicy", "spec.ingress.from", "networkpolicypeer-networking-v1"),
        ("NetworkPolicy", "spec.egress.to.ipBlock", "ipblock-networking-v1"),
        ("NetworkPolicy", "spec.egress.ports", "networkpolicyport-networking-v1"),
        ("Namespace", "", "namespace-v1"),
        ("Namespace", "spec", "namespacespec-v1"),
        ("Namespace", "status", "namespacestatus-v1"),
        ("Pod", "", "pod-v1"),
        ("Pod", "spec", "podspec-v1"),
        ("Pod", "status", "podstatus-v1"),
        ("Pod", "spec.containers", "container-v1"),
        ("Pod", "spec.initContainers.ports", "containerport-v1"),
        ("Pod", "status.podIPs", "podip-v1"),
        ("Pod", "status.hostIPs", "hostip-v1"),
        ("List", "metadata", "listmeta-meta-v1"),
        ("NetworkPolicyList", "", "networkpolicylist-networking-v1"),
    ],
)
def test_known_fields_are_those_of_the_schemas(kind: str, path: str, type_name: str) -> None:
    expected = properties(type_name)
    assert expected
    assert set(at(kind, path)) == expected


def test_an_object_without_unknown_fields_has_no_complaints() -> None:
    assert unknown_fields(Field("", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}), "Namespace") == []


def test_what_is_no_object_is_left_to_those_that_read_it() -> None:
    body = {"metadata": [1], "spec": {"ingress": "x", "egress": [None, 3, {"to": {"podSelector": []}}]}}
    assert unknown_fields(Field("", body), "NetworkPolicy") == []
