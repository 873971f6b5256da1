"""Interfaces that lead to pods, from routing tables in the format of the kernel."""

from pathlib import Path

from netpolq.addresses import parse_address
from netpolq.dataplane.pod_interfaces import Routes, read_routes

_V4 = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0102A8C0	0003	0	0	0	00000000	0	0	0
eth0	0002A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
cali1	02014D0A	00000000	0005	0	0	0	FFFFFFFF	0	0	0
cni0	00024D0A	00000000	0001	0	0	0	00FFFFFF	0	0	0
eth1	00004D0A	0101A8C0	0003	0	0	0	0000FFFF	0	0	0
*	00034D0A	00000000	0200	0	0	0	00FFFFFF	0	0	0
broken
"""
_V6 = """\
fd770001000000000000000000000002 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 1 0 00000001    cali1
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 1 0 00000001    cali1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 1 0 00000003     eth0
fd770001000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 1 0 80200001     eth9
ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 1 0 00000001     eth0
"""


def routes(tmp_path: Path) -> Routes:
    (tmp_path / "route").write_text(_V4)
    (tmp_path / "ipv6_route").write_text(_V6)
    return Routes(read_routes(tmp_path))


def interfaces(found: Routes, *addresses: str) -> list[str | None]:
    return [found.interface_of(parse_address(address)) for address in addresses]


def test_the_longest_prefix_decides(tmp_path: Path) -> None:
    found = routes(tmp_path)
    assert interfaces(found, "10.77.1.2") == ["cali1"]
    assert interfaces(found, "10.77.2.9", "fd77:1::2") == ["cni0", "cali1"]


def test_an_interface_with_a_default_route_is_no_pods(tmp_path: Path) -> None:
    found = routes(tmp_path)
    assert interfaces(found, "192.168.2.7", "8.8.8.8", "2001:db8::1") == [None, None, None]


def test_a_pod_behind_a_gateway_is_at_no_interface(tmp_path: Path) -> None:
    assert interfaces(routes(tmp_path), "10.77.9.9") == [None]


def test_addresses_of_the_node_and_multicast_are_no_routes_to_pods(tmp_path: Path) -> None:
    assert interfaces(routes(tmp_path), "fd77:1::1", "ff02::1") == [None, None]


def test_without_a_table_there_are_no_routes(tmp_path: Path) -> None:
    assert interfaces(Routes(read_routes(tmp_path)), "10.77.1.2", "fd77:1::2") == [None, None]
