"""Interfaces of this network namespace with their bridges, from rtnetlink.

Each call reads the current state of the kernel; nothing is cached.
Source: linux/rtnetlink.h, linux/if_link.h. Unlike nfnetlink's, the contents of attributes are in host order.
"""

import socket
import struct

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netpolq.netlink.attributes import HOST_U32, U8, MalformedMessageError, attribute, nested, parse_attributes
from netpolq.netlink.nfnetlink import dump_bodies

_RTM_GETLINK = 18
_IFLA_IFNAME = 3
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_EXT_MASK = 29
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_BR_VLAN_FILTERING = 7
_RTEXT_FILTER_SKIP_STATS = 8
_INTERFACE = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_REST_OF_INTERFACE = bytes(_INTERFACE.size - 4)
"""The part of a request behind the bytes that ifinfomsg and nfgenmsg have in common."""

_DEADLINE_S = 5
_MAX_STACKED = 4
"""Maximum number of interfaces stacked on a bridge."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. `kind`: of a virtual one ("bridge", "veth", "vlan"), "" of others.

    `master`: index of the bridge whose port it is, or 0. `lower`: index of the interface that it is stacked on, or of the other end of a
    pair; 0 if that is in another namespace. `is_vlan_aware`: a bridge that filters VLANs.
    """

    index: int
    name: str
    kind: str
    master: int
    lower: int
    is_vlan_aware: bool


Links = Mapping[int, Link]
"""All interfaces, by index."""


def read_links() -> Links:
    """The current interfaces; empty if none of them is a bridge. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_DEADLINE_S)
        # A node without a bridge may have hundreds of interfaces: the kernel leaves out those of other kinds.
        if not _dump(netlink, nested(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, b"bridge"))):
            return {}
        return {link.index: link for link in _dump(netlink)}


def _dump(netlink: socket.socket, *filters: bytes) -> list[Link]:
    wanted = attribute(_IFLA_EXT_MASK, HOST_U32.pack(_RTEXT_FILTER_SKIP_STATS))
    return [parse_link(body) for body in dump_bodies(netlink, _RTM_GETLINK, _REST_OF_INTERFACE, wanted, *filters)]


def bridge_below(links: Links, index: int) -> Link | None:
    """The bridge that an interface is or that it leads to: of a VLAN on a bridge, or of a pair whose other end is a port."""
    for _ in range(_MAX_STACKED):
        link = links.get(index)
        if link is None:
            return None
        if link.kind == "bridge":
            return link
        index = link.lower
        if link.kind == "veth" and index in links:
            index = links[index].master
    return None


def ports_of(links: Links, bridges: Iterable[int]) -> frozenset[int]:
    """Indexes of the ports of bridges, given by their indexes."""
    masters = frozenset(bridges)
    return frozenset(link.index for link in links.values() if link.master in masters)


def parse_link(body: bytes) -> Link:
    """The interface of one message. Raises `MalformedMessageError`."""
    if len(body) < _INTERFACE.size:
        raise MalformedMessageError(f"message about an interface has {len(body)} bytes instead of at least {_INTERFACE.size}")
    _family, _type, index, _flags, _change = _INTERFACE.unpack_from(body)
    attributes = parse_attributes(body[_INTERFACE.size :])
    information = attributes.nested(_IFLA_LINKINFO)
    kind = information.text(_IFLA_INFO_KIND, "")
    is_bridge = kind == "bridge"
    return Link(
        index,
        attributes.text(_IFLA_IFNAME),
        kind,
        attributes.integer(_IFLA_MASTER, HOST_U32, 0),
        0 if _IFLA_LINK_NETNSID in attributes else attributes.integer(_IFLA_LINK, HOST_U32, 0),
        is_bridge and bool(information.nested(_IFLA_INFO_DATA).integer(_IFLA_BR_VLAN_FILTERING, U8, 0)),
    )
