"""Addresses that no domain name may open."""

import pytest

from netpolq.addresses import parse_address
from netpolq.model import Node, Pod
from netpolq.names.admission import ClusterAddresses, refusal
from netpolq.names.table import Refusal

OUTSIDE = parse_address("203.0.113.7")


SPECIAL = """
    0.0.0.0 0.1.2.3 127.0.0.1 127.9.9.9 224.0.0.1 239.255.255.255 255.255.255.255 169.254.169.254 169.254.0.0
    :: ::1 ::10.0.0.1 ff02::1 fe80::1 febf::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
"""
OTHERS = """
    1.0.0.1 126.0.0.1 128.0.0.1 169.253.255.255 169.255.0.0 223.255.255.255 10.1.2.3 192.168.1.1
    fec0::1 fe7f::1 fd00::1 2001:db8::1 64:ff9b::1
"""


@pytest.mark.parametrize("text", SPECIAL.split())
def test_an_address_of_no_single_host_outside_is_refused(text: str) -> None:
    assert refusal(parse_address(text), ClusterAddresses(), is_of_pod=False) is Refusal.SPECIAL_ADDRESS


@pytest.mark.parametrize("text", OTHERS.split())
def test_any_other_address_is_learned(text: str) -> None:
    """Also private ones: names of the operator's own network are outside of the cluster."""
    assert refusal(parse_address(text), ClusterAddresses(), is_of_pod=False) is None


def test_the_address_of_a_pod_is_refused() -> None:
    assert refusal(OUTSIDE, ClusterAddresses(), is_of_pod=True) is Refusal.POD_ADDRESS


def test_an_address_of_a_node_is_refused_as_long_as_an_object_reports_it() -> None:
    cluster = ClusterAddresses()

    def found() -> Refusal | None:
        return refusal(OUTSIDE, cluster, is_of_pod=False)

    node = Node(name="n", labels={}, addresses=(OUTSIDE,))
    pod = Pod(namespace="a", name="p", labels={}, ips=(), host_ips=(OUTSIDE,))
    cluster.replace(None, pod)
    cluster.replace(None, node)
    cluster.replace(pod, None)
    assert found() is Refusal.NODE_ADDRESS
    cluster.replace(node, node)
    assert found() is Refusal.NODE_ADDRESS
    cluster.replace(node, None)
    assert found() is None
    cluster.replace(None, None)
    cluster.interfaces = frozenset({OUTSIDE})
    assert found() is Refusal.NODE_ADDRESS
