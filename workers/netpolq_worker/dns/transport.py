"""The packet reader: ports, and the UDP or TCP payload of a packet that can hold DNS.

The flow is the workers' reading of the packet. The payload is read only behind a plain header: an IPv4 header with any options, or an IPv6
header without extension headers. Sources: RFC 791, RFC 8200, RFC 768, RFC 9293.
"""

import struct

from typing import NamedTuple

from netpolq.addresses import address_key
from netpolq_worker.worker.packet import TCP, UDP, Flow, parse

FIN, SYN, RST, ACK = 1, 2, 4, 16

_IPV4_LENGTH_AND_FRAGMENT = struct.Struct("!2xH2xH")
_FRAGMENT = 0x3FFF  # more fragments, or an offset
_UDP_LENGTH = struct.Struct("!4xH")
_UDP_BYTES = 8
_TCP = struct.Struct("!4xI4xBB")


class Connection(NamedTuple):
    """The two ends of a conversation. Addresses are 16-byte keys."""

    pod: bytes
    pod_port: int
    server: bytes
    protocol: int


class Transport(NamedTuple):
    """Payload of a packet: a UDP datagram (`sequence` and `flags` 0), or a TCP segment."""

    payload: bytes
    sequence: int
    flags: int


def read_flow(packet: bytes) -> Flow | None:
    """Addresses and ports of a packet, as workers read them; None if it is malformed."""
    return parse(packet)


def connection_of_query(flow: Flow) -> Connection:
    """The connection of a packet from the pod."""
    source, destination, protocol, source_port, _destination_port = flow
    return Connection(address_key(source), source_port, address_key(destination), protocol)


def connection_of_response(flow: Flow) -> Connection:
    """The connection of a packet to the pod."""
    source, destination, protocol, _source_port, destination_port = flow
    return Connection(address_key(destination), destination_port, address_key(source), protocol)


def read_transport(packet: bytes, protocol: int) -> Transport | None:
    """The payload of a packet with a flow of this protocol; None if the packet is a fragment, or has no payload to read."""
    try:
        offset, end = _bounds(packet)
        if protocol == UDP:
            (udp_bytes,) = _UDP_LENGTH.unpack_from(packet, offset)
            if udp_bytes < _UDP_BYTES or offset + udp_bytes > end:
                return None
            return Transport(packet[offset + _UDP_BYTES : offset + udp_bytes], 0, 0)
        if protocol == TCP:
            sequence, header_words, flags = _TCP.unpack_from(packet, offset)
            start = offset + (header_words >> 4) * 4
            if header_words >> 4 < 5 or start > end:
                return None
            return Transport(packet[start:end], sequence, flags)
    except (struct.error, IndexError, ValueError):
        return None
    return None


def _bounds(packet: bytes) -> tuple[int, int]:
    """Where the transport header begins, and where the packet ends. Raises `ValueError` without a plain header."""
    if packet[0] >> 4 == 4:
        total, fragment = _IPV4_LENGTH_AND_FRAGMENT.unpack_from(packet)
        if fragment & _FRAGMENT:
            raise ValueError("a fragment")
        # Total length 0: more than 64 KiB, before the kernel splits it (BIG TCP).
        return (packet[0] & 0xF) * 4, min(total, len(packet)) if total else len(packet)
    if packet[6] not in {TCP, UDP}:
        raise ValueError("extension headers")
    return 40, len(packet)
