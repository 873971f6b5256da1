"""Encoder and decoder of nfnetlink messages.

Byte order: netlink and nfgenmsg headers are in host order except `res_id`; the contents of attributes are in network order, as every
nfnetlink subsystem requires. Source: linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

import contextlib
import itertools
import os
import socket
import struct

from collections.abc import Collection, Iterator
from typing import NamedTuple

NETLINK_NETFILTER = 12
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLMSG_ERROR = 0x2
NLMSG_DONE = 0x3
NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, res_id
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_ERROR = struct.Struct("=i")  # struct nlmsgerr: error
_DUMP_ATTEMPTS = 10
_SEQUENCES = itertools.count(1)


def next_sequence() -> int:
    """A sequence number that this process has not used in its last 2^32 requests."""
    return next(_SEQUENCES) & 0xFFFFFFFF


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute with its header, padded to four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + b"\x00" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def message(kind: int, *attributes: bytes, flags: int = 0, sequence: int = 0, family: int = 0, resource_id: int = 0) -> bytes:
    """A whole request. `kind`: subsystem << 8 | message type; `resource_id`: a queue number, or a subsystem in batch messages."""
    body = _GENERIC.pack(family, 0, resource_id) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


class Message(NamedTuple):
    """A message with its header. `port`: of the socket that it answers, or, in a notification, of the one that made the change."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


def split(data: bytes) -> Iterator[Message]:
    """The messages of one datagram, up to the first malformed one."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield Message(kind, flags, sequence, port, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def attributes_of(body: bytes) -> dict[int, bytes]:
    """The attributes of a whole message body, by kind; see `parse_attributes`."""
    return parse_attributes(body[_GENERIC.size :])


def read_acknowledgements(netlink: socket.socket, sequences: set[int]) -> None:
    """Wait until each of the sequence numbers is acknowledged. Raises `OSError` with the kernel's errno at the first refusal.

    Other messages that arrive meanwhile are skipped. On the socket of a queue these are packets, which wait for a verdict.
    """
    waiting = set(sequences)
    while waiting:
        for answer in split(netlink.recv(65536)):
            if answer.kind == NLMSG_ERROR and answer.sequence in sequences:
                (error,) = _ERROR.unpack_from(answer.body)
                if error:
                    raise OSError(-error, os.strerror(-error))
                waiting.discard(answer.sequence)


class Entry(NamedTuple):
    """One object of a dump."""

    family: int
    attributes: dict[int, bytes]


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message body or of a nested attribute, by kind; of several with one kind the last."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & ~(NLA_F_NESTED | NLA_F_NET_BYTEORDER)] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute_list(data: bytes) -> list[bytes]:
    """The contents of a list of attributes of one kind. (`parse_attributes` keeps only the last.)"""
    found = []
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, _kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found.append(data[offset + _ATTRIBUTE.size : offset + length])
        offset += (length + 3) & ~3
    return found


def dump(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> list[Entry]:
    """All objects of a kind; repeats the dump, up to a limit, if they change meanwhile. Raises `OSError` with the kernel's errno."""
    return [Entry(body[0], attributes_of(body)) for body in dump_bodies(netlink, kind, *attributes, family=family)]


def dump_bodies(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> list[bytes]:
    """The same as messages without their netlink headers, for other families of netlink too."""
    for _ in range(_DUMP_ATTEMPTS - 1):
        with contextlib.suppress(InterruptedError):
            return list(walk_bodies(netlink, kind, *attributes, family=family))
    return list(walk_bodies(netlink, kind, *attributes, family=family))


def walk(
    netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0, containing: Collection[bytes] = ()
) -> Iterator[Entry]:
    """The objects of a kind, one after the other. The socket must not be used otherwise until the last has arrived.

    `containing`: if not empty, skip objects that contain none of these byte strings; that is faster than parsing them.
    Raises like `walk_bodies`.
    """
    for body in walk_bodies(netlink, kind, *attributes, family=family):
        if not containing or any(some in body for some in containing):
            yield Entry(body[0], attributes_of(body))


def walk_bodies(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> Iterator[bytes]:
    """The messages of a dump without their netlink headers, one after the other.

    Raises `InterruptedError` at the end if the objects changed meanwhile, so that some may be missing, and `OSError` with the
    kernel's errno.
    """
    sequence = next_sequence()
    netlink.send(message(kind, *attributes, flags=NLM_F_DUMP, sequence=sequence, family=family))
    interrupted = False
    while True:
        data = netlink.recv(65536)
        offset = 0
        # Not by `split`: a dump of connections has hundreds of thousands of messages, and a tuple for each takes measurable time.
        while offset + _HEADER.size <= len(data):
            length, kind_of, flags, of, _port = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                break
            body = data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3
            if of != sequence:
                continue  # the rest of an abandoned dump
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind_of in (NLMSG_ERROR, NLMSG_DONE):
                error = _ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
                if error:
                    raise OSError(-error, os.strerror(-error))
                if interrupted:
                    raise InterruptedError("the kernel's objects changed during the dump")
                return
            yield body


def query(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> Entry:
    """The one object that a request asks for. Raises `OSError` with the kernel's errno."""
    sequence = next_sequence()
    netlink.send(message(kind, *attributes, sequence=sequence, family=family))
    while True:
        for answer in split(netlink.recv(65536)):
            if answer.sequence != sequence:
                continue  # the rest of an abandoned dump
            if answer.kind == NLMSG_ERROR:
                (error,) = _ERROR.unpack_from(answer.body)
                raise OSError(-error, os.strerror(-error))
            return Entry(answer.body[0], attributes_of(answer.body))
