"""Packets and bytes of connections in the kernel's connection table, read where conntrack accounting is on.

`EndedConnections` gets each connection when the table loses it, `LivingConnections` reads those that are there. Neither changes a counter.
The event of an ended connection has no label, so it does not tell whether netpolq has accepted the connection. Of those that are there,
only accepted ones are returned.
Source: linux/netfilter/nfnetlink_conntrack.h, nfnetlink.h (groups), net/netfilter/nf_conntrack_netlink.c.
"""

import socket
import struct
import threading
import time

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from netpolq.addresses import address_key
from netpolq.dataplane.conntrack import Connection, label_of, read_connection
from netpolq.netlink.attributes import HOST_U32, U64, Attributes, MalformedMessageError, attribute, parse_attributes
from netpolq.netlink.nfnetlink import attributes_of, split, walk_bodies
from netpolq.netlink.nftables import open_socket

_ACCOUNTING = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
_CT_GET = 1 << 8 | 1  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
_CT_DELETE = 1 << 8 | 2
_GROUP_DESTROY = 3  # NFNLGRP_CONNTRACK_DESTROY
_SOL_NETLINK, _ADD_MEMBERSHIP, _NO_ENOBUFS = 270, 1, 5  # linux/netlink.h
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55  # asm-generic/socket.h
_MEMINFO_DROPS = struct.Struct("=32xI")  # SK_MEMINFO_DROPS, the ninth number
_ORIGINAL, _REPLY, _ID, _LABELS = 1, 2, 12, 22
_COUNTERS = 9, 10  # of the original direction and of replies
_COUNTERS_PACKETS, _COUNTERS_BYTES = 1, 2
_LABEL_BYTES = 16
_LABELS_HEADER = attribute(_LABELS, bytes(_LABEL_BYTES))[:-_LABEL_BYTES]

# What the kernel writes for IPv4 and a protocol with ports: headers of attributes that never differ, source address, protocol, source port.
_TUPLE = struct.Struct("!8s4s4s4x8sB3x4sH")
_TUPLE_HEADS = tuple(map(bytes.fromhex, ("1400018008000100", "08000200", "1c00028005000100", "06000200")))
_TWO_COUNTERS = struct.Struct("!4sQ4sQ")
_COUNTER_HEADS = struct.pack("=HH", 12, _COUNTERS_PACKETS), struct.pack("=HH", 12, _COUNTERS_BYTES)

RECEIVE_BUFFER_BYTES = 8 << 20
"""Limit of the kernel's memory for events that wait, some 6,500: the kernel removes what has timed out in batches, up to a minute apart.
It doubles the value that it is given, and an event takes 1,280 bytes of it."""

_MAX_EVENT_BYTES = 4096
_MESSAGES_BETWEEN_LOOKS = 32
"""Messages between two looks at the clock."""


class Reading(NamedTuple):
    """The counters of a connection, of both directions. `number`: its id, which is unique while it lives."""

    connection: Connection
    number: int
    packets: int
    octets: int


def is_accounting_on() -> bool:
    """Whether new connections in this network namespace get counters."""
    try:
        return _ACCOUNTING.read_text(encoding="ascii").strip() == "1"
    except (OSError, ValueError):
        return False


def read(body: bytes) -> Reading | None:
    """The counters in a message about a connection, without its netlink header. None if it has none, or cannot be read."""
    try:
        return _reading(attributes_of(body))
    except MalformedMessageError:
        return None


def _reading(attributes: Attributes) -> Reading | None:
    if _COUNTERS[0] not in attributes:
        return None
    try:
        connection = _ipv4_connection(attributes) or read_connection(attributes)
        (packets, octets), (reply_packets, reply_octets) = (_counters(attributes[side]) for side in _COUNTERS)
        number = attributes.integer(_ID, HOST_U32)
    except MalformedMessageError:
        return None
    if connection is None:
        return None
    return Reading(connection, number, packets + reply_packets, octets + reply_octets)


def _ipv4_connection(attributes: Attributes) -> Connection | None:
    """The connection in the form that most have, which takes a fraction of the time of `read_connection`; None for every other form."""
    original, reply = attributes[_ORIGINAL], attributes[_REPLY]
    if len(original) < _TUPLE.size or len(reply) < _TUPLE.size:
        return None
    head, source = _TUPLE.unpack_from(original)[:2]
    reply_head, destination, *heads, protocol, port_head, port = _TUPLE.unpack_from(reply)
    if head != _TUPLE_HEADS[0] or (reply_head, *heads, port_head) != _TUPLE_HEADS:
        return None
    return Connection(address_key(source), address_key(destination), protocol, port)


def _counters(data: bytes) -> tuple[int, int]:
    """Packets and bytes of one direction."""
    if len(data) == _TWO_COUNTERS.size:
        packets_head, packets, octets_head, octets = _TWO_COUNTERS.unpack(data)
        if (packets_head, octets_head) == _COUNTER_HEADS:
            return packets, octets
    found = parse_attributes(data)
    return found.integer(_COUNTERS_PACKETS, U64, 0), found.integer(_COUNTERS_BYTES, U64, 0)


class EndedConnections:
    """The connections that the kernel's table loses, from the time when this is made. Raises `OSError` if the kernel refuses."""

    def __init__(self, receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self._netlink = open_socket()
        try:
            self._netlink.setblocking(False)
            self._netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer_bytes // 2)
            self._netlink.bind((0, 0))
            # Losses are read as a number. With the error the kernel would drop everything else, too, until all that waits has been read.
            self._netlink.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
            self._netlink.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_DESTROY)
        except OSError:
            self._netlink.close()
            raise

    def close(self) -> None:
        """Stop."""
        self._netlink.close()

    @property
    def missed(self) -> int:
        """Connections for which the receive buffer had no room."""
        return int(_MEMINFO_DROPS.unpack(self._netlink.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_DROPS.size))[0])

    def drain(self, limit_s: float) -> tuple[list[Reading], bool]:
        """What has come, read for about so long, and whether it is all. Raises `OSError`."""
        found: list[Reading] = []
        until_s = time.perf_counter() + limit_s
        while time.perf_counter() < until_s:
            for _ in range(_MESSAGES_BETWEEN_LOOKS):
                try:
                    data = self._netlink.recv(_MAX_EVENT_BYTES)
                except BlockingIOError:
                    return found, True
                found += _ended(data)
        return found, False


def _ended(data: bytes) -> Iterator[Reading]:
    """The readings in a datagram, up to one that is cut."""
    try:
        for kind, _flags, _sequence, _port, body in split(data):
            if kind == _CT_DELETE and (reading := read(body)) is not None:
                yield reading
    except MalformedMessageError:
        return


class LivingConnections:
    """The accepted connections that are in the table, read in portions. `label_bit`: that of acceptance. Raises `OSError`."""

    def __init__(self, label_bit: int) -> None:
        label = label_of(label_bit)
        self._index, self._bit = next((index, byte) for index, byte in enumerate(label) if byte)
        self._netlink = open_socket()
        self._reading = threading.Lock()
        self._bodies = walk_bodies(self._netlink, _CT_GET)

    def close(self) -> None:
        """Stop, also before the end. Waits for a portion that another thread reads."""
        with self._reading:
            self._netlink.close()

    def portion(self, limit_s: float) -> tuple[list[Reading], bool]:
        """What was read for about so long, and whether it was the last. Blocks while the kernel fills a message.

        Raises `OSError`; `InterruptedError` at the end if some connections may have been left out.
        """
        with self._reading:
            return self._portion(limit_s)

    def _portion(self, limit_s: float) -> tuple[list[Reading], bool]:
        found: list[Reading] = []
        until_s = time.perf_counter() + limit_s
        while time.perf_counter() < until_s:
            for _ in range(_MESSAGES_BETWEEN_LOOKS):
                body = next(self._bodies, None)
                if body is None:
                    return found, True
                if _LABELS_HEADER in body and (reading := self._accepted(body)) is not None:
                    found.append(reading)
        return found, False

    def _accepted(self, body: bytes) -> Reading | None:
        try:
            attributes = attributes_of(body)
        except MalformedMessageError:
            return None
        label = attributes.get(_LABELS, b"")
        if len(label) != _LABEL_BYTES or not label[self._index] & self._bit:
            return None
        return _reading(attributes)
