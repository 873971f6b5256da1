"""Decoding of arbitrary bodies: whatever it is given, it answers, and what it answers is sound."""

import contextlib
import copy

from itertools import zip_longest

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.enums import Action, Direction
from netpolq.model import ClusterNetworkPolicy, LabelSelector, Namespace, NetworkPolicy, Node, Pod
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode, decode_all
from netpolq.sources.decode.problems import MAX_CHARACTERS, MAX_REPORTED
from netpolq.sources.decode.yaml_values import documents
from netpolq.sources.folder.manifest_file import parse
from netpolq.sources.folder.open_file import UnreadableError
from tests.support.cluster_policies import admin_policy, baseline_policy, cluster_policy, rule
from tests.support.sizes import sized

WORDS = [
    "v1", "networking.k8s.io/v1", "Pod", "Namespace", "NetworkPolicy", "List", "PodList", "TCP", "In", "NotIn", "Exists", "Ingress",
    "Egress", "10.0.0.0/8", "10.1.0.0/16", "::/0", "::ffff:10.0.0.1", "http", "Running", "", "\ud800", "a" * 300, "\0",
    "policy.networking.k8s.io/v1alpha1", "policy.networking.k8s.io/v1alpha2", "policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy",
    "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "Node", "ClusterNetworkPolicyList", "Admin", "Baseline", "Accept", "Deny", "Pass",
    "Allow", "default",
]  # fmt: skip
FIELDS = [
    "apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "status", "podSelector", "namespaceSelector", "matchLabels",
    "matchExpressions", "key", "operator", "values", "policyTypes", "ingress", "egress", "from", "to", "ports", "protocol", "port",
    "endPort", "ipBlock", "cidr", "except", "items", "podIPs", "ip", "containers", "containerPort", "phase", "hostNetwork",
    "tier", "priority", "subject", "namespaces", "pods", "networks", "nodes", "domainNames", "action", "protocols", "tcp", "udp", "sctp",
    "destinationPort", "destinationNamedPort", "number", "range", "start", "end", "portNumber", "portRange", "namedPort", "addresses",
    "address", "type",
]  # fmt: skip

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 80, 65535, 65536, 10**4000, -(10**4000)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
keys = st.sampled_from(FIELDS) | st.text(max_size=4) | st.integers() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=25
)

POLICY: dict[str, object] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "w", "namespace": "n"},
    "spec": {
        "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "NotIn", "values": ["v"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    {"podSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}},
                ],
                "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}],
            }
        ],
        "egress": [{"to": [{"podSelector": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}]}],
    },
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"nodeName": "n", "hostNetwork": False, "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
    "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "10.9.9.9"},
}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "b"}}}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n", "labels": {"a": "b"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "10.9.9.9"}, {"type": "Hostname", "address": "n"}]},
}
CLUSTER_POLICY = cluster_policy(
    ingress=[
        {
            "name": "first",
            "action": "Accept",
            "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}}, {"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "http"}],
        },
    ],
    egress=[
        rule("Deny", {"networks": ["10.0.0.0/8", "::/0"]}, {"nodes": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}),
        rule("Pass", protocols=[{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]),
        rule("Accept", {"networks": ["10.0.0.0/8"]}),
    ],
)
ADMIN_POLICY = admin_policy(
    ingress=[{"action": "Allow", "from": [{"namespaces": {}}], "ports": [{"portNumber": {"port": 80}}, {"namedPort": "http"}]}],
    egress=[
        rule("Deny", {"networks": ["10.0.0.0/8"]}, ports=[{"portRange": {"protocol": "UDP", "start": 1, "end": 2}}]),
        rule("Pass"),
    ],
)
CLUSTER_POLICIES = [CLUSTER_POLICY, cluster_policy(version="v1beta1"), ADMIN_POLICY, baseline_policy(egress=[rule("Allow")])]
LIST = {"apiVersion": "v1", "kind": "List", "items": [POLICY, POD, NAMESPACE, NODE, CLUSTER_POLICY]}


def places(value: object) -> list[tuple[object, object]]:
    """Every (container, key) of a nested value."""
    found: list[tuple[object, object]] = []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found.append((value, key))
        found.extend(places(inner))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> object:
    """A valid body of which one to three values were replaced."""
    body: object = copy.deepcopy(draw(st.sampled_from([POLICY, POD, NAMESPACE, NODE, LIST, *CLUSTER_POLICIES])))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(body)))
        container[key] = draw(values)  # type: ignore[index]
    return body


def check(body: object) -> None:
    for item in decode_all(body):
        decoded = item.partial if isinstance(item, DecodeError) else item
        if isinstance(item, DecodeError):
            assert str(item).isprintable()
            assert len(str(item)) < 1000 + 2 * MAX_CHARACTERS * MAX_REPORTED
            assert len(item.further) <= MAX_REPORTED
        assert isinstance(decoded, Namespace | Pod | Node | NetworkPolicy | ClusterNetworkPolicy | Ignored | None)
        if not isinstance(decoded, Ignored | None):
            hash(decoded.key)
            assert str(decoded.key).isascii()
    with contextlib.suppress(DecodeError):
        decode(body)


@given(values)
@settings(max_examples=sized(150))
def test_any_value_is_answered(body: object) -> None:
    check(body)


@given(mutated())
@settings(max_examples=sized(250))
def test_any_mutation_of_a_valid_body_is_answered(body: object) -> None:
    check(body)


@given(st.data(), values)
@settings(max_examples=sized(150))
def test_a_refused_policy_isolates_at_least_what_its_readable_parts_say(data: st.DataObject, value: object) -> None:
    """Whatever one field inside the specification becomes: where that is refused, both directions stay isolated and nothing is admitted."""
    body = copy.deepcopy(POLICY)
    container, key = data.draw(st.sampled_from(places(body["spec"])))
    container[key] = value  # type: ignore[index]
    (item,) = decode_all(body)
    if isinstance(item, DecodeError):
        original = decode(POLICY)
        assert isinstance(original, NetworkPolicy)
        assert isinstance(item.partial, NetworkPolicy)
        assert item.partial.pod_selector in {original.pod_selector, LabelSelector()}
        assert item.partial.policy_types == frozenset(Direction)
        assert (item.partial.ingress, item.partial.egress) == ((), ())


@given(st.data(), st.sampled_from([CLUSTER_POLICY, ADMIN_POLICY]), values)
@settings(max_examples=sized(250))
def test_a_refused_cluster_wide_policy_accepts_no_more_and_denies_no_less(
    data: st.DataObject, original: dict[str, object], value: object
) -> None:
    """Whatever one field inside the specification becomes: each rule is as it was or has failed closed, at its position."""
    body = copy.deepcopy(original)
    container, key = data.draw(st.sampled_from(places(body["spec"])))
    container[key] = value  # type: ignore[index]
    (item,) = decode_all(body)
    before = decode(original)
    assert isinstance(before, ClusterNetworkPolicy)
    if not isinstance(item, DecodeError) or item.partial is None:
        return
    assert isinstance(item.partial, ClusterNetworkPolicy)
    assert (item.partial.tier, item.partial.priority) in {(before.tier, before.priority), (before.tier, 0)}
    for direction in Direction:
        for was, now in zip_longest(before.rules(direction), item.partial.rules(direction)):
            closed = now is not None and (
                now.peers == () if now.action is Action.ACCEPT else (now.peers, now.ports) == (None, None)
            )
            is_replaced = now is None and key == direction.api_name.lower()
            assert closed or is_replaced or now == was or now == was._replace(name="")


def test_deep_nesting_is_answered() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    check(deep)
    check({"apiVersion": "v1", "kind": "Pod", "metadata": deep})
    check(POLICY | {"spec": {"podSelector": deep, "ingress": deep}})
    check(NODE | {"status": {"addresses": deep}})
    check(
        cluster_policy(
            subject={"namespaces": deep},
            egress=[deep, rule(deep), rule("Deny", deep, {"networks": [deep]})],
            ingress=[{"from": deep}],
        )
    )
    lists: object = NAMESPACE
    for _ in range(5_000):
        lists = {"apiVersion": "v1", "kind": "List", "items": [lists]}
    assert list(decode_all(lists)) == list(decode_all(NAMESPACE))


@given(st.binary(max_size=200), st.sampled_from(["a.yaml", "a.json"]))
@settings(max_examples=sized(150))
def test_any_bytes_are_answered(data: bytes, origin: str) -> None:
    with contextlib.suppress(UnreadableError):
        parse(origin, data)


@given(st.text(alphabet="abk:-[]{}&*<!|>'\"#?,\n %~0179._x", max_size=60))
@settings(max_examples=sized(250))
def test_any_yaml_text_is_answered(text: str) -> None:
    list(documents(text))
