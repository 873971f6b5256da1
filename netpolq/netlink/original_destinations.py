"""The maps of original destinations: where the kernel notes what the sender of a translated packet has asked for, and how it is read.

A queue does not deliver the conntrack entry of a packet with every kernel (NETFILTER_NETLINK_GLUE_CT), and the entry of a packet that
waits for a verdict is in no table yet. So the ruleset notes source and translated destination of a packet, and its original destination,
before it queues the packet (`netpolq.dataplane.original_chains`).
Source: linux/netfilter/nf_tables.h (set elements), `nft` for the shape of a concatenation: each part is padded to four bytes.
"""

import errno
import socket
import struct

from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import MalformedMessageError, attribute, nested, parse_attributes
from netpolq.netlink.nfnetlink import query
from netpolq.netlink.nftables import NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFT_MSG_GETSETELEM, name

ORIGINALS_V4 = "originals_v4"
ORIGINALS_V6 = "originals_v6"

_PROTOCOL = struct.Struct("!B3x")
_PORT = struct.Struct("!H2x")


def original_destination(
    netlink: socket.socket, table: str, protocol: int, source: tuple[bytes, int], destination: tuple[bytes, int]
) -> tuple[bytes, int] | None:
    """Address and port that the sender of a packet has asked for; None if they are not noted. Ends: those of the packet, after DNAT.

    Addresses are 4 or 16 bytes. Raises `OSError` with the kernel's errno.
    """
    key = _PROTOCOL.pack(protocol) + _end(*source) + _end(*destination)
    element = nested(nfta.LIST_ELEM, nested(nfta.SET_ELEM_KEY, attribute(nfta.DATA_VALUE, key)))
    address_bytes = len(destination[0])
    try:
        entry = query(
            netlink,
            NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM,
            name(nfta.SET_ELEM_LIST_TABLE, table),
            name(nfta.SET_ELEM_LIST_SET, ORIGINALS_V4 if address_bytes == 4 else ORIGINALS_V6),
            nested(nfta.SET_ELEM_LIST_ELEMENTS, element),
            family=NFPROTO_INET,
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    elements = entry.attributes.listed(nfta.SET_ELEM_LIST_ELEMENTS)
    if len(elements) != 1:
        raise MalformedMessageError(f"{len(elements)} elements instead of one")
    noted = parse_attributes(elements[0]).nested(nfta.SET_ELEM_DATA).binary(nfta.DATA_VALUE, address_bytes + _PORT.size)
    return noted[:address_bytes], int(_PORT.unpack_from(noted, address_bytes)[0])


def _end(address: bytes, port: int) -> bytes:
    return address + _PORT.pack(port)
