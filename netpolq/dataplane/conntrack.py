"""The agent's bit in the kernel's connection table.

Source: linux/netfilter/nfnetlink_conntrack.h.
"""

import socket

from contextlib import suppress

from netpolq.dataplane.nf_tables import number, open_socket
from netpolq.nfnetlink import NLM_F_ACK, Entry, attribute, dump, message, nested, read_acknowledgements

_NFNL_SUBSYS_CTNETLINK = 1
_IPCTNL_MSG_CT_NEW = _NFNL_SUBSYS_CTNETLINK << 8 | 0
_IPCTNL_MSG_CT_GET = _NFNL_SUBSYS_CTNETLINK << 8 | 1
_CTA_TUPLE_ORIG = 1
_CTA_MARK = 8
_CTA_ZONE = 18
_CTA_MARK_MASK = 21
_UPDATES_PER_MESSAGE = 64


def forget_accepted(ct_mark_bit: int) -> int:
    """Clear the bit on every connection that has it, leaving the other bits. Returns how many had it. Raises `OSError`.

    Blocks while it goes through the table. A connection that ends meanwhile is not an error.
    """
    with open_socket() as netlink:
        accepted = dump(netlink, _IPCTNL_MSG_CT_GET, number(_CTA_MARK, ct_mark_bit), number(_CTA_MARK_MASK, ct_mark_bit))
        for start in range(0, len(accepted), _UPDATES_PER_MESSAGE):
            _clear(netlink, accepted[start : start + _UPDATES_PER_MESSAGE], ct_mark_bit)
    return len(accepted)


def _clear(netlink: socket.socket, connections: list[Entry], ct_mark_bit: int) -> None:
    updates = []
    for sequence, connection in enumerate(connections, start=1):
        which = [nested(_CTA_TUPLE_ORIG, connection.attributes[_CTA_TUPLE_ORIG])]
        if _CTA_ZONE in connection.attributes:
            which.append(attribute(_CTA_ZONE, connection.attributes[_CTA_ZONE]))
        updates.append(
            message(
                _IPCTNL_MSG_CT_NEW,
                *which,
                number(_CTA_MARK, 0),
                number(_CTA_MARK_MASK, ct_mark_bit),
                flags=NLM_F_ACK,
                sequence=sequence,
                family=connection.family,
            )
        )
    netlink.send(b"".join(updates))
    for sequence in range(1, len(updates) + 1):  # one answer for each, in order
        with suppress(FileNotFoundError):
            read_acknowledgements(netlink, {sequence})
