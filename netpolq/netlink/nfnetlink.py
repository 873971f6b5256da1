"""Encoder and decoder of nfnetlink messages, and the requests that read objects.

Byte order: netlink and nfgenmsg headers are in host order except `res_id`. Functions that receive may raise `MalformedMessageError`, which
is an `OSError`. Source: linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

import contextlib
import itertools
import os
import socket
import struct

from collections.abc import Collection, Iterator
from typing import NamedTuple

from netpolq.netlink.attributes import Attributes, MalformedMessageError, parse_attributes

NETLINK_NETFILTER = 12
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLMSG_ERROR = 0x2
NLMSG_DONE = 0x3

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, res_id
_ERROR = struct.Struct("=i")  # struct nlmsgerr: error
_MAX_ERRNO = 4095  # linux/err.h
_DUMP_ATTEMPTS = 10
_RECEIVE_BYTES = 1 << 17
"""More than any message: a refusal repeats the whole request, and its attributes have up to 64 KiB."""

_SEQUENCES = itertools.count(1)


def next_sequence() -> int:
    """A sequence number that this process has not used in its last 2^32 requests."""
    return next(_SEQUENCES) & 0xFFFFFFFF


def message(kind: int, *attributes: bytes, flags: int = 0, sequence: int = 0, family: int = 0, resource_id: int = 0) -> bytes:
    """A whole request. `kind`: subsystem << 8 | message type; `resource_id`: a queue number, or a subsystem in batch messages."""
    body = _GENERIC.pack(family, 0, resource_id) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


Message = tuple[int, int, int, int, bytes]
"""Kind, flags, sequence, port, and body without the netlink header. Port: of the socket that it answers, or, in a notification, of the one
that made the change. Not a named tuple: a dump of connections has hundreds of thousands of messages."""


def split(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises `MalformedMessageError` at one that is cut."""
    offset, end = 0, len(data)
    while offset < end:
        if offset + _HEADER.size > end:
            raise MalformedMessageError(f"{end - offset} bytes are left where a message begins")
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= end - offset:
            raise MalformedMessageError(f"message of kind {kind:#x} claims {length} of {end - offset} bytes")
        yield kind, flags, sequence, port, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attributes_of(body: bytes) -> Attributes:
    """The attributes of a whole message body. Raises `MalformedMessageError`."""
    if len(body) < _GENERIC.size:
        raise MalformedMessageError(f"message has {len(body)} bytes instead of at least {_GENERIC.size}")
    return parse_attributes(body[_GENERIC.size :])


def read_acknowledgements(netlink: socket.socket, sequences: set[int]) -> None:
    """Wait until each of the sequence numbers is acknowledged. Raises `OSError` with the kernel's errno at the first refusal.

    Other messages that arrive meanwhile are skipped. On the socket of a queue these are packets, which wait for a verdict.
    """
    waiting = set(sequences)
    while waiting:
        for kind, _flags, sequence, _port, body in split(netlink.recv(_RECEIVE_BYTES)):
            if kind == NLMSG_ERROR and sequence in sequences:
                _raise_error(body)
                waiting.discard(sequence)


class Entry(NamedTuple):
    """One object of a dump."""

    family: int
    attributes: Attributes


def dump(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> list[Entry]:
    """All objects of a kind; repeats the dump, up to a limit, if they change meanwhile. Raises `OSError` with the kernel's errno."""
    return [_entry(body) for body in dump_bodies(netlink, kind, *attributes, family=family)]


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
            yield _entry(body)


def walk_bodies(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> Iterator[bytes]:
    """The messages of a dump without their netlink headers, one after the other.

    Raises `InterruptedError` at the end if the objects changed meanwhile, so that some may be missing, and `OSError` with the
    kernel's errno.
    """
    sequence = next_sequence()
    netlink.send(message(kind, *attributes, flags=NLM_F_DUMP, sequence=sequence, family=family))
    interrupted = False
    while True:
        for kind_of, flags, of, _port, body in split(netlink.recv(_RECEIVE_BYTES)):
            if of != sequence:
                continue  # the rest of an abandoned dump
            interrupted |= bool(flags & NLM_F_DUMP_INTR)
            if kind_of in (NLMSG_ERROR, NLMSG_DONE):
                _raise_error(body)
                if interrupted:
                    raise InterruptedError("the kernel's objects changed during the dump")
                return
            yield body


def query(netlink: socket.socket, kind: int, *attributes: bytes, family: int = 0) -> Entry:
    """The one object that a request asks for. Raises `OSError` with the kernel's errno."""
    sequence = next_sequence()
    netlink.send(message(kind, *attributes, sequence=sequence, family=family))
    while True:
        for kind_of, _flags, of, _port, body in split(netlink.recv(_RECEIVE_BYTES)):
            if of != sequence:
                continue  # the rest of an abandoned dump
            if kind_of == NLMSG_ERROR:
                _raise_error(body)
                raise MalformedMessageError("acknowledgement instead of an object")
            return _entry(body)


def _entry(body: bytes) -> Entry:
    attributes = attributes_of(body)
    return Entry(body[0], attributes)


def _raise_error(body: bytes) -> None:
    """Raise the error of an NLMSG_ERROR or NLMSG_DONE; 0 is none."""
    if len(body) < _ERROR.size:
        raise MalformedMessageError(f"acknowledgement has {len(body)} bytes instead of at least {_ERROR.size}")
    (error,) = _ERROR.unpack_from(body)
    if not -_MAX_ERRNO <= error <= 0:
        raise MalformedMessageError(f"acknowledgement has error {error}")
    if error:
        raise OSError(-error, os.strerror(-error))
