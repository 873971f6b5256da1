"""Rules in words."""

from ipaddress import ip_network

import pytest

from netpolq.enums import Action, Direction, Protocol, SelectorOperator
from netpolq.model import (
    ClusterRule,
    DomainPeer,
    IPBlock,
    LabelSelector,
    NodePeer,
    PodPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)
from netpolq.policy.rule_text import rule_text


def label(key: str, *values: str) -> LabelSelector:
    return LabelSelector((Requirement(key, SelectorOperator.IN, values),))


EVERY = LabelSelector()
WEB = label("app", "web")
TCP = Protocol.TCP


@pytest.mark.parametrize(
    ("rule", "direction", "text"),
    [
        (PolicyRule(), Direction.INGRESS, "from everywhere to every port"),
        (PolicyRule(), Direction.EGRESS, "to everywhere on every port"),
        (
            PolicyRule((PodPeer(None, WEB),), (PolicyPort(TCP, 5432),)),
            Direction.INGRESS,
            "from pods app=web in namespace shop to TCP 5432",
        ),
        (
            PolicyRule((PodPeer(label("kubernetes.io/metadata.name", "dns"), EVERY),), (PolicyPort(TCP, 1, 9), PolicyPort(TCP))),
            Direction.EGRESS,
            "to all pods in namespace dns on TCP 1-9 or every TCP port",
        ),
        (
            PolicyRule((IPBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)), PodPeer(EVERY, WEB))),
            Direction.INGRESS,
            "from 10.0.0.0/8 without 10.1.0.0/16 or pods app=web in all namespaces to every port",
        ),
        (
            ClusterRule(Action.ACCEPT, (DomainPeer("*.example.com"), NodePeer(label("zone", "a", "b")), NodePeer(EVERY))),
            Direction.EGRESS,
            "to *.example.com or nodes zone In (a, b) or all nodes on every port",
        ),
        (
            ClusterRule(Action.DENY, None, tuple(PolicyPort(protocol, "web") for protocol in Protocol)),
            Direction.INGRESS,
            "from everywhere to port web",
        ),
        (ClusterRule(Action.ACCEPT, ()), Direction.INGRESS, "matches nothing: the rule cannot be used as written"),
    ],
)
def test_a_rule_says_who_and_where(rule: PolicyRule | ClusterRule, direction: Direction, text: str) -> None:
    assert rule_text(rule, direction, "shop") == text


def test_long_lists_are_cut() -> None:
    rule = PolicyRule(None, tuple(PolicyPort(TCP, number) for number in range(1, 100)))
    assert rule_text(rule, Direction.INGRESS).endswith("TCP 4 or 95 more ports")
