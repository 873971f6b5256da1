"""Runs inside the machine of `test_stock_kernel`: a bridge that filters VLANs, as the bridge plugin of CNI makes one.

The kernels of other machines may have neither such bridges nor VLAN interfaces.
"""

import dataclasses

from collections.abc import AsyncIterator, Iterator

import pytest

from scapy.layers.l2 import Dot1Q

from netpolq.dataplane.bridge_guard import TAGGED, BridgeGuard
from netpolq.dataplane.install import Ruleset, cleanup, probe
from netpolq.dataplane.nft_program import MAX_DEADLINE_S
from netpolq.supervisor.enforcer import with_interfaces
from tests.netns.dataplane.lab import B_INGRESS, LOCAL, NODE, A, B, Lab, both_ways, built, fail_closed, run
from tests.netns.dataplane.test_tagged_frames import TAGS, arrives

_VLAN = 100


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with built("stacked") as made:
        with made.inside(NODE):
            run("ip", "link", "set", "pods", "type", "bridge", "vlan_filtering", "1")
            for port in ("pod-a", "pod-b", "pods-port"):
                run("bridge", "vlan", "delete", "dev", port, "vid", "1")
                run("bridge", "vlan", "add", "dev", port, "vid", str(_VLAN), "pvid", "untagged")
        yield made


def filter_tagged(on: bool) -> None:  # a switch of the kernel
    run("sysctl", "-qw", f"net.bridge.bridge-nf-filter-vlan-tagged={int(on)}")


@pytest.fixture
async def guard(lab: Lab) -> AsyncIterator[BridgeGuard]:
    """With pod b isolated, and no listener on the queue."""
    with lab.inside(NODE):
        run("modprobe", "br_netfilter")
        filter_tagged(True)
        cleanup()
        config = fail_closed(await probe(), dns_in_prerouting=True)
        sets = await with_interfaces(dataclasses.replace(B_INGRESS, local=LOCAL))
        assert sets.interfaces.bridge_ports
        made = BridgeGuard()
        await made.keep(sets.interfaces)
        assert made.problem is None
        await Ruleset(config, nft_deadline_s=MAX_DEADLINE_S).install(sets)
        yield made
        cleanup()


async def test_a_bridge_that_takes_tags_off_is_a_problem_until_tagged_packets_are_filtered(guard: BridgeGuard, lab: Lab) -> None:
    del lab
    sets = await with_interfaces(dataclasses.replace(B_INGRESS, local=LOCAL))
    assert sets.interfaces.vlan_aware == ("pods",)
    problems = [guard.problem]
    filter_tagged(False)
    await guard.keep(sets.interfaces)
    problems.append(guard.problem)
    assert problems[0] is None
    assert "bridge pods filters VLANs" in str(problems[1])
    assert "set net.bridge.bridge-nf-filter-vlan-tagged to 1" in str(problems[1])


@pytest.mark.parametrize("family", [6])
async def test_without_that_a_tag_of_the_vlan_leads_past_the_isolation(guard: BridgeGuard, lab: Lab, family: int) -> None:
    """The effect that the problem reports."""
    del guard
    filter_tagged(False)
    assert arrives(lab, family, Dot1Q(vlan=_VLAN))


@pytest.mark.parametrize("family", [4])
@pytest.mark.parametrize("tags", [Dot1Q(vlan=_VLAN), TAGS["8021q"], TAGS["doubled"]], ids=["vlan", "8021q", "doubled"])
async def test_with_it_no_tag_does(guard: BridgeGuard, lab: Lab, tags: Dot1Q, family: int) -> None:
    del guard
    assert not arrives(lab, family, tags), run("nft", "list", "ruleset")


@pytest.mark.parametrize("family", [6])
async def test_nor_does_the_vlans_tag_before_others(guard: BridgeGuard, lab: Lab, family: int) -> None:
    assert not arrives(lab, family, Dot1Q(vlan=_VLAN) / Dot1Q(vlan=0))
    assert await guard.counters() == {TAGGED: 1}


@pytest.mark.parametrize("family", [4, 6])
async def test_the_node_and_pods_that_are_not_isolated_are_reached(guard: BridgeGuard, lab: Lab, family: int) -> None:
    del guard
    for client, server in ((NODE, A), (NODE, B), (B, A), (A, NODE)):
        with lab.udp_flow(client, server, family) as flow:
            assert both_ways(flow)
