"""Interfaces of the node that lead to local pods, from the routing table, and the bridges below them.

Each call reads the current state of the kernel; nothing is cached.
Source: fib_route_seq_show in net/ipv4/fib_trie.c, rt6_info_route in net/ipv6/route.c.
"""

import socket
import struct

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key
from netpolq.dataplane.kernel_errors import explained
from netpolq.dataplane.links import bridge_below, ports_of, read_links

_UP = 0x1  # RTF_UP of linux/route.h
_REJECT = 0x200  # RTF_REJECT
_LOCAL = 0x80000000  # RTF_LOCAL of linux/ipv6_route.h
_V4_PREFIX_BITS = 96
_KEY_BITS = 128
_GATEWAY = ""
"""Instead of an interface name: the route leads to a gateway, so the interface does not lead to the pod directly."""


class PodInterfaces(NamedTuple):
    """Indexes of interfaces. `pods`: that lead to a local pod; the next two: to one that is isolated in a direction.

    `sources`: pairs of the input interface of a local pod's packets and its address key. An interface with the routes to pods may be
    stacked on a bridge to which these pods are connected. Packets that the bridge forwards between them have the bridge as their
    interface, so there are two pairs, and both interfaces count as isolated with the pod. `pods` contains no bridge without routes: packets
    from the interface to the pods pass the bridge a second time. `upper`: interfaces that are stacked on such a bridge.
    `bridge_ports`: all ports of these bridges, and of those that have the routes themselves; `vlan_aware`: which of them filter VLANs,
    by name.
    """

    pods: frozenset[int] = frozenset()
    isolated_ingress: frozenset[int] = frozenset()
    isolated_egress: frozenset[int] = frozenset()
    sources: frozenset[tuple[int, bytes]] = frozenset()
    upper: frozenset[int] = frozenset()
    bridge_ports: frozenset[int] = frozenset()
    vlan_aware: tuple[str, ...] = ()


NO_INTERFACES = PodInterfaces()


class Routes:
    """The routes of the main table (IPv6: of all tables)."""

    def __init__(self, routes: Iterable[tuple[AddressKey, int, str]]) -> None:
        """`routes`: destination, bits of its prefix as an address key, name of the interface, or "" if the route has a gateway."""
        self._by_length: dict[int, dict[int, str]] = {}
        self._uplinks: set[str] = set()
        for destination, length, interface in routes:
            if length in (0, _V4_PREFIX_BITS):
                self._uplinks.add(interface)
                continue
            prefix = int.from_bytes(destination, "big") >> _KEY_BITS - length
            self._by_length.setdefault(length, {})[prefix] = interface
        self._lengths = sorted(self._by_length, reverse=True)

    def interface_of(self, address: bytes) -> str | None:
        """The interface that leads to an address; None if there is none, or if it also has a default route.

        Traffic from outside the cluster arrives at an interface with a default route and would count as traffic of a pod.
        """
        number = int.from_bytes(address, "big")
        for length in self._lengths:
            if (interface := self._by_length[length].get(number >> _KEY_BITS - length)) is not None:
                return None if interface == _GATEWAY or interface in self._uplinks else interface
        return None


@explained()
def pod_interfaces(local: Iterable[bytes], ingress: Iterable[bytes], egress: Iterable[bytes]) -> PodInterfaces:
    """The interfaces of the local pods, and of the isolated ones among them. All arguments are address keys.

    Raises `PrivilegeError` or `RulesetError` if the kernel rejects a request.
    """
    routes = Routes(read_routes())
    indexes = _Indexes()
    index_of = {address: index for address in local if (index := indexes.of(routes.interface_of(address)))}
    links = read_links() if index_of else {}
    below = {index: bridge for index in set(index_of.values()) if (bridge := bridge_below(links, index)) is not None}
    bridges = {bridge.index: bridge for bridge in below.values()}

    def with_bridges(addresses: Iterable[bytes]) -> frozenset[int]:
        found = {index_of[address] for address in addresses if address in index_of}
        return frozenset(found | {below[index].index for index in found & below.keys()})

    return PodInterfaces(
        pods=frozenset(index_of.values()),
        isolated_ingress=with_bridges(ingress),
        isolated_egress=with_bridges(egress),
        sources=frozenset(
            (source, address)
            for address, index in index_of.items()
            for source in ((index, below[index].index) if index in below else (index,))
        ),
        upper=frozenset(index for index, bridge in below.items() if bridge.index != index),
        bridge_ports=ports_of(links, bridges),
        vlan_aware=tuple(sorted(bridge.name for bridge in bridges.values() if bridge.is_vlan_aware)),
    )


class _Indexes:
    """Indexes of interfaces by name; each is read once."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, name: str | None) -> int:
        """The index; 0 without a name, and for an interface that was removed after the routes were read."""
        if name is None:
            return 0
        if name not in self._known:
            try:
                self._known[name] = socket.if_nametoindex(name)
            except OSError:
                self._known[name] = 0
        return self._known[name]


def read_routes(proc: Path = Path("/proc/thread-self/net")) -> Iterator[tuple[AddressKey, int, str]]:
    """Destination, prefix length of the address key, and interface of each unicast route. Unreadable lines yield nothing.

    The interface of a default route is always named, that of another one only if there is no gateway.
    """
    for line in _lines(proc / "route")[1:]:
        columns = line.split()
        if len(columns) < 8:  # up to the mask
            continue
        interface, flags = columns[0], int(columns[3], 16)
        if flags & _UP and not flags & _REJECT:
            # The kernel prints the bytes, which are in network order, as a number in host order.
            destination, gateway, mask = (struct.pack("=I", int(columns[number], 16)) for number in (1, 2, 7))
            bits = int.from_bytes(mask, "big").bit_count()
            yield address_key(destination), _V4_PREFIX_BITS + bits, _GATEWAY if bits and any(gateway) else interface
    for line in _lines(proc / "ipv6_route"):
        columns = line.split()
        if len(columns) < 10:  # up to the interface
            continue
        destination, length, flags, interface = bytes.fromhex(columns[0]), int(columns[1], 16), int(columns[8], 16), columns[9]
        if flags & _UP and not flags & (_REJECT | _LOCAL) and destination[0] != 0xFF:  # ff00::/8 is multicast
            yield AddressKey(destination), length, _GATEWAY if length and any(bytes.fromhex(columns[4])) else interface


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except FileNotFoundError:  # a kernel without the family
        return []
