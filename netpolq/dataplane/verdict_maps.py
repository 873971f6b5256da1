"""Requests that add decisions to the verdict maps and remove them, and reads of their counters.

The key of a decision is source, destination, protocol and destination port of a connection in its original direction, after destination
NAT. A drop at every port is in a set of its own, whose key has no port.
Source: linux/netfilter/nf_tables.h (set elements), `nft` for the shape of a concatenation: each part is padded to a whole number of
32-bit registers.
"""

import struct

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key, is_ipv4, packed_address
from netpolq.dataplane.ruleset_names import TABLE, VerdictMaps
from netpolq.enums import Verdict
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U64, Attributes, attribute, nested, parse_attributes
from netpolq.netlink.nfnetlink import walk
from netpolq.netlink.nftables import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NFT_MSG_DELSETELEM,
    NFT_MSG_GETSETELEM,
    NFT_MSG_NEWSETELEM,
    NLM_F_CREATE,
    Request,
    name,
    open_socket,
)

_GET_ELEMENTS = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETSETELEM
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


class CountedKey(NamedTuple):
    """The key of a decision. `port`: may be `EVERY_PORT`."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


def remember(maps: VerdictMaps, entries: Iterable[CachedVerdict], ttl_ms: int) -> tuple[Request, ...]:
    """Requests that add decisions. An existing one with the same verdict is no error. `ttl_ms`: lifetime of each."""
    timeout = attribute(nfta.SET_ELEM_TIMEOUT, struct.pack("!Q", ttl_ms))
    return tuple(_requests(maps, NFT_MSG_NEWSETELEM, entries, lambda entry: (*_element(entry), timeout), NLM_F_CREATE))


def forget(maps: VerdictMaps, entries: Iterable[CachedVerdict]) -> tuple[Request, ...]:
    """Requests that remove decisions. The kernel rejects them with ENOENT if one is missing."""
    return tuple(_requests(maps, NFT_MSG_DELSETELEM, entries, lambda entry: (_key(entry),), 0))


def forget_all(maps: VerdictMaps) -> tuple[Request, ...]:
    """Requests that empty all verdict maps."""
    return tuple(Request(NFT_MSG_DELSETELEM, _in_map(map_name)) for map_name in maps)


def read_counts(maps: VerdictMaps) -> dict[CountedKey, int]:
    """Packets by decision, of the decisions that have a counter and have met a packet. Raises `OSError`.

    Decisions that are added or removed meanwhile may be left out.
    """
    found: dict[CountedKey, int] = {}
    with open_socket() as netlink:
        for map_name in maps:
            with suppress(InterruptedError):
                for entry in walk(netlink, _GET_ELEMENTS, *_in_map(map_name), family=NFPROTO_INET):
                    for element in entry.attributes.listed(nfta.SET_ELEM_LIST_ELEMENTS):
                        parts = parse_attributes(element)
                        if packets := _packets(parts):
                            found[_counted_key(parts.nested(nfta.SET_ELEM_KEY)[nfta.DATA_VALUE])] = packets
    return found


def _packets(element: Attributes) -> int:
    expression = element.nested(nfta.SET_ELEM_EXPRESSION)
    if not expression or expression.text(nfta.EXPR_NAME) != "counter":
        return 0
    return expression.nested(nfta.EXPR_DATA).integer(nfta.COUNTER_PACKETS, U64)


def _counted_key(value: bytes) -> CountedKey:
    length = 4 if len(value) < 2 * 16 else 16
    port = struct.unpack_from("!H", value, 2 * length + 4)[0] if len(value) > 2 * length + 4 else EVERY_PORT
    return CountedKey(address_key(value[:length]), address_key(value[length : 2 * length]), value[2 * length], port)


def _requests(
    maps: VerdictMaps,
    kind: int,
    entries: Iterable[CachedVerdict],
    parts: Callable[[CachedVerdict], tuple[bytes, ...]],
    flags: int,
) -> Iterator[Request]:
    by_map: dict[str, list[CachedVerdict]] = {}
    for entry in entries:
        by_map.setdefault(_map_of(maps, entry), []).append(entry)
    for map_name, members in by_map.items():
        remaining = iter(members)
        while portion := [nested(nfta.LIST_ELEM, *parts(entry)) for entry in islice(remaining, _ELEMENTS_PER_REQUEST)]:
            yield Request(kind, (*_in_map(map_name), nested(nfta.SET_ELEM_LIST_ELEMENTS, *portion)), flags)


def _in_map(map_name: str) -> tuple[bytes, bytes]:
    return name(nfta.SET_ELEM_LIST_TABLE, TABLE), name(nfta.SET_ELEM_LIST_SET, map_name)


def _map_of(maps: VerdictMaps, entry: CachedVerdict) -> str:
    if entry.port == EVERY_PORT:
        return maps.closed_v4 if is_ipv4(entry.destination) else maps.closed_v6
    return maps.verdicts_v4 if is_ipv4(entry.destination) else maps.verdicts_v6


def _element(entry: CachedVerdict) -> tuple[bytes, ...]:
    return (_key(entry),) if entry.port == EVERY_PORT else (_key(entry), _DATA[entry.verdict])


def _key(entry: CachedVerdict) -> bytes:
    value = packed_address(entry.source) + packed_address(entry.destination) + _PROTOCOL.pack(entry.protocol)
    if entry.port != EVERY_PORT:
        value += _PORT.pack(entry.port)
    return nested(nfta.SET_ELEM_KEY, attribute(nfta.DATA_VALUE, value))
