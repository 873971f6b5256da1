"""Decoding of API bodies."""

from typing import Any

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import Protocol
from netpolq.model import (
    NamedPort,
    Namespace,
    Pod,
)
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode, decode_all
from tests.unit.sources.decode.bodies import policy_body, refusal, rule_refusal


def pod_body(**parts: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}} | parts


def decoded_pod(**parts: object) -> Pod:
    decoded = decode(pod_body(**parts))
    assert isinstance(decoded, Pod)
    return decoded


def test_a_namespace_always_carries_its_name_label() -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert decode(body) == Namespace(name="shop", labels={"kubernetes.io/metadata.name": "shop"})
    body["metadata"] = {"name": "shop", "labels": {"team": "a", "kubernetes.io/metadata.name": "other"}}
    assert decode(body) == Namespace(name="shop", labels={"team": "a", "kubernetes.io/metadata.name": "shop"})


@pytest.mark.parametrize("value", [1, True, 1.5, [], "a b", "a" * 64, "x\n"])
def test_a_label_value_that_is_none_leaves_the_others_in_use(value: object) -> None:
    error = refusal({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"bad": value, "ok": ""}}})
    assert error.field == "metadata.labels['bad']"
    assert error.partial == Namespace(name="n", labels={"ok": "", "kubernetes.io/metadata.name": "n"})


@pytest.mark.parametrize("key", ["", "a/b/c", "/a", "A.com/a", "a" * 64, "-a", "a/", "ä"])
def test_label_keys_are_checked(key: str) -> None:
    assert refusal(pod_body(metadata={"name": "p", "labels": {key: "x"}})).field == "metadata.labels"


def test_a_pod_is_reduced_to_what_is_used() -> None:
    body: dict[str, Any] = {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "labels": {"app.kubernetes.io/name": "Web"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "unknown": {},
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {
                    "ports": [
                        {"name": "http", "containerPort": 80},
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"containerPort": 99},
                    ]
                },
                {"ports": [{"name": "http", "containerPort": 8080}]},
            ],
            "initContainers": [
                {"ports": [{"name": "gone", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "sidecar", "containerPort": 2}]},
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.5",
            "podIPs": [{"ip": "10.0.0.5"}, {"ip": "2001:db8::5"}],
            "hostIP": "192.0.2.1",
            "hostIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
        },
    }
    assert decoded_pod(**body) == Pod(
        namespace="shop",
        name="web-1",
        labels={"app.kubernetes.io/name": "Web"},
        ips=(parse_address("10.0.0.5"), parse_address("2001:db8::5")),
        host_ips=(parse_address("192.0.2.1"), parse_address("2001:db8::1")),
        node_name="node-1",
        created="2026-01-02T03:04:05Z",
        named_ports=(
            NamedPort("http", Protocol.TCP, 80),
            NamedPort("dns", Protocol.UDP, 53),
            NamedPort("http", Protocol.TCP, 8080),
            NamedPort("sidecar", Protocol.TCP, 2),
        ),
    )


@pytest.mark.parametrize(
    ("phase", "completed", "running"),
    [
        ("Running", False, True),
        (None, False, True),
        ("Pending", False, False),
        ("Unknown", False, False),
        ("Succeeded", True, False),
        ("Failed", True, False),
    ],
)
def test_phases(phase: str | None, completed: bool, running: bool) -> None:
    pod = decoded_pod(status={"phase": phase})
    assert (pod.completed, pod.running) == (completed, running)


def test_namespace_defaults_to_default_and_host_network_to_false() -> None:
    pod = decoded_pod()
    assert (pod.namespace, pod.host_network, pod.ips, pod.created) == ("default", False, (), "")
    assert decoded_pod(spec={"hostNetwork": True}).host_network


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"status": {"podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "10.0.0.256"}]}}, "status.podIPs[1].ip"),
        ({"status": {"podIP": "10.0.0.5", "podIPs": [None, {"ip": "10.0.0.5"}]}}, "status.podIPs[0]"),
        ({"status": {"podIP": "10.0.0.5", "hostIP": 7}}, "status.hostIP"),
        ({"status": {"podIP": "10.0.0.5", "phase": "running"}}, "status.phase"),
        ({"status": {"podIP": "10.0.0.5"}, "spec": {"hostNetwork": "yes"}}, "spec.hostNetwork"),
        ({"status": {"podIP": "10.0.0.5"}, "spec": {"containers": {}}}, "spec.containers"),
        ({"status": {"podIP": "10.0.0.5"}, "spec": []}, "spec"),
        ({"status": {"podIP": "10.0.0.5"}, "metadata": {"name": "p", "creationTimestamp": "today"}}, "metadata.creationTimestamp"),
    ],
)  # fmt: skip
def test_the_usable_part_of_a_pod_stays_in_use(parts: dict[str, object], field: str) -> None:
    error = refusal(pod_body(**parts))
    assert error.field == field
    assert error.partial == Pod(namespace="default", name="p", labels={}, ips=(parse_address("10.0.0.5"),))


def test_an_unreadable_named_port_leaves_the_others_in_use() -> None:
    ports = [{"name": "a", "containerPort": 0}, {"name": "b", "containerPort": 2}, {"name": "UPPER", "containerPort": 3}]
    error = refusal(pod_body(spec={"containers": [{"ports": ports}]}))
    assert error.field == "spec.containers[0].ports[0].containerPort"
    assert isinstance(error.partial, Pod)
    assert error.partial.named_ports == (NamedPort("b", Protocol.TCP, 2),)


# --- kinds and lists


@pytest.mark.parametrize(
    ("version", "kind", "ignored"),
    [
        ("v1", "ConfigMap", "ConfigMap"),
        ("apps/v1", "Deployment", "Deployment"),
        ("crd.projectcalico.org/v1", "NetworkPolicy", "NetworkPolicy of another API group"),
        ("example.com/v1", "Pod", "Pod of another API group"),
        (None, "Something", "Something"),
    ],
)
def test_other_kinds_are_ignored(version: str | None, kind: str, ignored: str) -> None:
    assert decode({"apiVersion": version, "kind": kind}) == Ignored(ignored)


@pytest.mark.parametrize("body", [None, [], "text", 1, {}, {"kind": None}, {"kind": 7}, {"kind": "a b"}, {"kind": "x" * 64}])
def test_what_is_no_object_at_all_is_refused(body: object) -> None:
    assert refusal(body).partial is None


def test_lists_are_expanded_and_typed_lists_need_no_kind_per_item() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            namespace,
            {"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "p"}}]},
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [{"metadata": {"name": "w"}}]},
            {"apiVersion": "v1", "kind": "NamespaceList", "items": None},
            {"apiVersion": "v1", "kind": "Secret"},
        ],
    }
    decoded = list(decode_all(listed))
    assert [str(item.key) for item in decoded if not isinstance(item, Ignored | DecodeError)] == [
        "Namespace n",
        "Pod default/p",
        "NetworkPolicy default/w",
    ]
    assert decoded[-1] == Ignored("Secret")


def test_a_bad_item_of_a_list_does_not_hide_the_others_and_is_named_by_its_path() -> None:
    items = [{"metadata": {"name": "a"}}, None, 5, {"metadata": {"name": "B"}}, {"metadata": {"name": "c"}}]
    decoded = list(decode_all({"apiVersion": "v1", "kind": "PodList", "items": items}))
    assert [item.field if isinstance(item, DecodeError) else item.name for item in decoded if not isinstance(item, Ignored)] == [
        "a",
        "items[1].kind",
        "items[2]",
        "items[3].metadata.name",
        "c",
    ]


def test_a_list_without_version_is_reported_and_its_items_are_used() -> None:
    error, pod = decode_all({"kind": "List", "items": [pod_body()]})
    assert isinstance(error, DecodeError)
    assert error.field == "apiVersion"
    assert isinstance(pod, Pod)


def test_messages_quote_little_of_what_was_written() -> None:
    assert len(str(refusal(policy_body({}, name="x" * 100_000)))) < 300
    assert len(str(rule_refusal({"ports": [{"port": 10**100_000}]}))) < 300
