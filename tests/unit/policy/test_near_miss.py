"""Near misses: for a policy that isolates and does not allow a flow, the failing part of its closest rule, as text."""

from collections.abc import Mapping

import pytest

from loadtest.testbed.manifests import namespace, policy, rules_with_large_tables
from netpolq.addresses import parse_address
from netpolq.enums import Direction, Verdict
from netpolq.explain.additions import advice_for
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.flow import parse_protocol
from netpolq.policy.near_miss import Failed, NearMiss, NearMissFinder
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store
from tests.support.clusters import store_of
from tests.support.random_selectors import Body

WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
PG = {"port": 5432}


def pod(key: str, ip: str, labels: dict[str, str], **ports: int) -> Body:
    """A running pod with named TCP ports."""
    own, name = key.split("/")
    container = {"name": "main", "ports": [{"name": port, "containerPort": number} for port, number in ports.items()]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": own, "name": name, "labels": labels},
        "spec": {"containers": [container]},
        "status": {"phase": "Running", "podIP": ip},
    }


def shop(*policies: Mapping[str, object]) -> Store:
    return store_of(
        [
            dict(namespace("shop", team="shop")),
            dict(namespace("other", team="other")),
            pod("shop/db", "10.0.0.1", {"app": "db"}, postgres=5432),
            pod("shop/web", "10.0.0.2", {"app": "web"}),
            pod("shop/cache", "10.0.0.3", {"app": "cache"}),
            pod("other/web", "10.0.0.4", {"app": "web"}),
            *map(dict, policies),
        ]
    )


def misses(store: Store, source: str, port: int, protocol: str = "TCP") -> tuple[NearMiss, ...]:
    """Near misses of the ingress of the database."""
    flow = parse_address(source), parse_address("10.0.0.1"), parse_protocol(protocol), port
    return NearMissFinder(store).find(ReferenceEvaluator(store).explain(*flow), *flow).ingress


CASES = {
    "no rules": ([], "10.0.0.2", "TCP", 80, Failed.NO_RULES, "spec.ingress has no rules"),
    "another port": (
        [{"from": [WEB], "ports": [PG]}],
        *("10.0.0.2", "TCP", 80, Failed.PORT),
        "spec.ingress[0]: port: TCP 5432 allowed, not TCP 80",
    ),
    "outside of a range": (
        [{"ports": [{"port": 5000, "endPort": 5432}]}],
        *("10.0.0.2", "TCP", 5433, Failed.PORT),
        "spec.ingress[0]: port: TCP 5000-5432 allowed, not TCP 5433",
    ),
    "a name that means another number": (
        [{"ports": [{"port": "postgres"}]}],
        *("10.0.0.2", "TCP", 80, Failed.PORT),
        "spec.ingress[0]: port: TCP postgres allowed, not TCP 80; pod shop/db: postgres is TCP 5432",
    ),
    "a name that the pod does not have": (
        [{"ports": [{"port": "pg"}]}],
        *("10.0.0.2", "TCP", 5432, Failed.PORT),
        "spec.ingress[0]: port: TCP pg allowed, not TCP 5432; pod shop/db: has no TCP port named pg",
    ),
    "another protocol": (
        [{"ports": [PG]}],
        *("10.0.0.2", "UDP", 5432, Failed.PROTOCOL),
        "spec.ingress[0]: protocol: TCP 5432 allowed, not UDP",
    ),
    "a protocol without ports": (
        [{"ports": [PG, {"protocol": "UDP"}]}],
        *("10.0.0.2", "ICMP", 0, Failed.PROTOCOL),
        "spec.ingress[0]: protocol: a rule with ports (TCP 5432, every UDP port) allows TCP, UDP and SCTP only",
    ),
    "another label": (
        [{"from": [WEB]}],
        *("10.0.0.3", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: pod shop/cache has app=cache, podSelector wants app=web",
    ),
    "a label that is not there": (
        [{"from": [{"podSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}]}],
        *("10.0.0.3", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: pod shop/cache has no label tier, podSelector wants tier Exists",
    ),
    "another namespace": (
        [{"from": [WEB]}],
        *("10.0.0.4", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: without namespaceSelector only pods of namespace shop match, not of other",
    ),
    "a namespace without the label": (
        [{"from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}, **WEB}]}],
        *("10.0.0.4", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: namespace other has team=other, namespaceSelector wants team=shop",
    ),
    "an address that no pod owns": (
        [{"from": [WEB]}],
        *("192.0.2.1", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: selectors match pods only, and no pod owns 192.0.2.1",
    ),
    "outside of a block": (
        [{"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}],
        *("192.0.2.1", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: 192.0.2.1 is not in ipBlock 198.51.100.0/24",
    ),
    "in an except of a block": (
        [{"from": [{"ipBlock": {"cidr": "192.0.0.0/16", "except": ["192.0.2.0/24"]}}]}],
        *("192.0.2.1", "TCP", 80, Failed.PEER),
        "spec.ingress[0]: peer: 192.0.2.1 is in ipBlock 192.0.0.0/16 and in its except 192.0.2.0/24",
    ),
    "both": (
        [{"from": [WEB], "ports": [PG]}],
        *("10.0.0.3", "TCP", 80, Failed.PEER_AND_PORT),
        "spec.ingress[0]: peer: pod shop/cache has app=cache, podSelector wants app=web, and port: TCP 5432 allowed, not TCP 80",
    ),
    "the closest of several rules": (
        [
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": [PG]},
            {"from": [{"podSelector": {"matchLabels": {"app": "x", "tier": "y"}}}], "ports": [{"port": 80}]},
            {"from": [WEB], "ports": [{"port": 80}]},
        ],
        *("10.0.0.3", "TCP", 80, Failed.PEER),
        "spec.ingress[2]: peer: pod shop/cache has app=cache, podSelector wants app=web",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_failing_part_of_the_closest_rule_is_reported(name: str) -> None:
    rules, source, protocol, port, failed, why = CASES[name]
    (miss,) = misses(shop(policy("shop/guard", ingress=rules, policyTypes=["Ingress"])), source, port, protocol)
    assert miss.failed is failed
    assert miss.why.startswith(why)


def test_a_rule_with_thousands_of_ports_and_values_is_reported_in_a_short_line() -> None:
    ports = [{"port": 1000 + number} for number in range(1000)]
    values = [f"v{number}" for number in range(1000)]
    selector = {"matchExpressions": [{"key": "app", "operator": "In", "values": values}]}
    rules = [{"from": [{"podSelector": selector}], "ports": ports}]
    (miss,) = misses(shop(policy("shop/guard", ingress=rules)), "10.0.0.3", 80)
    assert "TCP 1000, TCP 1001, TCP 1002, TCP 1003, 996 more entries allowed, not TCP 80" in miss.why
    assert "996 more values" in miss.why
    assert len(miss.why) < 400


def test_of_several_policies_the_smallest_addition_is_advised() -> None:
    """An entry in a list of one policy rather than a whole rule of another, which comes first by name."""
    found = misses(
        shop(policy("shop/a", policyTypes=["Ingress"]), policy("shop/b", ingress=[{"from": [WEB], "ports": [PG]}])),
        "10.0.0.2",
        80,
    )
    assert [miss.policy for miss in found] == ["shop/a", "shop/b"]
    assert advice_for(found, Direction.INGRESS) == 'add {"protocol":"TCP","port":80} to spec.ingress[0].ports of shop/b'


def test_rules_whose_merged_tables_would_be_too_large_allow_what_they_say() -> None:
    store = shop(policy("shop/greedy", ingress=rules_with_large_tables("from")))
    source, destination = parse_address("192.0.2.1"), parse_address("10.0.0.1")
    evaluator, reference = CompiledEvaluator(store), ReferenceEvaluator(store)
    verdicts = set()
    for port in range(1, 8000, 97):
        explanation = evaluator.explain(source, destination, 6, port)
        assert explanation == reference.explain(source, destination, 6, port)
        verdicts.add(explanation.verdict)
    assert verdicts == set(Verdict)
