"""Entries of the kernel's connection table that a test inserts without packets.

Source: linux/netfilter/nfnetlink_conntrack.h, linux/netfilter/nf_conntrack_common.h.
"""

import socket
import struct

from loadtest.testbed.box import Box
from netpolq.dataplane.conntrack import clear_accepted, label_of
from netpolq.netlink.attributes import attribute, nested
from netpolq.netlink.nfnetlink import NLM_F_ACK, message, read_acknowledgements
from netpolq.netlink.nftables import number, open_socket

ASSURED = 0x4 | 0x2 | 0x8  # IPS_ASSURED, with IPS_SEEN_REPLY and IPS_CONFIRMED, without which there is none
_NEW = 1 << 8  # IPCTNL_MSG_CT_NEW
_CREATE = 0x600  # NLM_F_CREATE, NLM_F_EXCL
_LIFETIME_S = 600
_AT_ONCE = 100
_FIRST_PORT, _PORTS = 1024, 60_000


def insert(
    box: Box,
    source: str,
    destination: str,
    family: int,
    count: int,
    *,
    first: int = 0,
    protocol: int = socket.IPPROTO_UDP,
    label: int | None = None,
    status: int = 0,
) -> None:
    """Insert connections of the node, numbered from `first` on.

    Equal numbers give equal connections. `label`: a bit of their label. `status`: with `ASSURED` the kernel does not evict them for new
    connections.

    Raises `OSError` if the last of a hundred is refused.
    """
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    ends = [socket.inet_pton(kind, box.address(name, family)) for name in (source, destination)]
    source_kind = 1 if family == 4 else 3  # CTA_IP_V4_SRC, CTA_IP_V6_SRC

    def half(which: int, addresses: list[bytes], ports: tuple[int, int]) -> bytes:
        numbers = (attribute(kind, struct.pack("!H", port)) for kind, port in zip((2, 3), ports, strict=True))
        where = nested(1, *(attribute(source_kind + index, address) for index, address in enumerate(addresses)))
        return nested(which, where, nested(2, attribute(1, bytes([protocol])), *numbers))

    with box.inside(box.node.name, open_socket) as netlink:
        for start in range(first, first + count, _AT_ONCE):
            end = min(start + _AT_ONCE, first + count)
            messages = []
            for index in range(start, end):
                ports = _FIRST_PORT + index % _PORTS, 80 + index // _PORTS
                messages.append(
                    message(
                        _NEW,
                        half(1, ends, ports),
                        half(2, ends[::-1], ports[::-1]),
                        *((number(3, status),) if status else ()),  # CTA_STATUS
                        number(7, _LIFETIME_S),  # CTA_TIMEOUT
                        *((attribute(22, label_of(label)),) if label is not None else ()),  # CTA_LABELS
                        flags=_CREATE | (NLM_F_ACK if index == end - 1 else 0),
                        sequence=index + 1,
                        family=kind,
                    )
                )
            netlink.send(b"".join(messages))
            read_acknowledgements(netlink, {end})


def labelled(box: Box, label: int) -> int:
    """The number of the node's connections with a bit of their label set."""
    return box.inside(box.node.name, lambda: clear_accepted(label, lambda _connection: False).examined)
