"""Link-local addresses of pods, in a real kernel and in each layout of a node: the isolation of a pod applies to them, too."""

import dataclasses
import socket

from collections.abc import Iterator

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import SPOOFED, IsolatedSets, RulesetConfig
from netpolq.enums import NodeEgress
from netpolq.supervisor.enforcer import with_interfaces
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    LOCAL,
    NODE,
    NOT_ISOLATED,
    A,
    B,
    Lab,
    Layout,
    UdpFlow,
    both_ways,
    built,
)


@pytest.fixture(scope="module", params=["veth", "ptp", "bridge", "stacked"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    layout: Layout = request.param
    with built(layout) as made:
        yield made


async def install(ruleset: Ruleset, sets: IsolatedSets) -> None:
    await ruleset.install(await with_interfaces(dataclasses.replace(sets, local=LOCAL)))


def interface(node: Lab, namespace: str, to: str) -> str:
    if namespace != NODE:
        return "eth0"
    return {"bridge": "pods", "stacked": "gateway"}.get(node.layout, f"pod-{to}")


class LinkLocal:
    """A UDP flow between link-local addresses. Must be closed."""

    def __init__(self, node: Lab, client: str, server: str) -> None:
        target = node.link_local(server, interface(node, server, client))
        self._near, self._far = node.udp(client, 6), node.udp(server, 6)
        with node.inside(client):
            scope = socket.if_nametoindex(interface(node, client, server))
        self.flow = UdpFlow(self._near, self._far, (target, self._far.getsockname()[1], 0, scope))

    def __enter__(self) -> UdpFlow:
        return self.flow

    def __exit__(self, *_: object) -> None:
        self.flow.close()


def only_on_a_bridge(node: Lab) -> None:
    if node.layout not in {"bridge", "stacked"}:
        pytest.skip("pods on pairs of their own have no link in common")


async def test_pods_that_are_not_isolated_use_them_freely(ruleset: Ruleset, node: Lab) -> None:
    await install(ruleset, NOT_ISOLATED)
    with LinkLocal(node, A, NODE) as flow:
        assert both_ways(flow)
    with LinkLocal(node, NODE, A) as flow:
        assert both_ways(flow)


async def test_a_bridge_without_isolated_pods_carries_them(ruleset: Ruleset, node: Lab) -> None:
    only_on_a_bridge(node)
    await install(ruleset, NOT_ISOLATED)
    with LinkLocal(node, A, B) as flow:
        assert both_ways(flow)


async def test_a_pod_isolated_for_egress_does_not_reach_its_node_by_them(ruleset: Ruleset, node: Lab) -> None:
    await install(ruleset, A_EGRESS)
    with LinkLocal(node, A, NODE) as flow:
        flow.send()
        assert flow.server_receives_nothing()


async def test_a_pod_reaches_its_node_by_them_when_egress_to_the_node_is_allowed(config: RulesetConfig, node: Lab) -> None:
    """But not where a bridge cannot distinguish the node from another pod."""
    await install(Ruleset(dataclasses.replace(config, node_egress=NodeEgress.ALLOW)), A_EGRESS)
    with LinkLocal(node, A, NODE) as flow:
        if node.layout == "stacked":
            flow.send()
            assert flow.server_receives_nothing()
        else:
            assert both_ways(flow)


@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_the_node_reaches_isolated_pods_by_them(ruleset: Ruleset, node: Lab, sets: IsolatedSets) -> None:
    await install(ruleset, sets)
    for pod in (A, B):
        with LinkLocal(node, NODE, pod) as flow:
            assert both_ways(flow)


@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_pods_of_a_bridge_do_not_reach_each_other_past_an_isolation(
    ruleset: Ruleset, node: Lab, sets: IsolatedSets
) -> None:
    only_on_a_bridge(node)
    await install(ruleset, sets)
    with LinkLocal(node, A, B) as flow:
        flow.send()
        assert flow.server_receives_nothing()


async def test_a_link_local_source_does_not_reach_the_address_of_an_isolated_pod(ruleset: Ruleset, node: Lab) -> None:
    only_on_a_bridge(node)
    await install(ruleset, A_EGRESS)
    own = node.link_local(A)
    with node.udp(B, 6) as far, node.inside(A), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        bound.bind((own, 0, 0, socket.if_nametoindex("eth0")))
        flow = UdpFlow(bound, far, (ADDRESS[B, 6], far.getsockname()[1]))
        flow.send()
        assert flow.server_receives_nothing()


async def test_an_established_flow_ends_with_the_isolation(ruleset: Ruleset, node: Lab) -> None:
    only_on_a_bridge(node)
    await install(ruleset, NOT_ISOLATED)
    with LinkLocal(node, A, B) as flow:
        assert both_ways(flow)
        await install(ruleset, B_INGRESS)
        flow.send()
        assert flow.server_receives_nothing()


@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_neighbour_discovery_still_works(ruleset: Ruleset, node: Lab, sets: IsolatedSets) -> None:
    """Neighbour discovery from and to link-local addresses; without it the node would not reach its pods."""
    await install(ruleset, sets)
    node.forget_neighbours()
    for pod in (A, B):
        with node.udp_flow(NODE, pod, 6) as flow:
            assert both_ways(flow)


@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
@pytest.mark.parametrize("family", [4, 6])
async def test_the_node_reaches_isolated_pods_in_each_layout(
    ruleset: Ruleset, node: Lab, sets: IsolatedSets, family: int
) -> None:
    """Its packets never count as spoofed."""
    await install(ruleset, sets)
    for pod in (A, B):
        with node.udp_flow(NODE, pod, family) as flow:
            assert both_ways(flow)
            assert both_ways(flow)
    with node.udp_flow(B, A, family) as flow:
        assert both_ways(flow)
    with node.udp_flow(B, NODE, family) as flow:
        assert both_ways(flow)
    assert (await ruleset.counters())[SPOOFED] == 0


async def test_bridged_packets_do_not_count_as_packets_of_the_node(ruleset: Ruleset, node: Lab) -> None:
    """Both have no input interface where they are evaluated."""
    await install(ruleset, B_INGRESS)
    for family in (4, 6):
        with node.udp_flow(A, B, family) as flow:
            flow.send()
            assert flow.server_receives_nothing()
        with node.udp_flow(B, A, family) as flow:
            assert both_ways(flow)
