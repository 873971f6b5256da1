"""Decoding of network policies."""

from ipaddress import ip_network

import pytest

from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import (
    IPBlock,
    LabelSelector,
    NetworkPolicy,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)
from netpolq.sources.decode.decoder import decode
from tests.unit.sources.decode.bodies import policy_body, refusal, rule_refusal

INGRESS, EGRESS = frozenset({Direction.INGRESS}), frozenset({Direction.EGRESS})
BOTH = INGRESS | EGRESS
EMPTY = LabelSelector()


def policy(spec: object) -> NetworkPolicy:
    decoded = decode(policy_body(spec))
    assert isinstance(decoded, NetworkPolicy)
    return decoded


def ingress_rule(rule: object) -> PolicyRule:
    (decoded,) = policy({"ingress": [rule]}).ingress
    return decoded


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, INGRESS),
        (None, INGRESS),
        ({"policyTypes": None}, INGRESS),
        ({"policyTypes": []}, INGRESS),
        ({"egress": []}, INGRESS),
        ({"egress": None}, INGRESS),
        ({"egress": [{}]}, BOTH),
        ({"ingress": [{}]}, INGRESS),
        ({"policyTypes": ["Egress"]}, EGRESS),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, EGRESS),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, INGRESS),
        ({"policyTypes": ["Ingress", "Egress"]}, BOTH),
        ({"policyTypes": ["Ingress", "Ingress"]}, INGRESS),
    ],
)
def test_policy_types_default_as_the_api_server_defaults_them(spec: object, types: frozenset[Direction]) -> None:
    assert policy(spec).policy_types == types


def test_absent_rules_isolate_and_an_empty_rule_allows_everything() -> None:
    assert policy({}).ingress == policy({"ingress": []}).ingress == policy({"ingress": None}).ingress == ()
    assert policy({"ingress": [{}]}).ingress == (PolicyRule(None, None),)


@pytest.mark.parametrize("rule", [{"from": []}, {"from": None}, {"ports": []}, {"ports": None}, {"from": [], "ports": []}])
def test_empty_lists_in_a_rule_mean_no_restriction(rule: object) -> None:
    assert ingress_rule(rule) == PolicyRule(None, None)


def test_a_peer_with_only_a_namespace_selector_selects_every_pod_there() -> None:
    rule = ingress_rule({"from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}, {"podSelector": {}}]})
    assert rule.peers == (
        PodPeer(LabelSelector((Requirement("team", SelectorOperator.IN, ("a",)),)), EMPTY),
        PodPeer(None, EMPTY),
    )


def test_an_empty_namespace_selector_is_not_an_absent_one() -> None:
    rule = ingress_rule({"from": [{"namespaceSelector": {}, "podSelector": {}}]})
    assert rule.peers == (PodPeer(EMPTY, EMPTY),)


@pytest.mark.parametrize(
    ("peer", "field"),
    [
        ({}, ""),
        (None, ""),
        ([], ""),
        ({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, ""),
        ({"namespaceSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}, ""),
        ({"ipBlock": {}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "10.0.0.0"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "10.0.0.0/33"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "10.0.0.0/255.0.0.0"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "fe80::1%eth0/64"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "::/129"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "10.0.0.0/ 8"}}, ".ipBlock.cidr"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}, ".ipBlock.except[0]"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]}}, ".ipBlock.except[1]"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["2001:db8::/64"]}}, ".ipBlock.except[0]"),
        ({"ipBlock": {"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}}, ".ipBlock.except"),
        ({"podSelector": {"matchLabels": {"app": 1}}}, ".podSelector.matchLabels['app']"),
        ({"podSelector": {"matchLabels": {"a b": "x"}}}, ".podSelector.matchLabels"),
    ],
)  # fmt: skip
def test_a_peer_the_api_server_refuses_is_refused_with_its_field(peer: object, field: str) -> None:
    assert rule_refusal({"from": [peer]}).field == f"spec.ingress[0].from[0]{field}"


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ({"key": "a", "operator": "In"}, "values"),
        ({"key": "a", "operator": "NotIn", "values": []}, "values"),
        ({"key": "a", "operator": "In", "values": ["a b"]}, "values[0]"),
        ({"key": "a", "operator": "In", "values": [None]}, "values[0]"),
        ({"key": "a", "operator": "Exists", "values": ["x"]}, "values"),
        ({"key": "a", "operator": "DoesNotExist", "values": ["x"]}, "values"),
        ({"key": "a", "operator": "exists"}, "operator"),
        ({"key": "a"}, "operator"),
        ({"operator": "Exists"}, "key"),
    ],
)
def test_a_requirement_the_api_server_refuses_is_refused_with_its_field(expression: object, field: str) -> None:
    error = rule_refusal({"from": [{"podSelector": {"matchExpressions": [expression]}}]})
    assert error.field == f"spec.ingress[0].from[0].podSelector.matchExpressions[0].{field}"


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({}, PolicyPort(Protocol.TCP)),
        ({"protocol": None, "port": None}, PolicyPort(Protocol.TCP)),
        ({"protocol": "UDP"}, PolicyPort(Protocol.UDP)),
        ({"port": 80}, PolicyPort(Protocol.TCP, 80)),
        ({"port": 80, "endPort": 80}, PolicyPort(Protocol.TCP, 80, 80)),
        ({"port": 1, "endPort": 65535, "protocol": "SCTP"}, PolicyPort(Protocol.SCTP, 1, 65535)),
        ({"port": "http"}, PolicyPort(Protocol.TCP, "http")),
        ({"port": "a-1-b-234567890"}, PolicyPort(Protocol.TCP, "a-1-b-234567890")),
    ],
)
def test_ports(port: object, expected: PolicyPort) -> None:
    assert ingress_rule({"ports": [port]}).ports == (expected,)


@pytest.mark.parametrize(
    ("port", "field"),
    [
        (None, ""),
        ({"protocol": ""}, ".protocol"),
        ({"protocol": "tcp"}, ".protocol"),
        ({"protocol": "ICMP"}, ".protocol"),
        ({"protocol": 6}, ".protocol"),
        ({"port": 0}, ".port"),
        ({"port": 65536}, ".port"),
        ({"port": -1}, ".port"),
        ({"port": True}, ".port"),
        ({"port": 80.0}, ".port"),
        ({"port": float("nan")}, ".port"),
        ({"port": "80"}, ".port"),
        ({"port": ""}, ".port"),
        ({"port": "HTTP"}, ".port"),
        ({"port": "-http"}, ".port"),
        ({"port": "ht--tp"}, ".port"),
        ({"port": "http-"}, ".port"),
        ({"port": "http\n"}, ".port"),
        ({"port": "abcdefghijklmnop"}, ".port"),
        ({"endPort": 80}, ".endPort"),
        ({"port": "http", "endPort": 80}, ".endPort"),
        ({"port": 80, "endPort": 79}, ".endPort"),
        ({"port": 80, "endPort": 65536}, ".endPort"),
        ({"port": 80, "endPort": "90"}, ".endPort"),
    ],
)
def test_a_port_the_api_server_refuses_is_refused_with_its_field(port: object, field: str) -> None:
    assert rule_refusal({"ports": [port]}).field == f"spec.ingress[0].ports[0]{field}"


def test_the_other_directions_word_in_a_rule_is_refused_instead_of_admitting_everybody() -> None:
    assert rule_refusal({"to": [{"podSelector": {}}]}).field == "spec.ingress[0].to"
    assert refusal(policy_body({"egress": [{"from": [{"podSelector": {}}]}]})).field == "spec.egress[0].from"


def test_a_rule_that_is_null_is_refused_instead_of_admitting_everybody() -> None:
    assert rule_refusal(None).field == "spec.ingress[0]"


def test_ip_blocks_lose_host_bits_and_exceptions_are_sorted_and_unique() -> None:
    block = {"cidr": "10.1.2.3/8", "except": ["10.200.0.1/16", "10.3.0.0/16", "10.200.0.0/16", "10.3.0.0/24"]}
    assert ingress_rule({"from": [{"ipBlock": block}]}).peers == (
        IPBlock(ip_network("10.0.0.0/8"), (ip_network("10.3.0.0/16"), ip_network("10.3.0.0/24"), ip_network("10.200.0.0/16"))),
    )


@pytest.mark.parametrize(
    ("cidr", "expected"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:10.0.0.0/95", "::fffe:0:0/95"),
        ("::/0", "::/0"),
        ("2001:db8::1/64", "2001:db8::/64"),
    ],
)
def test_ipv4_mapped_blocks_are_the_ipv4_blocks_they_map(cidr: str, expected: str) -> None:
    assert ingress_rule({"from": [{"ipBlock": {"cidr": cidr}}]}).peers == (IPBlock(ip_network(expected)),)


def test_equal_selectors_written_differently_are_equal() -> None:
    one = policy({"podSelector": {"matchLabels": {"a": "1", "b": "2"}}})
    other = policy(
        {
            "podSelector": {
                "matchLabels": {"b": "2"},
                "matchExpressions": [
                    {"key": "b", "operator": "In", "values": ["2", "2"]},
                    {"key": "a", "operator": "In", "values": ["1"]},
                ],
            }
        }
    )
    assert one.pod_selector == other.pod_selector
    assert one.pod_selector.requirements == (
        Requirement("a", SelectorOperator.IN, ("1",)),
        Requirement("b", SelectorOperator.IN, ("2",)),
    )


def test_every_operator_is_read() -> None:
    expressions = [
        {"key": "example.com/z", "operator": "NotIn", "values": ["y", "x", ""]},
        {"key": "a", "operator": "Exists", "values": []},
        {"key": "a", "operator": "DoesNotExist"},
    ]
    assert policy({"podSelector": {"matchExpressions": expressions}}).pod_selector.requirements == (
        Requirement("a", SelectorOperator.DOES_NOT_EXIST, ()),
        Requirement("a", SelectorOperator.EXISTS, ()),
        Requirement("example.com/z", SelectorOperator.NOT_IN, ("", "x", "y")),
    )


# --- policies that cannot be understood


def test_a_policy_with_an_unreadable_rule_keeps_isolating_what_it_selects_and_admits_nothing() -> None:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}, {"ports": [{"port": 0}]}], "egress": [{}]}
    error = refusal(policy_body(spec))
    assert error.field == "spec.ingress[1].ports[0].port"
    assert error.partial == NetworkPolicy(
        namespace="shop",
        name="web",
        pod_selector=LabelSelector((Requirement("app", SelectorOperator.IN, ("web",)),)),
        policy_types=BOTH,
    )


def test_a_policy_with_an_unreadable_selector_isolates_every_pod_of_its_namespace() -> None:
    error = refusal(policy_body({"podSelector": {"matchLabels": {"app": True}}, "policyTypes": ["Egress"], "egress": [{}]}))
    assert error.field == "spec.podSelector.matchLabels['app']"
    assert error.partial == NetworkPolicy(namespace="shop", name="web", pod_selector=EMPTY, policy_types=EGRESS)


@pytest.mark.parametrize("types", ["Ingress", ["ingress"], [None], [["Ingress"]], ["Ingress", "Egress", "Ingress"], {}, 1])
def test_a_policy_with_unreadable_types_isolates_in_both_directions(types: object) -> None:
    error = refusal(policy_body({"policyTypes": types, "ingress": [{}]}))
    assert error.field.startswith("spec.policyTypes")
    assert error.partial == NetworkPolicy(namespace="shop", name="web", pod_selector=EMPTY, policy_types=BOTH)


@pytest.mark.parametrize("egress", [{}, "x", [None]])
def test_types_that_depend_on_unreadable_egress_rules_are_both(egress: object) -> None:
    partial = refusal(policy_body({"egress": egress})).partial
    assert isinstance(partial, NetworkPolicy)
    assert partial.policy_types == BOTH


@pytest.mark.parametrize("spec", ["text", [], 1, True])
def test_a_policy_with_an_unreadable_spec_isolates_its_namespace_in_both_directions(spec: object) -> None:
    assert refusal(policy_body(spec)).partial == NetworkPolicy(
        namespace="shop", name="web", pod_selector=EMPTY, policy_types=BOTH
    )


@pytest.mark.parametrize("name", [None, "", "Web", "web_1", "-web", 7, "a" * 254, "web\n"])
def test_a_policy_with_an_unusable_name_isolates_all_the_same(name: object) -> None:
    error = refusal(policy_body({"ingress": [{}]}, name=name))
    assert error.field == "metadata.name"
    assert error.partial == NetworkPolicy(namespace="shop", name="", pod_selector=EMPTY, policy_types=INGRESS)


@pytest.mark.parametrize("version", [None, "", 1, "v1", "networking.k8s.io/v2", "extensions/v1beta1"])
def test_a_policy_of_another_or_no_version_isolates_instead_of_being_passed_over(version: object) -> None:
    error = refusal(policy_body({"ingress": [{}]}) | {"apiVersion": version})
    assert error.field == "apiVersion"
    assert error.partial == NetworkPolicy(namespace="shop", name="web", pod_selector=EMPTY, policy_types=INGRESS)


@pytest.mark.parametrize("namespace", [1, "Shop", "a.b", "a" * 64])
def test_nothing_stands_in_for_a_policy_of_an_unreadable_namespace(namespace: object) -> None:
    error = refusal(policy_body({}, namespace=namespace))
    assert (error.field, error.partial) == ("metadata.namespace", None)
