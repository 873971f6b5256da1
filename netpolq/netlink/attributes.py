"""Encoder and decoder of netlink attributes: a length, a kind, and contents that are padded to four bytes.

The contents of nfnetlink's attributes are in network byte order, those of rtnetlink's in host order. The decoder trusts no length:
whatever the bytes are, it returns a value or raises `MalformedMessageError`.
Source: linux/netlink.h (struct nlattr).
"""

import errno
import struct

from collections.abc import Iterator

NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000

U8 = struct.Struct("=B")
U16 = struct.Struct("!H")
U32 = struct.Struct("!I")
U64 = struct.Struct("!Q")
HOST_U32 = struct.Struct("=I")

_HEADER = struct.Struct("=HH")  # struct nlattr: len, type; len without the padding
_KIND_MASK = 0xFFFF & ~(NLA_F_NESTED | NLA_F_NET_BYTEORDER)


class MalformedMessageError(OSError):
    """Bytes from netlink that are not a message as documented. `errno`: EBADMSG; `strerror`: what is wrong with them."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EBADMSG, problem)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute with its header, padded to four bytes."""
    return _HEADER.pack(_HEADER.size + len(payload), kind) + payload + b"\x00" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


class Attributes(dict[int, bytes]):
    """The contents of attributes by kind; of several with one kind the last.

    `attributes[kind]` is the contents as bytes. It and the typed getters raise `MalformedMessageError` if the attribute is missing (`text`
    and `integer` only without a default) or its contents do not fit. `get` and `in` work as in any dictionary.
    """

    def __missing__(self, kind: int) -> bytes:
        raise MalformedMessageError(f"attribute {kind} is missing")

    def binary(self, kind: int, *lengths: int) -> bytes:
        """The contents, which have one of these lengths in bytes."""
        contents = self[kind]
        if len(contents) not in lengths:
            raise MalformedMessageError(f"attribute {kind} has {len(contents)} bytes instead of {' or '.join(map(str, lengths))}")
        return contents

    def integer(self, kind: int, form: struct.Struct, default: int | None = None) -> int:
        """The number. `form`: U8 to U64 in network byte order, or HOST_U32."""
        if default is not None and kind not in self:
            return default
        return int(form.unpack(self.binary(kind, form.size))[0])

    def text(self, kind: int, default: str | None = None) -> str:
        """The text up to the first NUL. Bytes that are not UTF-8 become escapes: an object of nf_tables may have any name."""
        if default is not None and kind not in self:
            return default
        return self[kind].partition(b"\x00")[0].decode(errors="backslashreplace")

    def nested(self, kind: int) -> "Attributes":
        """The attributes in this one; none if it is missing."""
        return parse_attributes(self.get(kind, b""))

    def listed(self, kind: int) -> list[bytes]:
        """The contents of the attributes in this one, which is a list; none if it is missing."""
        return parse_list(self.get(kind, b""))


def parse_attributes(data: bytes) -> Attributes:
    """The attributes of a message behind its fixed fields, or of a nested attribute. Raises `MalformedMessageError`."""
    return Attributes(_each(data))


def parse_list(data: bytes) -> list[bytes]:
    """The contents of a list of attributes of one kind, of which `parse_attributes` would keep the last. Raises like it."""
    return [contents for _kind, contents in _each(data)]


def _each(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset, end = 0, len(data)
    while offset < end:
        if offset + _HEADER.size > end:
            raise MalformedMessageError(f"{end - offset} bytes are left where an attribute begins")
        length, kind = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= length <= end - offset:
            raise MalformedMessageError(f"attribute {kind & _KIND_MASK} claims {length} of {end - offset} bytes")
        yield kind & _KIND_MASK, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
