"""Decoding of the annotation `netpolq.io/deny-with` of namespaces and policies of every kind."""

import json

from collections.abc import Mapping

import pytest

from netpolq.enums import DenyWith
from netpolq.model import ClusterNetworkPolicy, Namespace, NetworkPolicy
from netpolq.sources.decode.decoder import DecodeError, decode, decode_all
from netpolq.sources.folder.manifest_file import parse
from tests.support.cluster_policies import GROUP

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
NETWORK_POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]},
}
_RULE = {"action": "Deny", "from": [{"namespaces": {}}]}
CLUSTER_POLICY = {
    "apiVersion": f"{GROUP}/v1alpha2",
    "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "lock"},
    "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": [_RULE]},
}
ADMIN_POLICY = {
    "apiVersion": f"{GROUP}/v1alpha1",
    "kind": "AdminNetworkPolicy",
    "metadata": {"name": "lock"},
    "spec": {"priority": 1, "subject": {"namespaces": {}}, "ingress": [_RULE]},
}
BODIES = [NAMESPACE, NETWORK_POLICY, CLUSTER_POLICY, ADMIN_POLICY]
INVALID = ["", "Reject", "reset", " drop", 1, True, ["drop"], {"drop": ""}, "reject" * 1000]


def annotated(body: Mapping[str, object], annotations: object) -> dict[str, object]:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def deny_with(item: object) -> DenyWith | None:
    assert isinstance(item, Namespace | NetworkPolicy | ClusterNetworkPolicy)
    return item.deny_with


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["kind"])
def test_the_annotation_is_read(body: dict[str, object]) -> None:
    for annotations, expected in (
        (None, None),
        ({}, None),
        ({"netpolq.io/deny-with": None}, None),
        ({"netpolq.io/deny-with": "drop"}, DenyWith.DROP),
        ({"netpolq.io/deny-with": "reject", "other": "x"}, DenyWith.REJECT),
        ({"deny-with": "reject", 7: "reject"}, None),
    ):
        assert deny_with(decode(annotated(body, annotations))) is expected


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["kind"])
@pytest.mark.parametrize("value", INVALID, ids=repr)
def test_an_invalid_value_is_reported_and_the_rest_of_the_object_is_used(body: dict[str, object], value: object) -> None:
    (error,) = decode_all(annotated(body, {"netpolq.io/deny-with": value}))
    assert isinstance(error, DecodeError)
    assert error.partial == decode(body)
    assert error.field == "metadata.annotations['netpolq.io/deny-with']"
    assert error.message.startswith("must be drop or reject, not ")
    assert error.further == ()
    assert error.consequence.startswith("the rest of the ")
    assert error.namespaces == ()


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["kind"])
def test_annotations_that_are_no_object_are_reported_in_the_same_way(body: dict[str, object]) -> None:
    (error,) = decode_all(annotated(body, "netpolq.io/deny-with=reject"))
    assert isinstance(error, DecodeError)
    assert (error.field, error.partial) == ("metadata.annotations", decode(body))


def test_a_policy_that_is_unreadable_otherwise_fails_closed_and_reports_both() -> None:
    body = annotated(NETWORK_POLICY, {"netpolq.io/deny-with": "no"}) | {
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 0}]}]}
    }
    (error,) = decode_all(body)
    assert isinstance(error, DecodeError)
    assert isinstance(error.partial, NetworkPolicy)
    assert (error.partial.ingress, len(error.further)) == ((), 1)


def test_a_policy_that_fails_closed_keeps_what_it_denies_with() -> None:
    body = annotated(NETWORK_POLICY, {"netpolq.io/deny-with": "reject"}) | {"spec": {"podSelector": {}, "ingress": 7}}
    (error,) = decode_all(body)
    assert isinstance(error, DecodeError)
    assert deny_with(error.partial) is DenyWith.REJECT


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["kind"])
def test_a_manifest_with_an_invalid_value_isolates_no_further_pods_and_leaves_the_agent_ready(body: dict[str, object]) -> None:
    content = parse("a.yaml", json.dumps(annotated(body, {"netpolq.io/deny-with": "no"})).encode())
    assert [located.item for located in content.objects] == [decode(body)]
    (rejection,) = content.rejections
    assert not rejection.leaves_open
