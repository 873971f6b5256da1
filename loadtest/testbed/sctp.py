"""A minimal SCTP encoder and decoder for raw sockets, for kernels without SCTP sockets: an INIT and its INIT ACK.

Byte order: network order, except the checksum, which goes out least significant byte first. Source: RFC 9260 sections 3.1, 3.3.2, 6.8.
"""

import struct

from typing import NamedTuple

INIT = 1
INIT_ACK = 2

_COMMON = struct.Struct("!HHII")  # source port, destination port, verification tag, checksum
_CHUNK = struct.Struct("!BBHIIHHI")  # type, flags, length, initiate tag, receive window, out and in streams, first TSN
_COOKIE = struct.pack("!HH4s", 7, 8, b"none")  # State Cookie, mandatory in an INIT ACK
_CHECKSUM = struct.Struct("<I")
_WINDOW_BYTES = 65536


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 (eight steps of one division)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


class Packet(NamedTuple):
    """The fields that match an INIT ACK with its INIT."""

    source_port: int
    destination_port: int
    verification_tag: int
    chunk: int
    initiate_tag: int


def build(packet: Packet) -> bytes:
    """An INIT or INIT ACK with a correct checksum: conntrack treats other packets as invalid."""
    parameters = _COOKIE if packet.chunk == INIT_ACK else b""
    chunk = _CHUNK.pack(packet.chunk, 0, _CHUNK.size + len(parameters), packet.initiate_tag, _WINDOW_BYTES, 1, 1, 1)
    data = _COMMON.pack(packet.source_port, packet.destination_port, packet.verification_tag, 0) + chunk + parameters
    return data[:8] + _CHECKSUM.pack(crc32c(data)) + data[12:]


def parse(data: bytes) -> Packet | None:
    """The packet in the payload of an IP packet, or None if it is neither an INIT nor an INIT ACK."""
    if len(data) < _COMMON.size + _CHUNK.size:
        return None
    source_port, destination_port, verification_tag, _checksum = _COMMON.unpack_from(data)
    chunk, _flags, _length, initiate_tag, *_rest = _CHUNK.unpack_from(data, _COMMON.size)
    if chunk not in {INIT, INIT_ACK}:
        return None
    return Packet(source_port, destination_port, verification_tag, chunk, initiate_tag)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
