"""The packet parser: bytes to flow. It checks all bounds and never raises.

The queue copies the first `COPY_BYTES` of each packet, from the IP header on. A packet whose headers do not fit is malformed.
Sources: RFC 791 and RFC 8200 (headers), RFC 4302 section 2.2 (length of an authentication header), IANA's protocol numbers.
"""

import struct

from netpolq.addresses import IPV4_MAPPED_PREFIX

COPY_BYTES = 128

TCP = 6
UDP = 17
SCTP = 132
ICMP = 1
ICMPV6 = 58

WITH_PORTS = frozenset((TCP, UDP, SCTP))

_IPV4_PLAIN = struct.Struct("!6xHxB2x4s4sHH")  # an IPv4 header without options, and the ports
_PORTS = struct.Struct("!HH")
_FRAGMENT_OFFSET = 0x1FFF

_HOP_BY_HOP = 0
_ROUTING = 43
_FRAGMENT = 44
_AUTHENTICATION = 51
_DESTINATION_OPTIONS = 60
_EIGHT_BYTE_UNITS = frozenset((_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS))

_EXTENSION_HEADERS = _EIGHT_BYTE_UNITS | {_FRAGMENT, _AUTHENTICATION}
"""The headers that the kernel skips: in conntrack, in nftables and in the pod (ipv6_ext_hdr in net/ipv6/exthdrs_core.c). It treats
Mobility, HIP and Shim6 (RFC 7045) as protocols. If the parser skipped them, a packet would count as TCP that no pod treats as TCP, and the
accept would be recorded for all packets of their protocol.
"""

Flow = tuple[bytes, bytes, int, int, int]
"""Source, destination, protocol, source port, destination port, as sent: everything that a verdict can depend on.

Addresses are 4 or 16 bytes in network order. Ports are 0 unless the protocol is TCP, UDP or SCTP and the packet is not a later
fragment. A plain tuple, because one is made for every packet.
"""

Question = tuple[bytes, bytes, int, int]
"""Source, destination, protocol and destination port of a connection, in its original direction."""

Key = tuple[int, int, bytes, int] | tuple[int, bytes, int]
"""A question in the layout that one `struct` call takes out of a packet. IPv4: flags and fragment offset, protocol, both addresses,
destination port. IPv6: next header, both addresses, destination port.

`IPV4_KEY` and `IPV6_KEY` may be applied to any packet of their version that is long enough. For a packet without a plain header, they
return a key that is never stored, or the key of the same question:
- a later fragment has an offset, and stored keys have none;
- for a protocol without ports, the two bytes at the offset of the port are 0, or the key is not stored;
- a stored IPv6 key never has an extension header as its protocol (`UNKEYED_PROTOCOLS`).
"""

IPV4_KEY = struct.Struct("!6xHxB2x8s2xH")
IPV6_KEY = struct.Struct("!6xBx32s2xH")
_DONT_FRAGMENT = 0x4000

UNKEYED_PROTOCOLS = _EXTENSION_HEADERS
"""Protocols whose questions are not stored under a key. A later fragment may have such a "protocol" as its next header."""

SERIES = tuple((protocol, family) for protocol in (TCP, UDP, SCTP, ICMP, ICMPV6, -1) for family in (4, 16))
"""The series in which packets are counted: protocol (-1: any other) and bytes of an address."""

_SERIES_BY_FAMILY = {
    wanted: {protocol: index for index, (protocol, family) in enumerate(SERIES) if family == wanted} for wanted in (4, 16)
}


def series_of(protocol: int, address_bytes: int) -> int:
    """The index into `SERIES` of a packet."""
    indexes = _SERIES_BY_FAMILY[address_bytes]
    return indexes[protocol] if protocol in indexes else indexes[-1]


def key_of(question: Question) -> Key:
    """The key of a question, without a packet: with the flags of an unfragmented one."""
    source, destination, protocol, port = question
    if len(source) == 4:
        return _DONT_FRAGMENT, protocol, source + destination, port
    return protocol, source + destination, port


def plain_question(key: Key) -> Question | None:
    """The question of a packet, from its key; None if the packet must be parsed."""
    if len(key) == 4:
        flags, protocol, addresses, port = key
        if protocol not in WITH_PORTS or flags & _FRAGMENT_OFFSET:
            return None
        return addresses[:4], addresses[4:], protocol, port
    protocol, addresses, port = key
    if protocol not in WITH_PORTS or IPV4_MAPPED_PREFIX in (addresses[:12], addresses[16:28]):
        return None
    return addresses[:16], addresses[16:], protocol, port


def question_of(key: Key) -> Question:
    """The question that is stored under a key."""
    if len(key) == 4:
        _flags, protocol, addresses, port = key
        return addresses[:4], addresses[4:], protocol, port
    protocol, addresses, port = key
    return addresses[:16], addresses[16:], protocol, port


def parse(packet: bytes) -> Flow | None:
    """The flow of a packet, or None if it is malformed."""
    if len(packet) < 20:
        return None
    first = packet[0]
    if first == 0x45 and len(packet) >= 24:
        fragment, protocol, source, destination, source_port, destination_port = _IPV4_PLAIN.unpack_from(packet)
        if protocol in WITH_PORTS and not fragment & _FRAGMENT_OFFSET:
            return source, destination, protocol, source_port, destination_port
    if first >> 4 == 4:
        return _parse_ipv4(packet)
    if first >> 4 == 6:
        return _parse_ipv6(packet)
    return None


def header_of(flow: Flow) -> bytes:
    """The start of a packet that `parse` reads as this flow."""
    source, destination, protocol, source_port, destination_port = flow
    ports = _PORTS.pack(source_port, destination_port)
    if len(source) == 4:
        return bytes((0x45, *bytes(8), protocol, *bytes(2))) + source + destination + ports
    # A later fragment has a protocol that may be the number of an extension header: so is this one.
    fragment = bytes((protocol, 0, 0, 8, *bytes(4))) if protocol in _EXTENSION_HEADERS else b""
    following = _FRAGMENT if fragment else protocol
    return bytes((0x60, *bytes(5), following, 0)) + source + destination + fragment + ports


def transport_of(packet: bytes) -> tuple[int, int, int] | None:
    """Protocol of a packet, offset of the header behind IP, and the packet's own length; None if it is malformed or a later fragment.

    The offset and the length may lie behind the end of `packet`.
    """
    if parse(packet) is None:
        return None
    if packet[0] >> 4 == 4:
        if (packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET:
            return None
        return packet[9], (packet[0] & 0xF) * 4, packet[2] << 8 | packet[3]
    protocol, offset = packet[6], 40
    while protocol in _EXTENSION_HEADERS:  # `parse` has checked that they are there
        following = packet[offset]
        if protocol == _FRAGMENT:
            if (packet[offset + 2] << 8 | packet[offset + 3]) >> 3:
                return None
            length = 8
        else:
            length = (packet[offset + 1] + 2) * 4 if protocol == _AUTHENTICATION else (packet[offset + 1] + 1) * 8
        protocol = following
        offset += length
    return protocol, offset, 40 + (packet[4] << 8 | packet[5])


def _parse_ipv4(packet: bytes) -> Flow | None:
    header_bytes = (packet[0] & 0xF) * 4
    if header_bytes < 20 or len(packet) < header_bytes:
        return None
    source, destination, protocol = packet[12:16], packet[16:20], packet[9]
    if (packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET:
        return source, destination, protocol, 0, 0
    return _with_ports(packet, source, destination, protocol, header_bytes)


def _parse_ipv6(packet: bytes) -> Flow | None:
    if len(packet) < 40:
        return None
    source, destination = packet[8:24], packet[24:40]
    if source.startswith(IPV4_MAPPED_PREFIX) or destination.startswith(IPV4_MAPPED_PREFIX):
        # Such addresses must not be on a wire (RFC 4942 section 2.2). Evaluated as they are, they would match a pod's IPv4 address.
        return None
    protocol = packet[6]
    offset = 40
    while True:
        if protocol in _EIGHT_BYTE_UNITS:
            if len(packet) < offset + 2:
                return None
            following, length = packet[offset], (packet[offset + 1] + 1) * 8
        elif protocol == _AUTHENTICATION:
            if len(packet) < offset + 2:
                return None
            following, length = packet[offset], (packet[offset + 1] + 2) * 4
        elif protocol == _FRAGMENT:
            if len(packet) < offset + 8:
                return None
            following, length = packet[offset], 8
            if (packet[offset + 2] << 8 | packet[offset + 3]) >> 3:
                # The rest is payload: bytes that look like further headers are under the sender's control.
                return source, destination, following, 0, 0
        else:
            return _with_ports(packet, source, destination, protocol, offset)
        protocol = following
        offset += length


def _with_ports(packet: bytes, source: bytes, destination: bytes, protocol: int, offset: int) -> Flow | None:
    if protocol not in WITH_PORTS:
        return source, destination, protocol, 0, 0
    if len(packet) < offset + 4:
        return None
    source_port, destination_port = _PORTS.unpack_from(packet, offset)
    return source, destination, protocol, source_port, destination_port
