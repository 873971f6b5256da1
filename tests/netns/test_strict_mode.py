"""Established connections when policies change: which are cut, which continue, and which are not evaluated again."""

import socket

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from loadtest.testbed import manifests
from tests.netns.test_service_addresses import SERVICE, SERVICES, service
from tests.support import connections
from tests.support.cluster import Cluster
from tests.support.four_pods import LIMIT_S, NODE, PODS, cluster_with, egress, ingress, pods, receives_nothing, talk
from tests.support.leaks import leaking

FAMILIES = pytest.mark.parametrize("family", [4, 6])
FROM_B = {"from": [{"podSelector": pods("b")}]}
FROM_C = {"from": [{"podSelector": pods("c")}]}
PORT = 9001
ACCEPTED = 120
"""The bit of connection labels that the agent sets by default."""

FLAGS = ("--workers", "2", "--no-fanout", "--fail-open=false")


@pytest.fixture(params=["on", pytest.param("off", marks=pytest.mark.caches)], scope="module")
def strict(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An agent in its default mode, with the verdict cache and without."""
    with cluster_with(*FLAGS, "--verdict-cache", request.param) as started:
        yield started


class Connection(NamedTuple):
    """Both ends of a TCP connection."""

    client: socket.socket
    server: socket.socket


@contextmanager
def connection(cluster: Cluster, source: str, destination: str, family: int, to: str | None = None) -> Iterator[Connection]:
    """A TCP connection between two hosts, directly or to a service's address."""
    box = cluster.box
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as sockets:
        listener, client = (
            sockets.enter_context(box.inside(name, lambda: socket.socket(kind, socket.SOCK_STREAM)))
            for name in (destination, source)
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((box.address(destination, family), PORT))
        listener.listen()
        for end in (client, listener):
            end.settimeout(LIMIT_S)
        client.connect((to or box.address(destination, family), PORT))
        server = sockets.enter_context(listener.accept()[0])
        server.settimeout(LIMIT_S)
        yield Connection(client, server)


def goes_on(flow: Connection) -> bool:
    for sender, receiver in ((flow.client, flow.server), (flow.server, flow.client)):
        sender.send(b"x")
        if receiver.recv(1) != b"x":
            return False
    return True


def apply(cluster: Cluster, *policies: manifests.Body) -> None:
    """Replace all policies, and wait until established connections have been evaluated by them too."""
    cluster.apply(policies)
    wait_until_evaluated(cluster)


def wait_until_evaluated(cluster: Cluster) -> None:
    def evaluated() -> bool:
        status = cluster.agent.status()
        return status["strict_mode"]["done_version"] >= status["snapshot_version"]

    cluster.agent.wait_until("established connections are evaluated", evaluated)


def accepted_entries(cluster: Cluster) -> int:
    """The number of the node's connections that have the accepted bit."""
    return connections.labelled(cluster.box, ACCEPTED)


@FAMILIES
def test_a_connection_that_is_denied_now_is_held_in_both_directions_and_goes_on_when_allowed_again(
    strict: Cluster, family: int
) -> None:
    apply(strict, ingress(FROM_B))
    with connection(strict, "x/b", "x/a", family) as flow:
        assert goes_on(flow)
        apply(strict, ingress(FROM_C))
        flow.client.send(b"1")
        flow.server.send(b"2")
        assert receives_nothing(flow.server, flow.client)
        apply(strict, ingress(FROM_B))
        assert flow.server.recv(1) == b"1", "what was held is sent again by TCP itself"
        assert flow.client.recv(1) == b"2"
        assert goes_on(flow)


@FAMILIES
@pytest.mark.parametrize("answering", [False, True])
def test_datagrams_of_a_flow_that_is_denied_now_are_dropped_and_answers_do_not_admit_it_again(
    strict: Cluster, family: int, answering: bool
) -> None:
    apply(strict, ingress(FROM_B))
    with talk(strict, "x/b", "x/a", family) as flow:
        flow.ask(b"1")
        assert flow.server.recv(64) == b"1"
        apply(strict, ingress(FROM_C))
        if answering:
            flow.answer(b"2")
            assert receives_nothing(flow.client)
        flow.ask(b"3")
        assert receives_nothing(flow.server)
        apply(strict, ingress(FROM_B))
        flow.ask(b"4")
        assert flow.server.recv(64) == b"4"


@FAMILIES
@SERVICES
def test_behind_a_service_address_the_pod_is_evaluated(strict: Cluster, extra: tuple[str, ...], family: int) -> None:
    apply(strict, ingress(FROM_B))
    with service(strict, *extra), connection(strict, "x/b", "x/a", family, SERVICE[family]) as flow:
        assert goes_on(flow)
        apply(strict, ingress({"from": [{"podSelector": pods("b")}], "ports": [{"port": PORT}]}))
        assert goes_on(flow)
        apply(strict, ingress({"from": [{"podSelector": pods("b")}], "ports": [{"port": PORT + 1}]}))
        flow.client.send(b"1")
        assert receives_nothing(flow.server)


@FAMILIES
def test_an_egress_policy_reaches_what_its_pod_has_opened(strict: Cluster, family: int) -> None:
    apply(strict, egress({}))
    with connection(strict, "x/b", "outside", family) as out, connection(strict, "x/b", "x/a", family) as near:
        assert goes_on(out)
        assert goes_on(near)
        apply(strict, egress({"to": [{"podSelector": pods("a")}]}))
        assert goes_on(near)
        out.server.send(b"1")
        assert receives_nothing(out.client)


def test_a_pod_that_changes_its_labels_loses_what_they_admitted(strict: Cluster) -> None:
    apply(strict, ingress(FROM_B))
    with connection(strict, "x/b", "x/a", 4) as flow:
        assert goes_on(flow)
        bodies = [
            manifests.namespace("x"),
            *(manifests.pod(host, NODE, pod="c" if host.name == "x/b" else host.name[-1]) for host in PODS),
        ]
        strict.replace([*bodies, ingress(FROM_B)])
        wait_until_evaluated(strict)
        flow.client.send(b"1")
        assert receives_nothing(flow.server)


def test_connections_of_pods_that_nothing_changed_for_are_not_evaluated(strict: Cluster) -> None:
    everywhere = manifests.policy("x/d", podSelector=pods("d"), policyTypes=["Ingress"], ingress=[{}])
    apply(strict, ingress(FROM_B), everywhere)
    with connection(strict, "x/c", "x/d", 4) as other:
        insert(strict, "x/c", "x/d", 4, 2_000)
        before = strict.agent.status()["strict_mode"]["examined"]
        apply(strict, ingress(FROM_B, FROM_C), everywhere)
        apply(strict, ingress(FROM_B), everywhere)
        looked_at = strict.agent.status()["strict_mode"]["examined"] - before
        assert looked_at < 10, "what an earlier test has closed may still retransmit to pod a, and 2,001 others are there"
        assert goes_on(other)


@FAMILIES
@pytest.mark.parametrize("protocol", [socket.IPPROTO_UDP, socket.IPPROTO_SCTP])
def test_ten_thousand_connections_are_evaluated_and_those_of_others_kept(strict: Cluster, family: int, protocol: int) -> None:
    strict.box.run(NODE.name, ["conntrack", "-F"])
    apply(strict, ingress(FROM_B, FROM_C))
    insert(strict, "x/b", "x/a", family, 8_000, protocol)
    insert(strict, "x/c", "x/a", family, 2_000, protocol)
    before = strict.agent.status()["strict_mode"]
    assert accepted_entries(strict) == 10_000
    apply(strict, ingress(FROM_C))
    after = strict.agent.status()["strict_mode"]
    assert accepted_entries(strict) == 2_000
    assert after["denied"] - before["denied"] == 8_000


def insert(cluster: Cluster, source: str, destination: str, family: int, count: int, protocol: int = socket.IPPROTO_UDP) -> None:
    """Insert accepted connections into the kernel's table without packets."""
    connections.insert(cluster.box, source, destination, family, count, protocol=protocol, label=ACCEPTED)


def test_what_was_accepted_before_the_agent_started_is_evaluated_at_its_start() -> None:
    with cluster_with(*FLAGS) as cluster:
        apply(cluster, ingress(FROM_B))
        with connection(cluster, "x/b", "x/a", 4) as denied_soon, connection(cluster, "x/b", "x/d", 4) as untouched:
            assert goes_on(denied_soon)
            cluster.agent.stop()
            assert cluster.agent.manifests is not None
            bodies = [manifests.namespace("x"), *(manifests.pod(host, NODE, pod=host.name[-1]) for host in PODS)]
            manifests.write(cluster.agent.manifests / "all.json", [*bodies, ingress(FROM_C)])
            assert goes_on(denied_soon), "the rules of an agent that has left stay as they were"
            cluster.agent.start()
            wait_until_evaluated(cluster)
            denied_soon.client.send(b"1")
            assert receives_nothing(denied_soon.server)
            assert goes_on(untouched)


def test_without_strict_mode_established_connections_go_on() -> None:
    with cluster_with(*FLAGS, "--strict-mode=false") as cluster:
        cluster.apply([ingress(FROM_B)])
        with connection(cluster, "x/b", "x/a", 4) as flow:
            assert goes_on(flow)
            cluster.apply([ingress(FROM_C)])
            assert goes_on(flow)
            assert cluster.agent.status()["strict_mode"] == {"enabled": False, "done_version": 0, "examined": 0, "denied": 0}


def test_a_connection_that_another_programs_rule_let_in_is_evaluated_when_the_ruleset_is_back() -> None:
    """The rule even wrote the agent's own label, so that no packet of the connection would be evaluated again."""
    with cluster_with(*FLAGS) as cluster:
        apply(cluster, ingress(FROM_C))
        with leaking(cluster, "x/b", "x/a") as leak:
            cluster.agent.wait_until("it is denied", leak.is_quiet)
            cluster.box.nft("flush chain inet netpolq original; add rule inet netpolq original ct label set 120 accept")
            cluster.agent.wait_until("it is evaluated", lambda: cluster.agent.status()["strict_mode"]["denied"] >= 1)
            cluster.agent.wait_until("it is cut", leak.is_quiet)
            assert leak.arrivals_s, "the rule let it in for as long as it was there"
            assert "goto original_v6" in cluster.box.run(NODE.name, ["nft", "list", "ruleset"]).stdout
