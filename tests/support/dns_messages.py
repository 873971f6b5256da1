"""DNS messages and the packets that carry them, built byte by byte or by dnspython."""

import socket
import struct

from collections.abc import Sequence

import dns.flags
import dns.message
import dns.name
import dns.rrset

from netpolq_worker.worker.packet import TCP, UDP

POD, OTHER_POD, SERVER, STRANGER = "10.0.0.5", "10.0.0.6", "10.0.0.53", "10.0.9.9"
POD6, SERVER6 = "fd00::5", "fd00::53"
POD_PORT = 40_000


def query(name: str = "www.example.com.", record_type: str = "A", message_id: int = 7) -> bytes:
    """A query as a resolver library sends it."""
    made = dns.message.make_query(name, record_type)
    made.id = message_id
    return made.to_wire()


def records(owner: str, record_type: str, *data: str, ttl: int = 300) -> dns.rrset.RRset:
    """Records of one name."""
    return dns.rrset.from_text(owner, ttl, "IN", record_type, *data)


def response(asked: bytes, *answer: dns.rrset.RRset, rcode: int = 0, truncated: bool = False) -> bytes:
    """The response of a server to a query."""
    made = dns.message.make_response(dns.message.from_wire(asked))
    made.answer = list(answer)
    made.set_rcode(dns.rcode.Rcode(rcode))
    if truncated:
        made.flags |= dns.flags.TC
    return made.to_wire()


def answered(asked: bytes, *addresses: str, ttl: int = 300) -> bytes:
    """The response with addresses of the name that was asked for."""
    name = str(dns.message.from_wire(asked).question[0].name)
    record_type = "AAAA" if addresses and ":" in addresses[0] else "A"
    return response(asked, *((records(name, record_type, *addresses, ttl=ttl),) if addresses else ()))


def udp(source: str, destination: str, payload: bytes, source_port: int, destination_port: int) -> bytes:
    """A packet with a datagram. Checksums are left out: the reader does not look at them."""
    datagram = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    return _packet(source, destination, UDP, datagram)


def tcp(source: str, destination: str, payload: bytes, ports: tuple[int, int], *, sequence: int = 0, flags: int = 16) -> bytes:
    """A packet with a segment. `ports`: source and destination."""
    segment = struct.pack("!HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, 0, 6 << 4, flags, 65535, 0, 0) + bytes(4) + payload
    return _packet(source, destination, TCP, segment)


def udp_query(payload: bytes, pod: str = POD, server: str = SERVER, port: int = POD_PORT) -> bytes:
    """A datagram from a pod to a server."""
    return udp(pod, server, payload, port, 53)


def udp_response(payload: bytes, pod: str = POD, server: str = SERVER, port: int = POD_PORT) -> bytes:
    """A datagram from a server to a pod."""
    return udp(server, pod, payload, 53, port)


def with_length(*messages: bytes) -> bytes:
    """Messages as TCP carries them."""
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


def wire(question: str, answers: Sequence[bytes], *, answer_count: int | None = None, flags: int = 0x8180) -> bytes:
    """A response to id 7 with an A question and records given as bytes."""
    count = len(answers) if answer_count is None else answer_count
    head = struct.pack("!HHHHHH", 7, flags, 1, count, 0, 0)
    name = dns.name.from_text(question).to_wire()
    assert name is not None  # only if it is given a file to write to
    return head + name + struct.pack("!HH", 1, 1) + b"".join(answers)


def record(owner: bytes, record_type: int, data: bytes, *, ttl: int = 300, record_class: int = 1) -> bytes:
    """One record. `owner`: a name in wire format."""
    return owner + struct.pack("!HHIH", record_type, record_class, ttl, len(data)) + data


def _packet(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    if ":" in source:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends + payload
