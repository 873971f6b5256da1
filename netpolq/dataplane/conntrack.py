"""The agent's bit in the kernel's connection table: who has it, and taking it away.

A connection that loses the bit is not cut: its next packet, in whichever direction, is judged again, as that of a new connection would be.
Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c (filters, from Linux 5.8 on).
"""

import socket
import struct

from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key, is_ipv4, packed_address
from netpolq.dataplane.nf_tables import number, open_socket
from netpolq.nfnetlink import NLM_F_ACK, Entry, attribute, message, nested, parse_attributes, read_acknowledgements, walk

_NFNL_SUBSYS_CTNETLINK = 1
_IPCTNL_MSG_CT_NEW = _NFNL_SUBSYS_CTNETLINK << 8 | 0
_IPCTNL_MSG_CT_GET = _NFNL_SUBSYS_CTNETLINK << 8 | 1
_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_MARK = 8
_CTA_ZONE = 18
_CTA_MARK_MASK = 21
_CTA_FILTER = 25
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_IP_V4_SRC = 1
_CTA_IP_V6_SRC = 3
_CTA_PROTO_NUM = 1
_CTA_PROTO_SRC_PORT = 2
_CTA_FILTER_ORIG_FLAGS = 1
_CTA_FILTER_REPLY_FLAGS = 2
_FILTER_IP_SRC = struct.pack("=I", 1 << 0)  # CTA_FILTER_F_CTA_IP_SRC; these flags are in host order
_PORT = struct.Struct("!H")

_UPDATES_PER_MESSAGE = 64
_MAX_FILTERED = 8
"""IPv4 addresses that are asked for one by one, with two filters each. For each filter the kernel goes through its whole table, which takes
a twentieth of the time of handing it over; with more addresses than this, those of all are picked out here."""


class Connection(NamedTuple):
    """A connection as policies see it: after destination NAT, before source NAT. Addresses are keys; `port`: destination port, 0: none."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


class Cleared(NamedTuple):
    """`examined`: connections with the bit that were looked at; `cleared`: those of them that have lost it."""

    examined: int
    cleared: int


def clear_accepted(
    ct_mark_bit: int, is_denied: Callable[[Connection], bool] = lambda _connection: True, about: Set[AddressKey] | None = None
) -> Cleared:
    """Take the bit from the connections that have it and are denied, leaving all other bits.

    `about`: only connections from or to one of these addresses; None: all. Blocks while it goes through the table. A connection that ends
    meanwhile is no error. Raises `OSError`; `InterruptedError` if some may have been left out.
    """
    examined = cleared = 0
    with open_socket() as reading, open_socket() as writing:
        denied: list[Entry] = []
        for entry in _accepted(reading, ct_mark_bit, about):
            connection = _connection(entry)
            if connection is not None and about is not None and about.isdisjoint((connection.source, connection.destination)):
                continue
            examined += 1
            if connection is None or is_denied(connection):
                denied.append(entry)
                cleared += 1
            if len(denied) >= _UPDATES_PER_MESSAGE:
                _clear(writing, denied, ct_mark_bit)
                denied.clear()
        _clear(writing, denied, ct_mark_bit)
    return Cleared(examined, cleared)


def _accepted(netlink: socket.socket, ct_mark_bit: int, about: Set[AddressKey] | None) -> Iterator[Entry]:
    """Connections with the bit, some of them twice, and some that are not about these addresses: a kernel may not know such filters."""
    marked = number(_CTA_MARK, ct_mark_bit), number(_CTA_MARK_MASK, ct_mark_bit)
    if about is None:
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, *marked)
        return
    v4, v6 = ([packed_address(key) for key in about if is_ipv4(key) is wanted] for wanted in (True, False))
    if len(v4) > _MAX_FILTERED:
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, *marked, family=socket.AF_INET)
    else:
        for address in v4:
            source = nested(_CTA_TUPLE_IP, attribute(_CTA_IP_V4_SRC, address))
            # Who opened it, before any NAT; and who answers, after that of the destination.
            for tuple_kind, flags_kind in (
                (_CTA_TUPLE_ORIG, _CTA_FILTER_ORIG_FLAGS),
                (_CTA_TUPLE_REPLY, _CTA_FILTER_REPLY_FLAGS),
            ):
                wanted = nested(tuple_kind, source), nested(_CTA_FILTER, attribute(flags_kind, _FILTER_IP_SRC))
                yield from walk(netlink, _IPCTNL_MSG_CT_GET, *marked, *wanted, family=socket.AF_INET)
    if v6:
        # No such filter for IPv6: up to Linux 6.18 at least it leaves out the very address that it is given.
        containing = v6 if len(v6) <= _MAX_FILTERED else ()
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, *marked, family=socket.AF_INET6, containing=containing)


def _connection(entry: Entry) -> Connection | None:
    """None: an entry that cannot be read, and whose packets had better be judged again."""
    try:
        original = parse_attributes(entry.attributes[_CTA_TUPLE_ORIG])
        reply = parse_attributes(entry.attributes[_CTA_TUPLE_REPLY])
        protocol = parse_attributes(reply[_CTA_TUPLE_PROTO])
        source, destination = (_source(parse_attributes(side[_CTA_TUPLE_IP])) for side in (original, reply))
        port = _PORT.unpack(protocol[_CTA_PROTO_SRC_PORT])[0] if _CTA_PROTO_SRC_PORT in protocol else 0
        return Connection(source, destination, protocol[_CTA_PROTO_NUM][0], port)
    except (KeyError, IndexError, struct.error):
        return None


def _source(addresses: dict[int, bytes]) -> AddressKey:
    return address_key(addresses[_CTA_IP_V4_SRC] if _CTA_IP_V4_SRC in addresses else addresses[_CTA_IP_V6_SRC])


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
    if updates:
        netlink.send(b"".join(updates))
    for sequence in range(1, len(updates) + 1):  # one answer for each, in order
        with suppress(FileNotFoundError):
            read_acknowledgements(netlink, {sequence})
