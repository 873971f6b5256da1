"""The running agent on real packets: what passes, and what is queued."""

import socket

from itertools import product

import pytest

from loadtest.testbed.manifests import Body, policy, rules_with_large_tables
from loadtest.testbed.probe import Probe
from tests.support.cluster import Cluster
from tests.support.four_pods import (
    EVERYTHING,
    LIMIT_S,
    OUTSIDE,
    PODS,
    SERVED,
    egress,
    ingress,
    pods,
    reached,
    receives_nothing,
    talk,
    through,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_without_policies_everything_passes_and_nothing_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
    assert reached(cluster, "outside", "x/a", family) == EVERYTHING
    assert cluster.agent.packets_queued() == before


@FAMILIES
@pytest.mark.parametrize(("protocol", "port"), SERVED)
def test_a_port_of_a_protocol_is_admitted_and_nothing_else(cluster: Cluster, protocol: str, port: int, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}], "ports": [{"protocol": protocol, "port": port}]})])
    assert reached(cluster, "x/b", "x/a", family) == {(protocol, port)}
    assert reached(cluster, "x/c", "x/a", family) == set()


@FAMILIES
def test_icmp_is_admitted_by_a_rule_without_ports_only(cluster: Cluster, family: int) -> None:
    every_port = [{"protocol": protocol} for protocol in ("TCP", "UDP", "SCTP")]
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]}, {"from": [{"podSelector": pods("c")}], "ports": every_port})])
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING
    assert reached(cluster, "x/c", "x/a", family) == EVERYTHING - {("ICMP", 0)}


@FAMILIES
def test_pods_that_no_policy_selects_are_left_alone(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress(), egress()])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/c", "x/d", family) == EVERYTHING
    assert reached(cluster, "x/d", "outside", family) == EVERYTHING
    assert cluster.agent.packets_queued() == before


@FAMILIES
def test_a_flow_within_the_node_needs_both_its_ends(cluster: Cluster, family: int) -> None:
    to_a, from_b = {"to": [{"podSelector": pods("a")}]}, {"from": [{"podSelector": pods("b")}]}
    for policies, expected in (
        ([ingress(), egress()], set()),
        ([ingress(from_b), egress()], set()),
        ([ingress(), egress(to_a)], set()),
        ([ingress(from_b), egress(to_a)], EVERYTHING),
    ):
        cluster.apply(policies)
        assert reached(cluster, "x/b", "x/a", family) == expected


def test_a_flow_within_the_node_is_queued_once_for_both_its_ends(cluster: Cluster) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]}), egress({"to": [{"podSelector": pods("a")}]})])
    before = cluster.agent.packets_queued()
    assert len(through(cluster, [Probe("x/b", cluster.box.address("x/a", 4), "TCP", 80)])) == 1
    assert cluster.agent.packets_queued() == before + 1


@FAMILIES
def test_a_client_outside_is_evaluated_by_its_address(cluster: Cluster, family: int) -> None:
    blocks = [{"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]
    cluster.apply([ingress({"from": blocks, "ports": [{"port": 80}]})])
    assert reached(cluster, "outside", "x/a", family) == {("TCP", 80)}
    assert reached(cluster, "x/b", "x/a", family) == set()


@FAMILIES
def test_only_the_first_packet_of_a_tcp_connection_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
    before = cluster.agent.packets_queued()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with cluster.box.inside("x/b", lambda: socket.socket(kind, socket.SOCK_STREAM)) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect((cluster.box.address("x/a", family), 80))
        for number in range(50):
            connection.sendall(bytes([number]))
            assert connection.recv(1) == bytes([number])
    assert cluster.agent.packets_queued() == before + 1


@FAMILIES
def test_only_the_first_of_many_datagrams_without_an_answer_is_queued(cluster: Cluster, family: int) -> None:
    cluster.apply([ingress({"from": [{"podSelector": pods("b")}]})])
    before = cluster.agent.packets_queued()
    with talk(cluster, "x/b", "x/a", family) as flow:
        for number in range(100):
            flow.ask(bytes([number]))
            assert flow.server.recv(1) == bytes([number])
    assert cluster.agent.packets_queued() == before + 1


def test_every_packet_of_a_denied_flow_is_evaluated(cluster: Cluster) -> None:
    cluster.apply([ingress()])
    before = cluster.agent.packets_queued()
    with talk(cluster, "x/b", "x/a", 4) as flow:
        for _ in range(20):
            flow.ask(b"no")
        assert receives_nothing(flow.server)
    assert cluster.agent.packets_queued() == before + 20


@FAMILIES
def test_a_reply_does_not_admit_a_connection_again_that_is_denied_now(cluster: Cluster, family: int) -> None:
    """The connection is older than the policy. As new flows its replies would be allowed: nothing isolates a's egress."""
    cluster.apply([])
    with talk(cluster, "x/b", "x/a", family) as flow:
        flow.ask(b"before")
        assert flow.server.recv(64) == b"before"
        cluster.apply([ingress()])
        flow.answer(b"reply")
        assert receives_nothing(flow.client)
        flow.ask(b"after")
        assert receives_nothing(flow.server)
        assert reached(cluster, "x/a", "x/b", family) == EVERYTHING


@FAMILIES
def test_replies_of_an_older_connection_pass_when_a_policy_allows_it(cluster: Cluster, family: int) -> None:
    """Both ends are isolated for the first time while the flow is under way; the next packet happens to be a reply."""
    cluster.apply([])
    with talk(cluster, "x/b", "x/a", family) as flow:
        flow.ask(b"before")
        assert flow.server.recv(64) == b"before"
        port: Body = {"protocol": "UDP", "port": 9000}
        cluster.apply(
            [
                ingress({"from": [{"podSelector": pods("b")}], "ports": [port]}),
                egress({"to": [{"podSelector": pods("a")}], "ports": [port]}),
            ]
        )
        flow.answer(b"reply")
        assert flow.client.recv(64) == b"reply"
        flow.ask(b"after")
        assert flow.server.recv(64) == b"after"


@FAMILIES
def test_the_node_reaches_isolated_pods(cluster: Cluster, family: int) -> None:
    cluster.apply([policy("x/isolate", policyTypes=["Ingress", "Egress"])])
    assert reached(cluster, "node", "x/a", family) == EVERYTHING
    assert reached(cluster, "outside", "x/a", family) == set()


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_user_of_the_node_without_privileges_reaches_isolated_pods(cluster: Cluster, protocol: str, family: int) -> None:
    """As kubelet's probes and host services that do not run as root do."""
    cluster.apply([policy("x/isolate", policyTypes=["Ingress", "Egress"])])
    script = f"exec 3<>/dev/{protocol}/{cluster.box.address('x/a', family)}/80 && printf hello >&3 && head -c 5 <&3"
    done = cluster.box.run("node", ["setpriv", "--reuid=65534", "--clear-groups", "timeout", "5", "bash", "-c", script])
    assert (done.stdout, done.stderr) == ("hello", "")


@FAMILIES
def test_what_a_pod_sends_to_its_own_node_is_evaluated(cluster: Cluster, family: int) -> None:
    cluster.apply([egress()])
    assert reached(cluster, "x/b", "node", family) == set()
    assert reached(cluster, "x/c", "node", family) == EVERYTHING
    blocks = [{"ipBlock": {"cidr": "10.79.0.1/32"}}, {"ipBlock": {"cidr": "fd79::1/128"}}]
    cluster.apply([egress({"to": blocks, "ports": [{"port": 80}]})])
    assert reached(cluster, "x/b", "node", family) == {("TCP", 80)}


def test_address_pairs_are_spread_over_both_queues(cluster: Cluster) -> None:
    """Without CPU fanout the kernel chooses the queue by the pair of addresses."""
    cluster.apply([policy("x/open", policyTypes=["Ingress"], ingress=[{}])])
    before = {queue.queue_num: queue.id_sequence for queue in cluster.agent.queues()}
    probes = [
        Probe(source.name, destination.address(family), "TCP", 80)
        for source, destination, family in product((*PODS, OUTSIDE), PODS, (4, 6))
        if source is not destination
    ]
    assert all(result.reached for result in cluster.box.probe(probes))
    after = {queue.queue_num: queue.id_sequence for queue in cluster.agent.queues()}
    queued = {number: after[number] - before[number] for number in after if after[number] > before[number]}
    assert set(queued) == {100, 101}
    assert sum(queued.values()) == len(probes)


@FAMILIES
def test_an_edit_is_in_force_for_new_connections(cluster: Cluster, family: int) -> None:
    for port in (80, 81, 80):
        cluster.apply([ingress({"ports": [{"port": port}, {"protocol": "UDP", "port": port}]})])
        assert reached(cluster, "x/b", "x/a", family) == {("TCP", port), ("UDP", port)}
    cluster.apply([])
    assert reached(cluster, "x/b", "x/a", family) == EVERYTHING


def test_rules_with_large_tables_are_in_force_beside_the_others_of_their_policy(cluster: Cluster) -> None:
    cluster.apply(
        [ingress(*rules_with_large_tables("from"), {"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 80}]})]
    )
    assert reached(cluster, "outside", "x/a", 4) == {("TCP", 80)}
    assert cluster.agent.status()["rejected"] == []
