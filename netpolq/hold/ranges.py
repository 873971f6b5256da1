"""Pod ranges: the blocks of addresses of the pods of a node."""

import ipaddress

from collections.abc import Iterable

PodRange = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOWED = "blocks such as 10.244.1.0/24,fd00:1::/64, none of them with prefix length 0, loopback, link-local or multicast"
"""Completes "allowed: " in messages."""


_MAPPED_BITS = 96
"""Length of the prefix ::ffff:0:0/96, RFC 4291 section 2.5.5.2."""


def parse_ranges(text: str) -> tuple[PodRange, ...]:
    """The blocks of a comma-separated list; none for an empty text. Raises `ValueError` for anything else."""
    return tuple(parse_range(part.strip()) for part in text.split(",")) if text.strip() else ()


def parse_range(text: str) -> PodRange:
    """One block. Bits of the host are allowed (`10.244.1.1/24`, as flannel writes it) and ignored; a length is required.

    Raises `ValueError`. A block of all addresses is rejected: it would cut the node off, and no cluster uses it.
    """
    address, slash, _length = text.partition("/")
    if not slash or "%" in address:
        raise ValueError(f"{text!r} is not a CIDR block")
    found: PodRange = ipaddress.ip_network(text, strict=False)
    if isinstance(found, ipaddress.IPv6Network):
        found = _unmapped(found)
    if found.prefixlen == 0 or found.is_loopback or found.is_link_local or found.is_multicast:
        raise ValueError(f"{text!r} is not a range that pods have")
    return found


def _unmapped(block: ipaddress.IPv6Network) -> PodRange:
    """The IPv4 block that an IPv4-mapped block stands for, as the API server interprets it: no packet has a mapped address."""
    mapped = block.network_address.ipv4_mapped
    if mapped is None or block.prefixlen < _MAPPED_BITS:
        return block
    return ipaddress.IPv4Network((mapped, block.prefixlen - _MAPPED_BITS))


def collapse(ranges: Iterable[PodRange]) -> tuple[PodRange, ...]:
    """The same addresses in as few blocks as possible, IPv4 first, in order, as nft requires for elements of an interval set."""
    every = tuple(ranges)
    v4 = [one for one in every if isinstance(one, ipaddress.IPv4Network)]
    v6 = [one for one in every if isinstance(one, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6))


def listed(ranges: Iterable[PodRange]) -> str:
    """The blocks for a message or a flag."""
    return ",".join(map(str, collapse(ranges)))
