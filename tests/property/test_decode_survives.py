"""Decoding of arbitrary bodies: whatever it is given, it answers, and what it answers is sound."""

import contextlib
import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.enums import Direction
from netpolq.model import LabelSelector, Namespace, NetworkPolicy, Pod
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode, decode_all
from netpolq.sources.decode.problems import MAX_CHARACTERS, MAX_REPORTED
from netpolq.sources.decode.yaml_values import documents
from netpolq.sources.folder.manifest_file import parse
from netpolq.sources.folder.open_file import UnreadableError
from tests.support.sizes import sized

WORDS = [
    "v1", "networking.k8s.io/v1", "Pod", "Namespace", "NetworkPolicy", "List", "PodList", "TCP", "In", "NotIn", "Exists", "Ingress",
    "Egress", "10.0.0.0/8", "10.1.0.0/16", "::/0", "::ffff:10.0.0.1", "http", "Running", "", "\ud800", "a" * 300, "\0",
]  # fmt: skip
FIELDS = [
    "apiVersion", "kind", "metadata", "name", "namespace", "labels", "spec", "status", "podSelector", "namespaceSelector", "matchLabels",
    "matchExpressions", "key", "operator", "values", "policyTypes", "ingress", "egress", "from", "to", "ports", "protocol", "port",
    "endPort", "ipBlock", "cidr", "except", "items", "podIPs", "ip", "containers", "containerPort", "phase", "hostNetwork",
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
LIST = {"apiVersion": "v1", "kind": "List", "items": [POLICY, POD, NAMESPACE]}


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
    body: object = copy.deepcopy(draw(st.sampled_from([POLICY, POD, NAMESPACE, LIST])))
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
        assert isinstance(decoded, Namespace | Pod | NetworkPolicy | Ignored | None)
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


def test_deep_nesting_is_answered() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    check(deep)
    check({"apiVersion": "v1", "kind": "Pod", "metadata": deep})
    check(POLICY | {"spec": {"podSelector": deep, "ingress": deep}})
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
