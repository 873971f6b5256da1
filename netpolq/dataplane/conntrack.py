"""Accepted connections in the kernel's connection table, and the removal of their acceptance.

An accepted connection has one bit of its label set. Clearing the bit does not cut the connection: its next packet, in either direction, is
evaluated again, like the first packet of a new connection.

A label is 16 bytes, numbered by the kernel as bits of `unsigned long`s in host order. The table of connections cannot be filtered by label,
but only a connection with a label that is not zero has the attribute, which is found without reading the rest.
Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c (filters, from Linux 5.8 on), nf_conntrack_labels.c.
"""

import socket
import struct

from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key, is_ipv4, packed_address
from netpolq.netlink.attributes import HOST_U32, U8, U16, Attributes, MalformedMessageError, attribute, nested
from netpolq.netlink.nfnetlink import NLM_F_ACK, Entry, message, read_acknowledgements, walk
from netpolq.netlink.nftables import open_socket

_NFNL_SUBSYS_CTNETLINK = 1
_IPCTNL_MSG_CT_NEW = _NFNL_SUBSYS_CTNETLINK << 8 | 0
_IPCTNL_MSG_CT_GET = _NFNL_SUBSYS_CTNETLINK << 8 | 1
_CTA_TUPLE_ORIG = 1
_CTA_TUPLE_REPLY = 2
_CTA_ZONE = 18
_CTA_LABELS = 22
_CTA_LABELS_MASK = 23
_CTA_FILTER = 25
_CTA_TUPLE_IP = 1
_CTA_TUPLE_PROTO = 2
_CTA_IP_V4_SRC = 1
_CTA_IP_V6_SRC = 3
_CTA_PROTO_NUM = 1
_CTA_PROTO_SRC_PORT = 2
_CTA_FILTER_ORIG_FLAGS = 1
_CTA_FILTER_REPLY_FLAGS = 2
_FILTER_IP_SRC = HOST_U32.pack(1 << 0)  # CTA_FILTER_F_CTA_IP_SRC; these flags are in host order
_LABEL_BYTES = 16
_LONG_BITS = 8 * struct.calcsize("@L")
_LABELS_HEADER = attribute(_CTA_LABELS, bytes(_LABEL_BYTES))[:-_LABEL_BYTES]

_UPDATES_PER_MESSAGE = 64
_MAX_FILTERED = 8
"""Limit of IPv4 addresses for which the kernel filters, with two filters each. For each filter the kernel scans its whole table, which
takes a twentieth of the time of a dump; with more addresses than this, one dump is filtered here."""


class Connection(NamedTuple):
    """A connection as in policies: after destination NAT, before source NAT. Addresses are keys; `port`: destination port, 0: none."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


class Cleared(NamedTuple):
    """`examined`: connections with the bit that were evaluated; `cleared`: those whose bit was cleared."""

    examined: int
    cleared: int


def clear_accepted(
    label_bit: int, is_denied: Callable[[Connection], bool] = lambda _connection: True, about: Set[AddressKey] | None = None
) -> Cleared:
    """Clear the bit of the connections that have it and are denied. All other bits of their labels stay.

    `label_bit`: 0 to 127. `about`: only connections from or to one of these addresses; None: all. Blocks while it reads the table.
    A connection that ends meanwhile is no error. Raises `OSError`; `InterruptedError` if some may have been left out.
    """
    examined = cleared = 0
    label = label_of(label_bit)
    with open_socket() as reading, open_socket() as writing:
        denied: list[Entry] = []
        for entry in _accepted(reading, label, about):
            connection = read_connection(entry.attributes)
            if connection is not None and about is not None and about.isdisjoint((connection.source, connection.destination)):
                continue
            examined += 1
            if connection is None or is_denied(connection):
                denied.append(entry)
                cleared += 1
            if len(denied) >= _UPDATES_PER_MESSAGE:
                _clear(writing, denied, label)
                denied.clear()
        _clear(writing, denied, label)
    return Cleared(examined, cleared)


def _accepted(netlink: socket.socket, label: bytes, about: Set[AddressKey] | None) -> Iterator[Entry]:
    """Connections with the bit, some of them twice, and some with other addresses: a kernel may not support such filters."""
    for entry in _labelled(netlink, about):
        found = entry.attributes.get(_CTA_LABELS, b"")
        if len(found) == _LABEL_BYTES and any(have & wanted for have, wanted in zip(found, label, strict=True)):
            yield entry


def _labelled(netlink: socket.socket, about: Set[AddressKey] | None) -> Iterator[Entry]:
    """Connections with a label, and some others: the header of the attribute may also stand in what is not one."""
    labelled = (_LABELS_HEADER,)
    if about is None:
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, containing=labelled)
        return
    v4, v6 = ([packed_address(key) for key in about if is_ipv4(key) is wanted] for wanted in (True, False))
    if len(v4) > _MAX_FILTERED:
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, family=socket.AF_INET, containing=labelled)
    else:
        for address in v4:
            source = nested(_CTA_TUPLE_IP, attribute(_CTA_IP_V4_SRC, address))
            # The side that opens the connection, before any NAT; and the side that replies, after destination NAT.
            for tuple_kind, flags_kind in (
                (_CTA_TUPLE_ORIG, _CTA_FILTER_ORIG_FLAGS),
                (_CTA_TUPLE_REPLY, _CTA_FILTER_REPLY_FLAGS),
            ):
                wanted = nested(tuple_kind, source), nested(_CTA_FILTER, attribute(flags_kind, _FILTER_IP_SRC))
                yield from walk(netlink, _IPCTNL_MSG_CT_GET, *wanted, family=socket.AF_INET, containing=labelled)
    if v6:
        # No filter for IPv6: up to Linux 6.18 at least, it omits exactly the address that it is given.
        containing = v6 if len(v6) <= _MAX_FILTERED else labelled
        yield from walk(netlink, _IPCTNL_MSG_CT_GET, family=socket.AF_INET6, containing=containing)


def label_of(bit: int) -> bytes:
    """A label with this bit alone."""
    index, offset = divmod(bit, _LONG_BITS)
    longs = [0] * (8 * _LABEL_BYTES // _LONG_BITS)
    longs[index] = 1 << offset
    return struct.pack(f"@{len(longs)}L", *longs)


def read_connection(attributes: Attributes) -> Connection | None:
    """The connection of an entry of the table. None if the entry cannot be read: its packets are then evaluated again."""
    try:
        original, reply = (attributes.nested(side) for side in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY))
        protocol = reply.nested(_CTA_TUPLE_PROTO)
        return Connection(
            _source(original.nested(_CTA_TUPLE_IP)),
            _source(reply.nested(_CTA_TUPLE_IP)),
            protocol.integer(_CTA_PROTO_NUM, U8),
            protocol.integer(_CTA_PROTO_SRC_PORT, U16, 0),
        )
    except MalformedMessageError:
        return None


def _source(addresses: Attributes) -> AddressKey:
    return address_key(
        addresses.binary(_CTA_IP_V4_SRC, 4) if _CTA_IP_V4_SRC in addresses else addresses.binary(_CTA_IP_V6_SRC, 16)
    )


def _clear(netlink: socket.socket, connections: list[Entry], label: bytes) -> None:
    updates = []
    for sequence, connection in enumerate(connections, start=1):
        which = [nested(_CTA_TUPLE_ORIG, connection.attributes[_CTA_TUPLE_ORIG])]
        if _CTA_ZONE in connection.attributes:
            which.append(attribute(_CTA_ZONE, connection.attributes[_CTA_ZONE]))
        updates.append(
            message(
                _IPCTNL_MSG_CT_NEW,
                *which,
                attribute(_CTA_LABELS, bytes(_LABEL_BYTES)),
                attribute(_CTA_LABELS_MASK, label),
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
