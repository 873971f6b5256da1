"""Reassembly of DNS over TCP: segments to messages, in both directions of a connection. Source: RFC 9293, RFC 7766 section 8.

A connection is followed from its SYN on; another one cannot be, because the place where a message begins would be a guess. When a bound is
exceeded, the connection is not followed any more. A byte that was received once stays as it was: only retransmissions repeat bytes.
"""

from netpolq_worker.dns.outcomes import MessageKind
from netpolq_worker.dns.pod_table import PodTable
from netpolq_worker.dns.transport import ACK, FIN, RST, SYN, Connection, Transport

MAX_MESSAGE_BYTES = 2 + 0xFFFF
"""The longest message with its length in front."""
MAX_EARLY_SEGMENTS = 64
"""Segments of a direction that wait for one before them."""
MAX_MESSAGES = 256
"""Messages that one segment may complete."""
MAX_CONNECTIONS = 2048
MAX_CONNECTIONS_OF_POD = 128
MAX_TOTAL_BYTES = 8 << 20

_MASK = 0xFFFFFFFF
_HALF = 1 << 31


class StreamLost(Exception):  # noqa: N818  # the sender may be right: a bound of this reader is exceeded
    """A direction cannot be followed any more."""


class Stream:
    """One direction of a connection. `start`: sequence number of its first byte."""

    def __init__(self, start: int) -> None:
        self._start = self._next = start & _MASK
        self._unread = bytearray()
        self._early: dict[int, bytes] = {}
        self._early_bytes = 0
        self.has_ended = False

    @property
    def size(self) -> int:
        """Bytes that wait for more."""
        return len(self._unread) + self._early_bytes

    def begins_at(self, start: int) -> bool:
        """Whether this is the sequence number of the first byte."""
        return start & _MASK == self._start

    def feed(self, sequence: int, data: bytes, flags: int) -> list[bytes]:
        """Take a segment and return the messages that it completes. Raises `StreamLost`."""
        gap = _distance(self._next, sequence)
        if gap <= 0:
            self._append(data[-gap:])
            self._append_early()
        elif data:
            self._keep_early(sequence, data)
        if flags & FIN and (sequence + len(data)) & _MASK == self._next:
            self.has_ended = True
        return self._messages()

    def _append(self, data: bytes) -> None:
        self._unread += data
        self._next = (self._next + len(data)) & _MASK

    def _append_early(self) -> None:
        for sequence in sorted(self._early, key=lambda early: _distance(self._next, early)):
            gap = _distance(self._next, sequence)
            if gap > 0:
                break
            data = self._early.pop(sequence)
            self._early_bytes -= len(data)
            self._append(data[-gap:])

    def _keep_early(self, sequence: int, data: bytes) -> None:
        present = self._early.get(sequence, b"")
        if len(data) > len(present):
            self._early[sequence] = data
            self._early_bytes += len(data) - len(present)
        if len(self._early) > MAX_EARLY_SEGMENTS or self._early_bytes > MAX_MESSAGE_BYTES:
            raise StreamLost

    def _messages(self) -> list[bytes]:
        found: list[bytes] = []
        start = 0
        while len(self._unread) - start >= 2:
            end = start + 2 + int.from_bytes(self._unread[start : start + 2], "big")
            if end > len(self._unread):
                break
            if len(found) == MAX_MESSAGES:
                raise StreamLost
            found.append(bytes(self._unread[start + 2 : end]))
            start = end
        del self._unread[:start]
        return found


class TcpConnections:
    """The connections that are followed. `waiting_bytes`: bytes that wait for more, in all."""

    def __init__(self) -> None:
        self._connections: PodTable[Connection, dict[MessageKind, Stream]] = PodTable(MAX_CONNECTIONS, MAX_CONNECTIONS_OF_POD)
        self.waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._connections)

    def receive(self, connection: Connection, kind: MessageKind, segment: Transport) -> list[bytes] | None:
        """Take a segment and return the messages that it completes; None if the connection is not followed."""
        sequence = segment.sequence
        if segment.flags & SYN:
            sequence += 1
            self._open(connection, kind, sequence, segment.flags)
        streams = self._connections.get(connection)
        if segment.flags & RST:
            self._forget(self._connections.remove(connection))
            return None
        if streams is None or kind not in streams:
            return None
        stream = streams[kind]
        before = stream.size
        try:
            messages = stream.feed(sequence & _MASK, segment.payload, segment.flags)
        except StreamLost:
            messages = None
        self.waiting_bytes += stream.size - before
        if messages is None or (len(streams) == 2 and all(one.has_ended for one in streams.values())):
            self._forget(self._connections.remove(connection))
        while self.waiting_bytes > MAX_TOTAL_BYTES:
            self._forget(self._connections.remove_oldest())
        return messages

    def _open(self, connection: Connection, kind: MessageKind, start: int, flags: int) -> None:
        """Follow a new connection from the SYN of the pod on, and the other direction from the server's."""
        streams = self._connections.get(connection)
        if kind is MessageKind.QUERY and not flags & ACK:
            if streams is None or not streams[MessageKind.QUERY].begins_at(start):
                self._forget(self._connections.remove(connection))
                self._forget(self._connections.put(connection.pod, connection, {MessageKind.QUERY: Stream(start)}))
        elif kind is MessageKind.RESPONSE and streams is not None and kind not in streams:
            streams[kind] = Stream(start)

    def _forget(self, removed: dict[MessageKind, Stream] | None) -> None:
        self.waiting_bytes -= sum(stream.size for stream in (removed or {}).values())


def _distance(origin: int, sequence: int) -> int:
    """How far a sequence number is ahead of another one; negative: behind. They wrap at 32 bits."""
    return (sequence - origin + _HALF & _MASK) - _HALF
