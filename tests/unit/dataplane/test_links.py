"""The bridge that an interface leads to, through stacked interfaces."""

import pytest

from netpolq.dataplane.links import Link, Links, bridge_below, ports_of

BRIDGE, PORT, POD, GATEWAY, GATEWAY_PORT, VLAN, ON_VLAN, UPLINK, LONELY = range(1, 10)


def links() -> Links:
    found = [
        Link(BRIDGE, "cni0", "bridge", 0, 0, is_vlan_aware=True),
        Link(PORT, "veth1", "veth", BRIDGE, 0, is_vlan_aware=False),
        Link(POD, "cali1", "veth", 0, 0, is_vlan_aware=False),
        Link(GATEWAY, "cni0.100", "veth", 0, GATEWAY_PORT, is_vlan_aware=False),
        Link(GATEWAY_PORT, "veth2", "veth", BRIDGE, GATEWAY, is_vlan_aware=False),
        Link(VLAN, "cni0.5", "vlan", 0, BRIDGE, is_vlan_aware=False),
        Link(ON_VLAN, "mac0", "macvlan", 0, VLAN, is_vlan_aware=False),
        Link(UPLINK, "eth0", "", 0, 0, is_vlan_aware=False),
        Link(LONELY, "veth3", "veth", 0, LONELY, is_vlan_aware=False),
    ]
    return {link.index: link for link in found}


@pytest.mark.parametrize("index", [BRIDGE, GATEWAY, VLAN, ON_VLAN])
def test_an_interface_leads_to_the_bridge_that_it_is_or_stands_on(index: int) -> None:
    bridge = bridge_below(links(), index)
    assert bridge is not None
    assert (bridge.name, bridge.is_vlan_aware) == ("cni0", True)


@pytest.mark.parametrize("index", [POD, UPLINK, LONELY, 0, 77])
def test_other_interfaces_lead_to_none(index: int) -> None:
    assert bridge_below(links(), index) is None


def test_a_port_of_a_bridge_has_no_pods_of_its_own_behind_it() -> None:
    """It has no routes, so it is never looked up; the other end of its pair is in a pod."""
    assert bridge_below(links(), PORT) is None


def test_the_ports_are_those_of_these_bridges() -> None:
    assert ports_of(links(), [BRIDGE]) == {PORT, GATEWAY_PORT}
    assert ports_of(links(), []) == frozenset()
