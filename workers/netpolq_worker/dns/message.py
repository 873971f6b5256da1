"""The reader of DNS messages: their question, and the addresses that an answer gives to the name that was asked for.

dnspython reads the names, which are the difficult part: compression pointers, loops, lengths. The records around them have a fixed form.
The whole message is not given to it: it would decode records of every type, import a module for each new one, which the sandbox does not
allow, and take eight times as long.

Any bytes are read in a bounded time. Sources: RFC 1035 section 4, RFC 2181 section 8 (TTL), RFC 3596 (AAAA).
"""

import re
import struct

from typing import NamedTuple

import dns.exception
import dns.name

from netpolq.addresses import address_key
from netpolq.ipc.channel import MAX_ANSWER_ADDRESSES
from netpolq_worker.dns.outcomes import MessageKind

_HEADER = struct.Struct("!HHHHHH")  # id, flags, numbers of questions, answers, authorities, additional records
_QUESTION_END = struct.Struct("!HH")  # type, class
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, bytes of data
_FLAG_RESPONSE = 0x8000
_OPCODE = 0x7800
_FLAG_TRUNCATED = 0x0200
_RCODE = 0x000F

_CLASS_IN = 1
_TYPE_A = 1
_TYPE_CNAME = 5
_TYPE_AAAA = 28
_ADDRESS_BYTES = {_TYPE_A: 4, _TYPE_AAAA: 16}
_MAX_SIGNED_TTL = 0x7FFFFFFF  # a greater TTL counts as 0

MAX_RECORDS = 1024
"""Records of an answer that are read: twice as many as addresses are learned."""
MAX_ALIASES = 64
"""Aliases that are read. Resolvers follow fewer (unbound: 11, dnspython: 16)."""
_MAX_NAME = 253
_LABEL = re.compile(rb"[a-z0-9_-]+")

Labels = tuple[bytes, ...]
"""A name in lower case, the most specific label first, the root's empty one last."""


class Question(NamedTuple):
    """Id and only question of a message."""

    message_id: int
    name: Labels
    record_type: int


class Addresses(NamedTuple):
    """Address keys with their TTL in seconds, each once. `has_more`: the answer has more of them, or more records, than are read."""

    addresses: tuple[tuple[bytes, int], ...]
    has_more: bool


def read_question(message: bytes, kind: MessageKind) -> Question | None:
    """The question of a message of this kind; None if it is malformed, or no plain question of class IN."""
    try:
        message_id, flags, questions, *_others = _HEADER.unpack_from(message)
        is_response = bool(flags & _FLAG_RESPONSE)
        if is_response is not (kind is MessageKind.RESPONSE) or flags & _OPCODE or questions != 1:
            return None
        name, used = dns.name.from_wire(message, _HEADER.size)
        record_type, record_class = _QUESTION_END.unpack_from(message, _HEADER.size + used)
    except (struct.error, dns.exception.DNSException, ValueError):
        return None
    return Question(message_id, _lower(name), record_type) if record_class == _CLASS_IN else None


def is_truncated(message: bytes) -> bool:
    """Whether the server has left out records for lack of room. `message` has a question."""
    flags: int = _HEADER.unpack_from(message)[1]
    return bool(flags & _FLAG_TRUNCATED)


def name_of(labels: Labels) -> str | None:
    """The name as text without the dot at its end; None if it is none that a policy can have."""
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels[:-1]):
        return None
    text = b".".join(labels[:-1]).decode("ascii")
    return text if len(text) <= _MAX_NAME else None


def read_addresses(message: bytes, name: Labels) -> Addresses:
    """The addresses of a name in a response that has a question, also those reached through aliases (CNAME) in that response.

    The TTL is the least on the way. No address if the response reports an error. Raises `ValueError` if the answer is malformed.
    """
    try:
        _message_id, flags, _questions, answers, *_others = _HEADER.unpack_from(message)
        if flags & _RCODE:
            return Addresses((), has_more=False)
        return _follow(_Answer(message, answers), name)
    except (struct.error, dns.exception.DNSException) as error:
        raise ValueError(f"malformed answer: {error}") from error


class _Answer:
    """The records of an answer section that tell addresses, by name. Raises what `struct` and dnspython raise."""

    def __init__(self, message: bytes, records: int) -> None:
        self.addresses: dict[Labels, list[tuple[bytes, int]]] = {}
        self.aliases: dict[Labels, tuple[Labels, int]] = {}
        self.has_more = records > MAX_RECORDS
        self._message = message
        self._names: dict[int, tuple[Labels, int]] = {}
        offset = self._name_at(_HEADER.size)[1] + _QUESTION_END.size
        for _ in range(min(records, MAX_RECORDS)):
            offset = self._read_record(offset)

    def _read_record(self, offset: int) -> int:
        """Read the record at an offset. Returns the offset behind it."""
        owner, offset = self._name_at(offset)
        record_type, record_class, ttl, data_bytes = _RECORD.unpack_from(self._message, offset)
        start = offset + _RECORD.size
        end: int = start + data_bytes
        if end > len(self._message):
            raise ValueError("malformed answer: a record is longer than the message")
        if ttl > _MAX_SIGNED_TTL:
            ttl = 0
        if record_class == _CLASS_IN:
            if _ADDRESS_BYTES.get(record_type) == data_bytes:
                self.addresses.setdefault(owner, []).append((address_key(self._message[start:end]), ttl))
            elif record_type == _TYPE_CNAME and len(self.aliases) < MAX_ALIASES:
                target, target_end = self._name_at(start)
                if target_end != end:
                    raise ValueError("malformed answer: an alias has another length than its name")
                self.aliases.setdefault(owner, (target, ttl))
        return end

    def _name_at(self, offset: int) -> tuple[Labels, int]:
        """The name at an offset, and the offset behind it. Most names are a pointer to one that was read before."""
        pointer = _pointer(self._message, offset)
        if pointer in self._names:
            return self._names[pointer][0], offset + 2
        name, used = dns.name.from_wire(self._message, offset)
        found = self._names[offset] = _lower(name), offset + used
        return found


def _pointer(message: bytes, offset: int) -> int:
    """The target of the compression pointer at an offset; -1 if there is none."""
    if offset + 1 >= len(message) or message[offset] < 0xC0:
        return -1
    return (message[offset] & 0x3F) << 8 | message[offset + 1]


def _follow(answer: _Answer, name: Labels) -> Addresses:
    """The addresses that are reached from a name, each with the least TTL on the way."""
    found: dict[bytes, int] = {}
    least, seen = _MAX_SIGNED_TTL, set[Labels]()
    has_more = answer.has_more
    while name not in seen:
        seen.add(name)
        for address, ttl in answer.addresses.get(name, ()):
            if address in found:
                found[address] = min(found[address], ttl, least)
            elif len(found) < MAX_ANSWER_ADDRESSES:
                found[address] = min(ttl, least)
            else:
                has_more = True
        if name in answer.aliases:
            name, ttl = answer.aliases[name]
            least = min(least, ttl)
    return Addresses(tuple(found.items()), has_more=has_more)


def _lower(name: dns.name.Name) -> Labels:
    return tuple(label.lower() for label in name.labels)
