"""Encoder of requests that add decisions to the verdict maps and remove them.

The key of a decision is source, destination, protocol and destination port of a connection in its original direction, after destination
NAT. A drop at every port is in a set of its own, whose key has no port.
Source: linux/netfilter/nf_tables.h (set elements), `nft` for the shape of a concatenation: each part is padded to a whole number of
32-bit registers.
"""

import struct

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from netpolq.addresses import is_ipv4, packed_address
from netpolq.dataplane.ruleset_names import CLOSED_V4, CLOSED_V6, TABLE, VERDICTS_V4, VERDICTS_V6
from netpolq.enums import Verdict
from netpolq.ipc.channel import EVERY_PORT, Hint
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import attribute, nested
from netpolq.netlink.nftables import NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NLM_F_CREATE, Request, name

_NF_DROP = 0
_NFT_RETURN = -5
_CODES = {Verdict.ACCEPT: _NFT_RETURN, Verdict.DROP: _NF_DROP}
_DATA = {
    verdict: nested(
        nfta.SET_ELEM_DATA, nested(nfta.DATA_VERDICT, attribute(nfta.VERDICT_CODE, struct.pack("!i", _CODES[verdict])))
    )
    for verdict in Verdict
}
_PROTOCOL = struct.Struct("!B3x")
_PORT = struct.Struct("!H2x")

MAX_DECISIONS = 1024
"""Decisions that always fit into one transaction, which is one message to the kernel (of 208 KiB with its default send buffer)."""

_ELEMENTS_PER_REQUEST = 500
"""An attribute holds 64 KiB at most, and an IPv6 element takes 92 bytes."""


def remember(hints: Iterable[Hint], ttl_ms: int) -> tuple[Request, ...]:
    """Requests that add decisions. An existing one with the same verdict is no error. `ttl_ms`: lifetime of each."""
    timeout = attribute(nfta.SET_ELEM_TIMEOUT, struct.pack("!Q", ttl_ms))
    return tuple(_requests(NFT_MSG_NEWSETELEM, hints, lambda hint: (*_element(hint), timeout), NLM_F_CREATE))


def forget(hints: Iterable[Hint]) -> tuple[Request, ...]:
    """Requests that remove decisions. The kernel rejects them with ENOENT if one is missing."""
    return tuple(_requests(NFT_MSG_DELSETELEM, hints, lambda hint: (_key(hint),), 0))


def forget_all() -> tuple[Request, ...]:
    """Requests that empty all verdict maps."""
    return tuple(Request(NFT_MSG_DELSETELEM, _in_map(map_name)) for map_name in (VERDICTS_V4, VERDICTS_V6, CLOSED_V4, CLOSED_V6))


def _requests(kind: int, hints: Iterable[Hint], parts: Callable[[Hint], tuple[bytes, ...]], flags: int) -> Iterator[Request]:
    by_map: dict[str, list[Hint]] = {}
    for hint in hints:
        by_map.setdefault(_map_of(hint), []).append(hint)
    for map_name, members in by_map.items():
        remaining = iter(members)
        while portion := [nested(nfta.LIST_ELEM, *parts(hint)) for hint in islice(remaining, _ELEMENTS_PER_REQUEST)]:
            yield Request(kind, (*_in_map(map_name), nested(nfta.SET_ELEM_LIST_ELEMENTS, *portion)), flags)


def _in_map(map_name: str) -> tuple[bytes, bytes]:
    return name(nfta.SET_ELEM_LIST_TABLE, TABLE), name(nfta.SET_ELEM_LIST_SET, map_name)


def _map_of(hint: Hint) -> str:
    if hint.port == EVERY_PORT:
        return CLOSED_V4 if is_ipv4(hint.destination) else CLOSED_V6
    return VERDICTS_V4 if is_ipv4(hint.destination) else VERDICTS_V6


def _element(hint: Hint) -> tuple[bytes, ...]:
    return (_key(hint),) if hint.port == EVERY_PORT else (_key(hint), _DATA[hint.verdict])


def _key(hint: Hint) -> bytes:
    value = packed_address(hint.source) + packed_address(hint.destination) + _PROTOCOL.pack(hint.protocol)
    if hint.port != EVERY_PORT:
        value += _PORT.pack(hint.port)
    return nested(nfta.SET_ELEM_KEY, attribute(nfta.DATA_VALUE, value))
