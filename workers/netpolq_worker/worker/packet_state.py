"""The state of a packet, in its mark: which connection it asks about, and which addresses must be known before it is evaluated."""

from collections.abc import Mapping

from netpolq.addresses import address_key
from netpolq.enums import PacketMark
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.packet import Flow, Question

_UNKNOWN_ENDS: Mapping[int, tuple[bool, bool]] = {
    PacketMark.UNKNOWN_SOURCE: (True, False),
    PacketMark.UNKNOWN_DESTINATION: (False, True),
    PacketMark.UNKNOWN_BOTH: (True, True),
}
"""Whether the kernel knew no pod with the source, and with the destination."""


def in_mark(state: PacketMark, mark_mask: int) -> int:
    """The state, shifted to the lowest bit of the mask."""
    return state * (mark_mask & -mark_mask)


def parsed_marks(mark_mask: int) -> frozenset[int]:
    """The states, in the mark, of packets that must be parsed: their header alone does not answer them."""
    return frozenset(in_mark(state, mark_mask) for state in (PacketMark.PENDING_REPLY, *map(PacketMark, _UNKNOWN_ENDS)))


def state_of(mark: int, mark_mask: int) -> int:
    """The state in a mark: a value of `PacketMark`, or another number."""
    return (mark & mark_mask) // (mark_mask & -mark_mask)


def question_of_packet(flow: Flow, state: int) -> Question:
    """The question of a packet in this state. A reply belongs to the connection that it answers, so its header is swapped."""
    source, destination, protocol, source_port, destination_port = flow
    if state == PacketMark.PENDING_REPLY:
        return destination, source, protocol, source_port
    return source, destination, protocol, destination_port


def unknown_addresses(view: SnapshotReader, question: Question, state: int) -> tuple[bytes, ...]:
    """Keys of the addresses that the kernel did not know, and that the snapshot does not know either: of no end, one or both."""
    ends = _UNKNOWN_ENDS.get(state)
    if ends is None:
        return ()
    keys = address_key(question[0]), address_key(question[1])
    return tuple(key for key, is_named in zip(keys, ends, strict=True) if is_named and not view.identity(key))
