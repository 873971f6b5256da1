"""Cluster-wide policies on real packets: what they queue, and established connections when a policy, a label or a node changes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from loadtest.testbed import manifests
from loadtest.testbed.manifests import Body, policy
from loadtest.testbed.probe import Probe
from tests.netns.test_service_addresses import MASQUERADE, SERVICE, service
from tests.netns.test_strict_mode import Connection, connection, goes_on, wait_until_evaluated
from tests.support.cluster import Cluster
from tests.support.cluster_policies import cluster_policy, node
from tests.support.four_pods import (
    ATTEMPTS,
    EVERYTHING,
    NODE,
    PODS,
    cluster_with,
    egress,
    pod_peer,
    pods,
    reached,
    receives_nothing,
    through,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])
OUTSIDE = ("192.0.2.7", "2001:db8::7")


@pytest.fixture(params=["on", pytest.param("off", marks=pytest.mark.caches)], scope="module")
def strict(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An agent in its default mode, with the verdict cache and without."""
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false", "--verdict-cache", request.param) as started:
        yield started


def to_a(action: str, peer: str = "b", tier: str = "Admin", priority: int = 10) -> Body:
    """A policy for the ingress of pod a with one rule."""
    return cluster_policy(
        f"{tier}-{priority}".lower(),
        subject=pod_peer("a"),
        tier=tier,
        priority=priority,
        ingress=[{"action": action, "from": [pod_peer(peer)]}],
    )


DENY, PASS, ACCEPT = to_a("Deny"), to_a("Pass"), to_a("Accept")
EARLIER_ACCEPT = to_a("Accept", priority=5)
BASELINE_DENY, BASELINE_ACCEPT = to_a("Deny", tier="Baseline"), to_a("Accept", tier="Baseline")
OPEN = policy("x/open", podSelector=pods("a"), policyTypes=["Ingress"], ingress=[{}])
CLOSED = policy("x/closed", podSelector=pods("a"), policyTypes=["Ingress"])

CHANGES: dict[str, tuple[Sequence[Body], Sequence[Body]]] = {
    "an admin policy appears": ([], [DENY]),
    "an admin rule that accepts denies": ([ACCEPT], [DENY]),
    "an admin rule that passes denies": ([PASS, OPEN], [DENY, OPEN]),
    "an admin policy goes that accepted what a NetworkPolicy denies": ([ACCEPT, CLOSED], [CLOSED]),
    "an admin policy that accepted goes before one that denies": ([EARLIER_ACCEPT, DENY], [DENY]),
    "an admin rule that accepted passes to the baseline": ([ACCEPT, BASELINE_DENY], [PASS, BASELINE_DENY]),
    "a baseline policy appears": ([], [BASELINE_DENY]),
    "a baseline rule that accepts denies": ([BASELINE_ACCEPT], [BASELINE_DENY]),
    "a NetworkPolicy goes that stood before the baseline": ([OPEN, BASELINE_DENY], [BASELINE_DENY]),
}


@contextmanager
def established(cluster: Cluster, bodies: Sequence[Body], family: int, destination: str = "x/a") -> Iterator[Connection]:
    """A connection from pod b that policies allow."""
    cluster.apply(bodies)
    wait_until_evaluated(cluster)
    with connection(cluster, "x/b", destination, family) as flow:
        assert goes_on(flow)
        yield flow


def is_held(flow: Connection) -> bool:
    flow.client.send(b"1")
    flow.server.send(b"2")
    return receives_nothing(flow.server, flow.client)


@FAMILIES
@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_a_connection_that_a_tier_denies_now_is_cut_and_goes_on_when_it_is_allowed_again(
    strict: Cluster, before: Sequence[Body], after: Sequence[Body], family: int
) -> None:
    with established(strict, before, family) as flow:
        strict.apply(after)
        wait_until_evaluated(strict)
        assert is_held(flow)
        strict.apply(before)
        wait_until_evaluated(strict)
        assert flow.server.recv(1) == b"1", "what was held is sent again by TCP itself"
        assert flow.client.recv(1) == b"2"


@FAMILIES
def test_a_connection_that_every_tier_still_allows_goes_on(strict: Cluster, family: int) -> None:
    with established(strict, [], family) as flow:
        for bodies in (
            [PASS],
            [PASS, OPEN],
            [PASS, OPEN, BASELINE_DENY],
            [EARLIER_ACCEPT, DENY],
            [ACCEPT, CLOSED],
            [BASELINE_ACCEPT],
        ):
            strict.apply(bodies)
            wait_until_evaluated(strict)
            assert goes_on(flow)


@FAMILIES
def test_a_namespace_that_is_relabelled_becomes_subject_and_a_peer(strict: Cluster, family: int) -> None:
    bodies = [manifests.pod(host, NODE, pod=host.name[-1]) for host in PODS]
    from_b = cluster_policy(
        "quarantine",
        subject={"namespaces": {"matchLabels": {"zone": "quarantine"}}},
        ingress=[{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"zone": "quarantine"}}}]}],
    )

    def relabel(**labels: str) -> None:
        strict.replace([manifests.namespace("x", **labels), *bodies, from_b])
        wait_until_evaluated(strict)

    with established(strict, [], family) as flow:
        relabel(zone="open")
        assert goes_on(flow)
        assert reached(strict, "x/c", "x/d", family) == EVERYTHING
        relabel(zone="quarantine")
        assert is_held(flow)
        assert reached(strict, "x/c", "x/d", family) == set()
        assert reached(strict, "outside", "x/d", family) == EVERYTHING
        relabel()
        assert reached(strict, "x/c", "x/d", family) == EVERYTHING


@FAMILIES
def test_an_address_that_moves_to_a_node_that_is_a_peer_is_denied(strict: Cluster, family: int) -> None:
    no_edges = cluster_policy(
        "no-edges", subject=pod_peer("b"), egress=[{"action": "Deny", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}]
    )
    with established(strict, [no_edges], family, "outside") as flow:
        for nodes, is_denied in (
            ([node("far", *OUTSIDE, role="worker"), node("near", *NODE.addresses, role="edge")], False),
            ([node("far", role="worker"), node("near", *NODE.addresses, *OUTSIDE, role="edge")], True),
            ([node("far", *OUTSIDE, role="worker"), node("near", *NODE.addresses, *OUTSIDE, role="edge")], True),
            ([node("far", *OUTSIDE, role="worker"), node("near", *NODE.addresses, role="edge")], False),
            ([node("far", *OUTSIDE, role="edge")], True),
            ([], False),
        ):
            strict.apply([no_edges, *nodes])
            wait_until_evaluated(strict)
            assert reached(strict, "x/b", "outside", family) == (set() if is_denied else EVERYTHING)
            assert reached(strict, "x/c", "outside", family) == EVERYTHING
        assert goes_on(flow)


@FAMILIES
def test_the_baseline_cuts_a_pod_from_itself_behind_a_service_address_only_if_no_network_policy_selects_it(
    strict: Cluster, family: int
) -> None:
    """What the pod sends to its own address directly never leaves it."""
    not_itself = to_a("Deny", "a", tier="Baseline")
    via_service = [Probe("x/a", SERVICE[family], protocol, port) for protocol, port in ATTEMPTS]
    with service(strict, *MASQUERADE):
        for bodies, expected in (([not_itself], set()), ([not_itself, CLOSED], EVERYTHING), ([not_itself, ACCEPT], set())):
            strict.apply(bodies)
            assert through(strict, via_service) == expected
            assert reached(strict, "x/a", "x/a", family) == EVERYTHING
        strict.apply([not_itself, to_a("Accept", "a")])
        assert through(strict, via_service) == EVERYTHING


# --- what is queued ------------------------------------------------------------------------------------------------------------------


TIERS = pytest.mark.parametrize("tier", ["Admin", "Baseline"])


@FAMILIES
@TIERS
def test_only_pods_that_a_policy_selects_are_queued_for_ingress(cluster: Cluster, tier: str, family: int) -> None:
    """Neither is a pod that is only a peer, nor the egress of the subject."""
    cluster.apply([to_a("Deny", tier=tier), to_a("Accept", "c", tier=tier, priority=20)])
    before = cluster.agent.packets_queued()
    for source, destination in (("x/c", "x/d"), ("outside", "x/b"), ("x/b", "outside"), ("x/a", "x/d"), ("x/a", "outside")):
        assert reached(cluster, source, destination, family) == EVERYTHING
    assert cluster.agent.packets_queued() == before
    assert reached(cluster, "x/b", "x/a", family) == set()
    assert reached(cluster, "x/c", "x/a", family) == EVERYTHING
    assert cluster.agent.packets_queued() >= before + 2 * len(EVERYTHING)


@FAMILIES
@TIERS
def test_only_pods_that_a_policy_selects_are_queued_for_egress(cluster: Cluster, tier: str, family: int) -> None:
    cluster.apply([cluster_policy("out", subject=pod_peer("b"), tier=tier, egress=[{"action": "Deny", "to": [pod_peer("a")]}])])
    before = cluster.agent.packets_queued()
    for source, destination in (("x/c", "x/a"), ("x/c", "outside"), ("x/a", "x/b"), ("outside", "x/b"), ("outside", "x/a")):
        assert reached(cluster, source, destination, family) == EVERYTHING
    assert cluster.agent.packets_queued() == before
    assert reached(cluster, "x/b", "x/a", family) == set()
    assert reached(cluster, "x/b", "outside", family) == EVERYTHING
    assert cluster.agent.packets_queued() >= before + 2 * len(EVERYTHING)


@TIERS
def test_a_direction_without_rules_is_not_queued(cluster: Cluster, tier: str) -> None:
    """A policy may select every pod; only the directions that it has rules for are evaluated."""
    cluster.apply([cluster_policy("none", subject={"namespaces": {}}, tier=tier, ingress=[], egress=[])])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/b", "x/a") == EVERYTHING
    assert reached(cluster, "x/b", "outside") == EVERYTHING
    assert cluster.agent.packets_queued() == before


def test_a_flow_that_several_tiers_evaluate_is_queued_once(cluster: Cluster) -> None:
    cluster.apply([PASS, BASELINE_ACCEPT, egress({"to": [{"podSelector": pods("a")}]})])
    before = cluster.agent.packets_queued()
    assert reached(cluster, "x/b", "x/a") == EVERYTHING
    assert cluster.agent.packets_queued() == before + len(EVERYTHING)
