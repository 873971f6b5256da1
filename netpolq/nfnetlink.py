"""Encoding of nfnetlink messages, as far as the agent speaks them itself: queue configuration, verdicts, one rule.

Byte order: netlink and nfgenmsg headers are in host order except `res_id`; the contents of attributes are in network order, as every
nfnetlink subsystem wants them. Source: linux/netlink.h, linux/netfilter/nfnetlink.h.
"""

import os
import socket
import struct

NETLINK_NETFILTER = 12
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLMSG_ERROR = 0x2
NLA_F_NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_GENERIC = struct.Struct("!BBH")  # struct nfgenmsg: family, version, res_id
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_ERROR = struct.Struct("=i")  # struct nlmsgerr: error


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


def read_acknowledgements(netlink: socket.socket, sequences: set[int]) -> None:
    """Wait until each of the sequence numbers is acknowledged. Raises `OSError` with the kernel's errno at the first refusal.

    Other messages that arrive meanwhile are skipped, so this must not run on a socket that already delivers packets.
    """
    waiting = set(sequences)
    while waiting:
        data = netlink.recv(65536)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, _flags, sequence, _port = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size:
                break
            if kind == NLMSG_ERROR and sequence in sequences:
                (error,) = _ERROR.unpack_from(data, offset + _HEADER.size)
                if error:
                    raise OSError(-error, os.strerror(-error))
                waiting.discard(sequence)
            offset += (length + 3) & ~3
