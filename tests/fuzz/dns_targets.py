"""The fuzz targets of the DNS reader: any bytes as packets, messages and TCP segments of a pod and its resolver."""

import struct

from netpolq.addresses import parse_address
from netpolq.ipc.channel import Answer, Resolvers, decode, encode
from netpolq_worker.dns.held import Move
from netpolq_worker.dns.learner import Effect, Learner
from netpolq_worker.dns.message import read_question
from netpolq_worker.dns.outcomes import MessageKind
from netpolq_worker.dns.tcp import MAX_MESSAGE_BYTES, Stream, StreamLost
from netpolq_worker.dns.transport import SYN
from tests.support.dns_messages import POD, POD_PORT, SERVER, query, tcp, udp_query, udp_response, with_length

_ASKED = query()
_MASK = 0x700
_SEGMENT = struct.Struct("!BHB")
_PACKED_QUESTION = _ASKED[12:]


class _Reader:
    """A learner that has one query, and all that it has ordered. Every packet must be moved exactly once."""

    def __init__(self) -> None:
        self._learner = Learner(1, range(100, 102), _MASK, min_ttl_s=0)
        self._learner.set_resolvers(Resolvers((parse_address(SERVER),)))
        self._packets = 0
        self._moved: list[int] = []
        self.receive(udp_query(_ASKED))

    def receive(self, packet: bytes) -> None:
        self._packets += 1
        self._take(self._learner.receive(self._packets, _MASK, packet, self._packets))

    def _take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Move):
                self._moved.append(effect.packet_id)
            else:
                assert decode(encode(effect)) == effect
                _check(effect)

    def finish(self) -> None:
        self._take([*self._learner.release_all(self._packets)])
        assert sorted(self._moved) == list(range(1, self._packets + 1))
        assert self._learner.due_ns is None


def _check(answer: Answer) -> None:
    assert answer.pod == parse_address(POD)
    assert answer.addresses
    assert 0 < len(answer.name) < 254
    assert answer.name == answer.name.lower()
    assert not answer.name.endswith(".")
    assert all(len(address) == 16 and 0 <= ttl < 1 << 31 for address, ttl in answer.addresses)


def dns_message(data: bytes) -> None:
    """Any bytes as a packet, as a query, as a response, and as the records behind a header and question that match."""
    reader = _Reader()
    reader.receive(data)
    reader.receive(udp_query(data))
    reader.receive(udp_response(data))
    count = data[0] if data else 0
    head = _ASKED[:2] + struct.pack("!HHHHH", 0x8180, 1, count, 0, 0)
    message = head + _PACKED_QUESTION + data[1:]
    assert read_question(message, MessageKind.RESPONSE) == read_question(_ASKED, MessageKind.QUERY)
    reader.receive(udp_response(message))
    reader.finish()


def dns_over_tcp(data: bytes) -> None:
    """Any segments, of a query's and a response's bytes too: each goes on once, and a stream keeps no more bytes than a message has."""
    reader, stream = _Reader(), Stream(0)
    sent = with_length(_ASKED) + data
    reader.receive(tcp(POD, SERVER, b"", (POD_PORT, 53), sequence=0xFFFFFFFF, flags=SYN))
    for flags, sequence, length in _SEGMENT.iter_unpack(data[: len(data) // _SEGMENT.size * _SEGMENT.size]):
        payload = sent[sequence % (len(sent) + 1) :][:length]
        ends, ports = ((POD, SERVER), (POD_PORT, 53)) if flags & 0x80 else ((SERVER, POD), (53, POD_PORT))
        reader.receive(tcp(*ends, payload, ports, sequence=sequence, flags=flags & 0x1F))
        try:
            stream.feed(sequence, payload, flags & 0x1F)
        except StreamLost:
            stream = Stream(sequence)
        assert stream.size <= 2 * MAX_MESSAGE_BYTES
    reader.finish()
