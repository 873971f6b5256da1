"""IP addresses as 16-byte keys, the one form in which they are compared, hashed and stored.

Format: 16 bytes in network byte order; an IPv4 address is stored IPv4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
"""

import socket

from typing import NewType

AddressKey = NewType("AddressKey", bytes)

IPV4_MAPPED_PREFIX = b"\x00" * 10 + b"\xff\xff"


def parse_address(text: str) -> AddressKey:
    """The key of an address in text form. Raises `ValueError` for anything else (zones and leading zeros too)."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError) as error:  # ValueError: an embedded NUL
        raise ValueError(f"not an IP address: {text!r}") from error
    return address_key(packed)


def address_key(packed: bytes) -> AddressKey:
    """The key of an address of 4 or 16 bytes, as packets have it."""
    return AddressKey(IPV4_MAPPED_PREFIX + packed if len(packed) == 4 else packed)


def packed_address(key: bytes) -> bytes:
    """The address of a key as packets have it: 4 or 16 bytes."""
    return key[12:] if is_ipv4(key) else key


def is_ipv4(key: bytes) -> bool:
    """Whether the key holds an IPv4 address."""
    return key.startswith(IPV4_MAPPED_PREFIX)


def is_of_one_host(key: bytes) -> bool:
    """Whether a key may be the address of a pod: not unspecified, loopback, multicast or broadcast. Source: RFC 6890."""
    if is_ipv4(key):
        return key[12] not in {0, 127} and not 224 <= key[12] < 240 and key[12:] != b"\xff\xff\xff\xff"
    return key[0] != 0xFF and key[:15] != bytes(15)


def format_address(key: bytes) -> str:
    """The usual text form of a key."""
    return socket.inet_ntop(socket.AF_INET if is_ipv4(key) else socket.AF_INET6, packed_address(key))
