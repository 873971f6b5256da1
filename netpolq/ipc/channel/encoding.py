"""Encoding of the messages: one byte of kind, then fixed fields in host byte order."""

import struct

from collections.abc import Iterable, Iterator
from enum import IntEnum

from netpolq.enums import Verdict
from netpolq.ipc.channel.messages import (
    MAX_ANSWER_ADDRESSES,
    MAX_CHANGED,
    MAX_HINTS,
    MAX_RESOLVERS,
    Answer,
    AnswersInForce,
    CachedVerdict,
    Counters,
    Drain,
    Empty,
    Failure,
    FlowMemory,
    Heartbeat,
    Hints,
    Logging,
    Message,
    PeerGone,
    Publish,
    Refusal,
    Report,
    Resolvers,
    RulesetInstalled,
    Serve,
    StandDown,
    StoodDown,
    Taken,
    Welcome,
)

_KEY_BYTES = 16
MAX_MESSAGE_BYTES = 64 + MAX_CHANGED * _KEY_BYTES


class _Kind(IntEnum):
    PUBLISH = 1
    DRAIN = 2
    REPORT = 3
    REFUSAL = 4
    WELCOME = 5
    HINTS = 6
    STAND_DOWN = 7
    STOOD_DOWN = 8
    RULESET_INSTALLED = 9
    PEER_GONE = 10
    SERVE = 11
    HEARTBEAT = 12
    COUNTERS = 13
    TAKEN = 14
    FAILURE = 15
    LOGGING = 16
    RESOLVERS = 17
    ANSWER = 18
    ANSWERS_IN_FORCE = 19
    FLOW_MEMORY = 20


_EMPTY: dict[int, Empty] = {
    _Kind.STAND_DOWN: StandDown(),
    _Kind.STOOD_DOWN: StoodDown(),
    _Kind.RULESET_INSTALLED: RulesetInstalled(),
    _Kind.PEER_GONE: PeerGone(),
}
"""Messages without fields."""

_EMPTY_KINDS = {type(message): kind for kind, message in _EMPTY.items()}

_PUBLISH = struct.Struct("=BQi")
_SERVE = struct.Struct("=BIQ?")
_DRAIN = struct.Struct("=Bi")
_REPORT = struct.Struct("=BIIIQQII")
_REFUSAL = struct.Struct("=BIQ")
_WELCOME = struct.Struct("=BQI")
_HEARTBEAT = struct.Struct("=BQ")
_COUNTERS = struct.Struct("=BI")
_FLOW_MEMORY = struct.Struct("=BI")
_TAKEN = struct.Struct("=BQ")
_MAX_TEXT_BYTES = 1024
_MAX_QUEUE_NUM = 0xFFFF
_LOGGING = struct.Struct("=BB?")
_ANSWER = struct.Struct("=BQ16sBH")
_ANSWER_ADDRESS = struct.Struct("=16sI")
_ANSWERS_IN_FORCE = struct.Struct("=BQ")
_HINTS = struct.Struct("=BQ")
_HINT = struct.Struct("=16s16sHBBII")


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case Publish(version, changed):
            count = -1 if changed is None else len(changed)
            return _PUBLISH.pack(_Kind.PUBLISH, version, count) + b"".join(changed or ())
        case Serve():
            return _SERVE.pack(_Kind.SERVE, *message)
        case Drain(successor_queue):
            return _DRAIN.pack(_Kind.DRAIN, -1 if successor_queue is None else successor_queue)
        case Report():
            return _REPORT.pack(_Kind.REPORT, *message)
        case Refusal(slot, version, text):
            return _REFUSAL.pack(_Kind.REFUSAL, slot, version) + text.encode()[:_MAX_TEXT_BYTES]
        case Taken(version, text):
            return _TAKEN.pack(_Kind.TAKEN, version) + text.encode()[:_MAX_TEXT_BYTES]
        case Heartbeat():
            return _HEARTBEAT.pack(_Kind.HEARTBEAT, *message)
        case Counters():
            return _COUNTERS.pack(_Kind.COUNTERS, *message)
        case FlowMemory():
            return _FLOW_MEMORY.pack(_Kind.FLOW_MEMORY, *message)
        case Failure(text):
            return bytes([_Kind.FAILURE]) + text.encode(errors="replace")[:_MAX_TEXT_BYTES]
        case Welcome():
            return _WELCOME.pack(_Kind.WELCOME, *message)
        case Logging():
            return _LOGGING.pack(_Kind.LOGGING, *message)
        case Hints(version, packed):
            return _HINTS.pack(_Kind.HINTS, version) + packed
        case Resolvers(resolvers):
            return bytes([_Kind.RESOLVERS]) + b"".join(resolvers)
        case Answer(number, pod, name, addresses):
            head = _ANSWER.pack(_Kind.ANSWER, number, pod, len(name), len(addresses))
            return head + name.encode("ascii") + b"".join(_ANSWER_ADDRESS.pack(*one) for one in addresses)
        case AnswersInForce():
            return _ANSWERS_IN_FORCE.pack(_Kind.ANSWERS_IN_FORCE, *message)
        case _:
            return bytes([_EMPTY_KINDS[type(message)]])


def decode(data: bytes) -> Message:
    """The message that the bytes encode. Raises `ValueError` for bytes that `encode` never returns."""
    try:
        match _Kind(data[0]):
            case _Kind.PUBLISH:
                _kind, version, count = _PUBLISH.unpack_from(data)
                keys = data[_PUBLISH.size :]
                if count < -1 or len(keys) != max(count, 0) * _KEY_BYTES:
                    raise ValueError(f"{len(keys)} bytes of addresses, {count} announced")
                changed = tuple(keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES))
                return Publish(version, None if count < 0 else changed)
            case _Kind.SERVE:
                return Serve(*_SERVE.unpack(data)[1:])
            case _Kind.DRAIN:
                _kind, queue_num = _DRAIN.unpack(data)
                if not -1 <= queue_num <= _MAX_QUEUE_NUM:
                    raise ValueError(f"{queue_num} is not a queue number")
                return Drain(None if queue_num < 0 else queue_num)
            case _Kind.REPORT:
                return Report(*_REPORT.unpack(data)[1:])
            case _Kind.REFUSAL:
                _kind, slot, version = _REFUSAL.unpack_from(data)
                return Refusal(slot, version, data[_REFUSAL.size :].decode(errors="replace"))
            case _Kind.TAKEN:
                _kind, version = _TAKEN.unpack_from(data)
                return Taken(version, data[_TAKEN.size :].decode(errors="replace"))
            case _Kind.HEARTBEAT:
                return Heartbeat(*_HEARTBEAT.unpack(data)[1:])
            case _Kind.COUNTERS:
                return Counters(*_COUNTERS.unpack(data)[1:])
            case _Kind.FLOW_MEMORY:
                return FlowMemory(*_FLOW_MEMORY.unpack(data)[1:])
            case _Kind.FAILURE:
                return Failure(data[1:].decode(errors="replace"))
            case _Kind.WELCOME:
                return Welcome(*_WELCOME.unpack(data)[1:])
            case _Kind.LOGGING:
                return Logging(*_LOGGING.unpack(data)[1:])
            case _Kind.HINTS:
                _kind, version = _HINTS.unpack_from(data)
                if len(data) > _HINTS.size + MAX_HINTS * _HINT.size:
                    raise ValueError(f"{len(data)} bytes are more than {MAX_HINTS} hints")
                return Hints(version, data[_HINTS.size :])
            case _Kind.RESOLVERS:
                resolvers, rest = divmod(len(data) - 1, _KEY_BYTES)
                if rest or resolvers > MAX_RESOLVERS:
                    raise ValueError(f"{len(data) - 1} bytes are not the addresses of at most {MAX_RESOLVERS} resolvers")
                return Resolvers(tuple(data[start : start + _KEY_BYTES] for start in range(1, len(data), _KEY_BYTES)))
            case _Kind.ANSWER:
                return _decode_answer(data)
            case _Kind.ANSWERS_IN_FORCE:
                return AnswersInForce(*_ANSWERS_IN_FORCE.unpack(data)[1:])
            case kind:
                if len(data) != 1:
                    raise ValueError(f"{len(data) - 1} bytes after a message without fields")
                return _EMPTY[kind]
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a message: {error}") from error


def _decode_answer(data: bytes) -> Answer:
    _kind, number, pod, name_bytes, entries = _ANSWER.unpack_from(data)
    start = _ANSWER.size + name_bytes
    if entries > MAX_ANSWER_ADDRESSES or len(data) != start + entries * _ANSWER_ADDRESS.size:
        raise ValueError(f"{len(data)} bytes are not an answer with {entries} addresses")
    name = data[_ANSWER.size : start].decode("ascii")  # a `UnicodeDecodeError` is a `ValueError`
    return Answer(number, pod, name, tuple(_ANSWER_ADDRESS.iter_unpack(data[start:])))


def pack_hints(version: int, hints: Iterable[CachedVerdict]) -> Hints:
    """A message with at most `MAX_HINTS` hints."""
    return Hints(version, b"".join(_HINT.pack(*hint) for hint in hints))


def unpack_hints(message: Hints) -> Iterator[CachedVerdict]:
    """The hints in a message. Raises `ValueError` for bytes that `pack_hints` never returns."""
    try:
        for source, destination, port, protocol, verdict, egress, ingress in _HINT.iter_unpack(message.packed):
            yield CachedVerdict(source, destination, port, protocol, Verdict(verdict), egress, ingress)
    except struct.error as error:
        raise ValueError(f"{len(message.packed)} bytes are not a whole number of hints") from error
