"""Flow memory of a worker: a ring of chunks in shared memory, written by the worker and read by the supervisor.

The pool creates one memory for each metrics file id, a worker inherits it, and the supervisor receives the descriptor. It has a fixed size,
is allocated in full before it is mapped, and is sealed against shrinking, so that a write never ends the process (see
`netpolq.ipc.counter_memory`). There is one writer and one reader at a time; each may be killed at any moment and be replaced. What a dead
supervisor has not read, its successor reads.

Layout, all integers in host byte order:

    header      magic 8s · layout u32 · ring size in bytes u32 · bytes ever written u64 · bytes ever read u64 · connections lost u64
    ring        from byte 64 on; chunk by chunk, each at `bytes ever written` modulo the ring size, across the end if need be
    chunk       payload length u32 · crc32 of the payload u32 · first and last moment (Unix ns) u64 × 2 · definitions u32 · counts u32
    payload     definitions: index of an evaluation u32 · length u32 · JSON
                counts: source 16s · destination 16s · port u16 · protocol u8 · flags u8 · index u32 · connections u32

A definition says what an index means, in this chunk only. The flags of a count are `Flag`s. The writer advances `bytes ever written` after
the chunk is there; the checksum tells a reader on another CPU whether it sees all of it yet. The supervisor believes none of the bytes:
they are those of a process that reads packets of any sender.
"""

import fcntl
import json
import mmap
import os
import struct
import zlib

from collections.abc import Sequence
from enum import IntFlag
from typing import Any, NamedTuple

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier

RING_BYTES = 512 * 1024
"""Room for ten full chunks of counts."""

MAX_COUNTS = 1024
"""Counts in a chunk. Packing them takes about half a millisecond, in which no packet is answered."""

MAX_NAMED_POLICIES = 64
"""Policies named in the definition of an isolation; of more, the first ones."""

_MAX_POSITION = 0xFFFFFFFF

_MAGIC = b"NETPOLQF"
_LAYOUT = 1
_HEADER = struct.Struct("=8sII")
_NUMBER = struct.Struct("=Q")
_MAX_NUMBER = 0xFFFFFFFFFFFFFFFF
_WRITTEN, _READ, _LOST = 16, 24, 32
_RING = 64
SIZE_BYTES = _RING + RING_BYTES

_CHUNK = struct.Struct("=IIQQII")
_DEFINITION = struct.Struct("=II")
_COUNT = struct.Struct("=16s16sHBBII")
_MAX_PAYLOAD_BYTES = RING_BYTES - _CHUNK.size

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MAX_DAMAGED_READS = 3
"""Reads of the same chunk with a wrong checksum before the ring is skipped: memory becomes visible within microseconds."""


class Flag(IntFlag):
    """What the ends of a count are. EVERY_PORT: a denial of every port of the protocol. ANONYMOUS: the ends were not recorded."""

    EVERY_PORT = 1
    ANONYMOUS = 2


class Reasons(NamedTuple):
    """What an evaluation decided, and what it would have decided with the policies in audit. `audit_is_accept` None: none are."""

    is_accept: bool
    egress: Decision | None = None
    ingress: Decision | None = None
    audit_is_accept: bool | None = None
    audit_egress: Decision | None = None
    audit_ingress: Decision | None = None


class FlowCount(NamedTuple):
    """Connections with the same ends, destination port and reasons. Addresses: 16-byte keys; empty with `Flag.ANONYMOUS`."""

    source: bytes
    destination: bytes
    port: int
    protocol: int
    flags: Flag
    reasons: Reasons
    connections: int


class Chunk(NamedTuple):
    """Counts of an interval. `start_ns`, `end_ns`: its ends, Unix time."""

    start_ns: int
    end_ns: int
    counts: list[FlowCount]


class FlowMemoryError(ValueError):
    """The bytes of a flow memory are not those that a worker writes."""


class _DamagedRingError(FlowMemoryError):
    """It is not known where the next chunk begins, or the bytes may not be visible yet."""


def make() -> int:
    """New flow memory. The caller owns the descriptor. Raises `OSError` without free memory."""
    descriptor = os.memfd_create("netpolq-flows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(descriptor, 0, SIZE_BYTES)
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, _LAYOUT, RING_BYTES), 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _map(descriptor: int) -> mmap.mmap:
    if os.fstat(descriptor).st_size != SIZE_BYTES:
        raise FlowMemoryError(f"{os.fstat(descriptor).st_size} bytes instead of {SIZE_BYTES}")
    return mmap.mmap(descriptor, SIZE_BYTES)


class FlowWriter:
    """The writer's end. `descriptor`: of a flow memory; it may be closed afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._memory = _map(descriptor)

    def write(self, start_ns: int, end_ns: int, definitions: Sequence[tuple[int, bytes]], counts: Sequence[bytes]) -> bool:
        """Append a chunk. `definitions`: by index; `counts`: of `pack_count`. Returns False if there is no room."""
        payload = b"".join(
            [part for index, text in definitions for part in (_DEFINITION.pack(index, len(text)), text)] + list(counts)
        )
        head = _CHUNK.pack(len(payload), zlib.crc32(payload), start_ns, end_ns, len(definitions), len(counts))
        chunk = head + payload
        (written,), (read,) = _NUMBER.unpack_from(self._memory, _WRITTEN), _NUMBER.unpack_from(self._memory, _READ)
        if not 0 <= written - read <= RING_BYTES - len(chunk):
            return False
        start = written % RING_BYTES
        before_end = min(RING_BYTES - start, len(chunk))
        self._memory[_RING + start : _RING + start + before_end] = chunk[:before_end]
        if rest := chunk[before_end:]:
            self._memory[_RING : _RING + len(rest)] = rest
        # The positions may be those of a predecessor that wrote anything; beyond 64 bits they are impossible, and the reader resets them.
        _NUMBER.pack_into(self._memory, _WRITTEN, written + len(chunk) & _MAX_NUMBER)
        return True

    def lose(self, connections: int) -> None:
        """Count connections that are in no chunk."""
        (lost,) = _NUMBER.unpack_from(self._memory, _LOST)
        _NUMBER.pack_into(self._memory, _LOST, lost + connections & _MAX_NUMBER)


def pack_count(source: bytes, destination: bytes, port: int, protocol: int, flags: int, index: int, connections: int) -> bytes:
    """The bytes of a count. Positional for speed."""
    return _COUNT.pack(source, destination, port, protocol, flags, index, min(connections, 0xFFFFFFFF))


class FlowReader:
    """The reader's end. `descriptor`: of a flow memory; it may be closed afterwards. Raises `FlowMemoryError`, `OSError`."""

    def __init__(self, descriptor: int) -> None:
        self._memory = _map(descriptor)
        if _HEADER.unpack_from(self._memory) != (_MAGIC, _LAYOUT, RING_BYTES):
            raise FlowMemoryError("not a flow memory of this version")
        self._damaged_reads = 0

    @property
    def lost(self) -> int:
        """Connections that are in no chunk, since the memory was made."""
        (lost,) = _NUMBER.unpack_from(self._memory, _LOST)
        return int(lost)

    def read(self) -> list[Chunk]:
        """Remove and return all chunks that are there.

        Raises `FlowMemoryError` for damaged bytes, which are skipped: a chunk that cannot be decoded alone, and all that is there if it
        is not known where the next one begins.
        """
        chunks: list[Chunk] = []
        (end,), (position,) = _NUMBER.unpack_from(self._memory, _WRITTEN), _NUMBER.unpack_from(self._memory, _READ)
        try:
            if not 0 <= end - position <= RING_BYTES:
                raise _DamagedRingError("its positions are impossible")
            while position < end:
                if end - position < _CHUNK.size:
                    raise _DamagedRingError("a chunk is longer than what was written")
                length, checksum, *rest = _CHUNK.unpack(self._bytes(position, _CHUNK.size))
                if length > min(_MAX_PAYLOAD_BYTES, end - position - _CHUNK.size):
                    raise _DamagedRingError("a chunk is longer than what was written")
                payload = self._bytes(position + _CHUNK.size, length)
                if zlib.crc32(payload) != checksum:
                    raise _DamagedRingError("the checksum of a chunk is wrong")
                self._damaged_reads = 0
                try:
                    chunk = _chunk(payload, *rest)
                except FlowMemoryError:
                    if chunks:
                        break  # the next read reports it
                    _NUMBER.pack_into(self._memory, _READ, position + _CHUNK.size + length)
                    raise
                position += _CHUNK.size + length
                chunks.append(chunk)
        except _DamagedRingError:
            self._damaged_reads += 1
            if self._damaged_reads > _MAX_DAMAGED_READS:
                self._damaged_reads = 0
                _NUMBER.pack_into(self._memory, _READ, end)
                raise
        _NUMBER.pack_into(self._memory, _READ, position)
        return chunks

    def _bytes(self, position: int, length: int) -> bytes:
        start = _RING + position % RING_BYTES
        found = self._memory[start : min(start + length, SIZE_BYTES)]
        return found + self._memory[_RING : _RING + length - len(found)]


def _chunk(payload: bytes, start_ns: int, end_ns: int, definition_count: int, count_count: int) -> Chunk:
    definitions: dict[int, Reasons] = {}
    position = 0
    try:
        for _number in range(definition_count):
            index, length = _DEFINITION.unpack_from(payload, position)
            position += _DEFINITION.size
            definitions[index] = decode_reasons(payload[position : position + length])
            position += length
        if len(payload) - position != count_count * _COUNT.size:
            raise FlowMemoryError(f"{len(payload) - position} bytes of counts, {count_count} announced")
        counts = [
            FlowCount(source, destination, port, protocol, Flag(flags & 3), definitions[index], connections)
            for source, destination, port, protocol, flags, index, connections in _COUNT.iter_unpack(payload[position:])
        ]
    except (struct.error, KeyError) as error:
        raise FlowMemoryError("a chunk is shorter than announced, or lacks a definition") from error
    return Chunk(start_ns, end_ns, counts)


def encode_reasons(reasons: Reasons) -> bytes:
    """The definition of an evaluation, in JSON."""
    is_accept, egress, ingress, audit_is_accept, audit_egress, audit_ingress = reasons
    audit = () if audit_is_accept is None else (audit_is_accept, _encoded(audit_egress), _encoded(audit_ingress))
    return json.dumps((is_accept, _encoded(egress), _encoded(ingress), *audit), separators=(",", ":")).encode()


def _encoded(decision: Decision | None) -> tuple[object, ...] | None:
    match decision:
        case None:
            return None
        case Isolation(direction, policies, is_rejected):
            return direction.value, policies[:MAX_NAMED_POLICIES], is_rejected
        case RuleDecision(direction, tier, policy, position, action, name, is_rejected):
            return direction.value, tier.value, policy, position, action.value, name, is_rejected


def decode_reasons(data: bytes) -> Reasons:
    """What `encode_reasons` has encoded. Raises `FlowMemoryError`."""
    try:
        is_accept, egress, ingress, *audit = json.loads(data)
        if not audit:
            return Reasons(_checked(is_accept, bool), _decision(egress), _decision(ingress))
        audit_is_accept, audit_egress, audit_ingress = audit
        return Reasons(
            _checked(is_accept, bool),
            _decision(egress),
            _decision(ingress),
            _checked(audit_is_accept, bool),
            _decision(audit_egress),
            _decision(audit_ingress),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise FlowMemoryError(f"a definition cannot be read: {error}") from error


def _decision(found: Any) -> Decision | None:  # any JSON value
    if found is None:
        return None
    if len(found) == 3:
        direction, policies, is_rejected = found
        return Isolation(Direction(direction), tuple(map(_text, _checked(policies, list))), _checked(is_rejected, bool))
    direction, tier, policy, position, action, name, is_rejected = found
    if not 0 <= _checked(position, int) <= _MAX_POSITION:
        raise ValueError(f"{position} is no position of a rule")
    return RuleDecision(
        Direction(direction),
        Tier(tier),
        _text(policy),
        position,
        Action(action),
        _text(name),
        _checked(is_rejected, bool),
    )


def _text(value: Any) -> str:  # the JSON value, of that kind
    """A text that can be written as UTF-8: JSON may have single surrogates."""
    text: str = _checked(value, str)
    text.encode()
    return text


def _checked(value: Any, kind: type) -> Any:  # the JSON value, of that kind
    if type(value) is not kind:
        raise ValueError(f"{value!r} instead of {kind.__name__}")
    return value
