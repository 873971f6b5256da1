"""Builder of answers to denied packets: a TCP RST, or an ICMP error that says that the communication is prohibited. Pure, and never raises.

An answer goes to the source of the packet, and comes from the destination that its sender has asked for, before destination NAT: the
sender's socket accepts no other. Packets of which a host must not answer get none: a RST, an ICMP error, a later fragment, an address that
is not that of one host.

Sources: RFC 9293 section 3.10.7.1 (RST), RFC 792 and RFC 1812 section 5.2.7.1 (type 3 code 13), RFC 4443 sections 2.4(e) and 3.1 (type 1
code 1), RFC 1122 section 3.2.2 (packets without an answer), RFC 1624 (change of a checksum).
"""

import struct

from typing import NamedTuple

from netpolq_worker.worker.packet import ICMP, ICMPV6, TCP, UDP, WITH_PORTS, transport_of

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_TCP = struct.Struct("!HHIIBBHHH")
_ICMP_ERROR = struct.Struct("!BBHI")
_PORT = struct.Struct("!H")

_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_TTL = 64
_DONT_FRAGMENT = 0x4000
_TCP_HEADER_BYTES = 20

_UNREACHABLE = {4: (3, 13), 16: (1, 1)}
"""Type and code of the ICMP error, by the bytes of an address."""
_MAX_ANSWER_BYTES = {4: 576, 16: 1280}
"""Source: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4(c)."""

_IPV4_ERRORS = frozenset({3, 4, 5, 11, 12})
_IPV6_FIRST_QUERY = 128
_IPV6_REDIRECT = 137


class Destination(NamedTuple):
    """Where a packet goes. `port`: 0 without one."""

    address: bytes
    port: int


class Denied(NamedTuple):
    """A denied packet that may be answered. `transport`: offset of the header behind IP; `transport_bytes`: of it and its data.

    `source_port`, `destination.port`: 0 unless the protocol is TCP, UDP or SCTP.
    """

    packet: bytes
    source: bytes
    destination: Destination
    protocol: int
    source_port: int
    transport: int
    transport_bytes: int


def answerable(packet: bytes) -> Denied | None:
    """The fields of a packet that may be answered; None for any other. `packet`: from the IP header on, perhaps without its end."""
    found = transport_of(packet)
    if found is None:
        return None
    protocol, transport, end = found
    is_ipv4 = packet[0] >> 4 == 4
    source, destination = (packet[12:16], packet[16:20]) if is_ipv4 else (packet[8:24], packet[24:40])
    if not (_is_one_host(source) and _is_one_host(destination)) or end < transport:
        return None
    source_port = destination_port = 0
    if protocol in WITH_PORTS:
        if min(len(packet), end) < transport + 8:  # the shortest of their headers; also what RFC 792 needs of the packet
            return None
        source_port, destination_port = struct.unpack_from("!HH", packet, transport)
    elif protocol in (ICMP, ICMPV6) and (min(len(packet), end) <= transport or _is_icmp_error(protocol, packet[transport])):
        return None
    return Denied(packet, source, Destination(destination, destination_port), protocol, source_port, transport, end - transport)


def answer_to(denied: Denied, asked: Destination) -> bytes | None:
    """The answer, from its IP header on; None if there must be none. `asked`: the destination before destination NAT."""
    return _reset(denied, asked) if denied.protocol == TCP else _unreachable(denied, asked)


def _is_one_host(address: bytes) -> bool:
    """Whether an address may be that of one other host: not unspecified, loopback, multicast, broadcast or reserved."""
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 224
    return address[0] != 0xFF and address[:15] != bytes(15)


def _is_icmp_error(protocol: int, kind: int) -> bool:
    if protocol == ICMP:
        return kind in _IPV4_ERRORS
    return kind < _IPV6_FIRST_QUERY or kind == _IPV6_REDIRECT


def _reset(denied: Denied, asked: Destination) -> bytes | None:
    packet, transport = denied.packet, denied.transport
    if len(packet) < transport + _TCP_HEADER_BYTES:
        return None
    _source, _destination, sequence, acknowledged, offset, flags, *_rest = _TCP.unpack_from(packet, transport)
    data_bytes = denied.transport_bytes - (offset >> 4) * 4
    if flags & _RST or offset >> 4 < 5 or data_bytes < 0:
        return None
    if flags & _ACK:
        reset_sequence, reset_acknowledged, reset_flags = acknowledged, 0, _RST
    else:
        after = sequence + data_bytes + bool(flags & _SYN) + bool(flags & _FIN)
        reset_sequence, reset_acknowledged, reset_flags = 0, after & 0xFFFFFFFF, _RST | _ACK
    ports = asked.port, denied.source_port

    def header(checksum: int) -> bytes:
        return _TCP.pack(*ports, reset_sequence, reset_acknowledged, 5 << 4, reset_flags, 0, checksum, 0)

    segment = header(_checksum(_pseudo_header(asked.address, denied.source, TCP, _TCP_HEADER_BYTES) + header(0)))
    return _ip_header(asked.address, denied.source, TCP, len(segment)) + segment


def _unreachable(denied: Denied, asked: Destination) -> bytes:
    family = len(denied.source)
    protocol = ICMP if family == 4 else ICMPV6
    outer_bytes = (_IPV4.size if family == 4 else _IPV6.size) + _ICMP_ERROR.size
    kind, code = _UNREACHABLE[family]
    # Without padding of the link layer: the packet has its own length.
    whole = denied.packet[: denied.transport + denied.transport_bytes]
    quoted = _as_sent(denied._replace(packet=whole), asked)[: _MAX_ANSWER_BYTES[family] - outer_bytes]
    pseudo = b"" if family == 4 else _pseudo_header(asked.address, denied.source, protocol, _ICMP_ERROR.size + len(quoted))
    checksum = _checksum(pseudo + _ICMP_ERROR.pack(kind, code, 0, 0) + quoted)
    message = _ICMP_ERROR.pack(kind, code, checksum, 0) + quoted
    return _ip_header(asked.address, denied.source, protocol, len(message)) + message


def _as_sent(denied: Denied, asked: Destination) -> bytes:
    """The packet as its sender has sent it, apart from its TTL: by the ports in it, the sender finds its socket."""
    packet = bytearray(denied.packet)
    if len(asked.address) == 4:
        packet[16:20] = asked.address
        header_bytes = (packet[0] & 0xF) * 4
        packet[10:12] = bytes(2)
        packet[10:12] = _PORT.pack(_checksum(packet[:header_bytes]))
    else:
        packet[24:40] = asked.address
    if denied.protocol in WITH_PORTS:
        packet[denied.transport + 2 : denied.transport + 4] = _PORT.pack(asked.port)
    if denied.protocol == UDP and (present := packet[denied.transport + 6 : denied.transport + 8]) != bytes(2):
        before, after = (end.address + _PORT.pack(end.port) for end in (denied.destination, asked))
        inverse = bytes(~byte & 0xFF for byte in (*present, *before))
        packet[denied.transport + 6 : denied.transport + 8] = _PORT.pack(_checksum(inverse + after) or 0xFFFF)
    return bytes(packet)


def _ip_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 16:
        return _IPV6.pack(6 << 28, length, protocol, _TTL, source, destination)
    fields = 0x45, 0, _IPV4.size + length, 0, _DONT_FRAGMENT, _TTL, protocol
    checksum = _checksum(_IPV4.pack(*fields, 0, source, destination))
    return _IPV4.pack(*fields, checksum, source, destination)


def _pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What a checksum covers besides the message. Source: RFC 9293 section 3.1, RFC 8200 section 8.1; the sums of both forms are equal."""
    return source + destination + struct.pack("!II", length, protocol)


def _checksum(data: bytes | bytearray) -> int:
    """The Internet checksum. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", bytes(data) + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
