from collections.abc import Sequence

import pytest

from netpolq.addresses import parse_address
from netpolq.decision import RuleDecision
from netpolq.enums import Action, Direction, Reason, Tier, Verdict
from netpolq.policy.evaluator import Explanation
from netpolq.policy.reference import ReferenceEvaluator
from tests.support.clusters import store_of
from tests.support.random_selectors import Body

TCP, UDP, ICMP, GRE = 6, 17, 1, 47


def pod(
    key: str,
    ip: str,
    *,
    node: str = "n1",
    host_ip: str = "10.0.0.254",
    host_network: bool = False,
    ports: Sequence[Body] = (),
    phase: str = "Running",
) -> Body:
    namespace, name = key.split("/")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "hostNetwork": host_network, "containers": [{"name": "c", "ports": list(ports)}]},
        "status": {"podIP": ip, "hostIP": host_ip, "phase": phase},
    }


def policy(key: str, **spec: object) -> Body:
    namespace, name = key.split("/")
    body: Body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
    }
    return {**body, "spec": {"podSelector": {}, **spec}}


def explain(bodies: list[Body], source: str, destination: str, protocol: int = TCP, port: int = 80) -> Explanation:
    return ReferenceEvaluator(store_of(bodies)).explain(parse_address(source), parse_address(destination), protocol, port)


A, B = pod("x/a", "10.0.0.1"), pod("x/b", "10.0.0.2")
FAR = pod("y/far", "10.0.9.1", node="n2", host_ip="10.0.9.254")
DENY_ALL = policy("x/deny", policyTypes=["Ingress", "Egress"])


def test_a_flow_between_unisolated_ends_is_accepted_as_not_isolated() -> None:
    answer = explain([A, B], "10.0.0.1", "10.0.0.2")
    assert (answer.verdict, answer.reason, answer.direction, answer.policy) == (Verdict.ACCEPT, Reason.NOT_ISOLATED, None, None)


def test_a_pod_reaches_itself_whatever_policies_say() -> None:
    answer = explain([A, DENY_ALL], "10.0.0.1", "10.0.0.1")
    assert (answer.verdict, answer.reason, answer.direction, answer.policy) == (Verdict.ACCEPT, Reason.SAME_ADDRESS, None, None)


def test_a_node_reaches_its_own_pods_and_no_others() -> None:
    assert explain([A, FAR, DENY_ALL], "10.0.0.254", "10.0.0.1").reason is Reason.OWN_NODE
    assert explain([A, FAR, DENY_ALL], "10.0.9.254", "10.0.0.1").reason is Reason.DENIED


def test_a_node_address_known_from_another_pod_of_the_node_counts() -> None:
    """The second host address of a dual-homed node is reported by one of its pods only."""
    neighbour = pod("y/neighbour", "10.0.0.3", host_ip="172.16.0.1")
    assert explain([A, neighbour, DENY_ALL], "172.16.0.1", "10.0.0.1").reason is Reason.OWN_NODE


def test_a_pod_reaches_its_own_node_only_if_its_egress_allows_it() -> None:
    answer = explain([A, DENY_ALL], "10.0.0.1", "10.0.0.254")
    assert (answer.verdict, answer.direction, answer.policy) == (Verdict.DROP, Direction.EGRESS, "x/deny")


def test_egress_is_named_first_where_both_directions_deny() -> None:
    answer = explain([A, B, DENY_ALL], "10.0.0.1", "10.0.0.2")
    assert (answer.direction, answer.egress.denies, answer.ingress.denies) == (Direction.EGRESS, True, True)


def test_the_first_isolating_policy_by_name_is_named() -> None:
    bodies = [
        A,
        B,
        policy("x/z", policyTypes=["Ingress"]),
        policy("x/m", policyTypes=["Ingress"]),
        policy("a/a", policyTypes=["Ingress"]),
    ]
    answer = explain(bodies, "10.0.0.1", "10.0.0.2")
    assert (answer.policy, answer.ingress.isolated_by) == ("x/m", ("x/m", "x/z"))


def test_the_first_allowing_policy_and_its_lowest_rule_are_named() -> None:
    closed, open_ = {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}, {"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}
    bodies = [A, B, policy("x/0", ingress=[closed]), policy("x/1", ingress=[closed, open_, {}]), policy("x/2", ingress=[{}])]
    ingress = explain(bodies, "10.0.0.1", "10.0.0.2").ingress
    assert ingress.isolated_by == ("x/0", "x/1", "x/2")
    assert ingress.decision == RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, "x/1", 1, Action.ACCEPT)


def test_a_host_network_pod_is_no_peer_of_a_selector() -> None:
    """Its address is the node's, so it can only be admitted by an address block."""
    host = pod("x/host", "10.0.9.254", node="n2", host_ip="10.0.9.254", host_network=True)
    from_pods = policy("x/pods", ingress=[{"from": [{"podSelector": {}}, {"namespaceSelector": {}}]}])
    from_block = policy("x/block", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.9.254/32"}}]}])
    assert explain([A, host, from_pods], "10.0.9.254", "10.0.0.1").verdict is Verdict.DROP
    assert explain([A, host, from_block], "10.0.9.254", "10.0.0.1").verdict is Verdict.ACCEPT


def test_a_host_network_pod_is_not_isolated() -> None:
    host = pod("x/host", "10.0.9.254", node="n2", host_ip="10.0.9.254", host_network=True)
    assert explain([FAR, host, DENY_ALL], "10.0.9.1", "10.0.9.254").reason is Reason.NOT_ISOLATED


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_completed_pod_gives_its_address_up(phase: str) -> None:
    done = pod("x/done", "10.0.0.2", phase=phase)
    successor = pod("y/successor", "10.0.0.2")
    from_x = policy("x/from-x", ingress=[{"from": [{"podSelector": {}}]}])
    assert explain([A, done, from_x], "10.0.0.2", "10.0.0.1").verdict is Verdict.DROP
    assert explain([A, done, successor, DENY_ALL], "10.0.0.9", "10.0.0.2").reason is Reason.NOT_ISOLATED


def test_an_undeclared_namespace_is_selected_by_its_name() -> None:
    by_name = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}
    allowing = policy("x/from-y", ingress=[{"from": [by_name]}])
    assert explain([A, FAR, allowing], "10.0.9.1", "10.0.0.1").verdict is Verdict.ACCEPT


def test_an_egress_named_port_uses_the_destination_pods_ports() -> None:
    source = pod("x/a", "10.0.0.1", ports=[{"name": "web", "containerPort": 80}])
    destination = pod("x/b", "10.0.0.2", ports=[{"name": "web", "containerPort": 8080}])
    bodies = [source, destination, policy("x/web", policyTypes=["Egress"], egress=[{"ports": [{"port": "web"}]}])]
    assert explain(bodies, "10.0.0.1", "10.0.0.2", port=8080).verdict is Verdict.ACCEPT
    assert explain(bodies, "10.0.0.1", "10.0.0.2", port=80).verdict is Verdict.DROP


def test_an_egress_named_port_never_matches_an_address_without_a_pod() -> None:
    source = pod("x/a", "10.0.0.1", ports=[{"name": "web", "containerPort": 80}])
    bodies = [source, policy("x/web", policyTypes=["Egress"], egress=[{"ports": [{"port": "web"}]}])]
    assert explain(bodies, "10.0.0.1", "192.0.2.1", port=80).verdict is Verdict.DROP


@pytest.mark.parametrize("port", [0, 65535])
def test_a_protocol_alone_is_every_port_from_0_to_65535(port: int) -> None:
    bodies = [A, policy("x/tcp", ingress=[{"ports": [{"protocol": "TCP"}]}])]
    assert explain(bodies, "192.0.2.1", "10.0.0.1", TCP, port).verdict is Verdict.ACCEPT
    assert explain(bodies, "192.0.2.1", "10.0.0.1", UDP, port).verdict is Verdict.DROP


@pytest.mark.parametrize("protocol", [ICMP, GRE])
def test_protocols_without_ports_match_rules_without_ports_alone(protocol: int) -> None:
    every = [{"protocol": name} for name in ("TCP", "UDP", "SCTP")]
    assert explain([A, policy("x/p", ingress=[{"ports": every}])], "192.0.2.1", "10.0.0.1", protocol, 0).verdict is Verdict.DROP
    assert explain([A, policy("x/p", ingress=[{}])], "192.0.2.1", "10.0.0.1", protocol, 0).verdict is Verdict.ACCEPT


def test_a_block_of_all_ipv6_holds_no_ipv4_address() -> None:
    assert (
        explain([A, policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "::/0"}}]}])], "192.0.2.1", "10.0.0.1").policy == "x/p"
    )
