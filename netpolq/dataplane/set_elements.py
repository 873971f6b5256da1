"""Encoder of requests that change the sets of isolated addresses by netlink, so that isolating a pod starts no program.

Source: linux/netfilter/nf_tables.h (set elements).
"""

import struct

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from netpolq.addresses import packed_address, parse_address
from netpolq.dataplane.ruleset_config import IsolatedSets, set_type
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import attribute, nested
from netpolq.netlink.nftables import NFPROTO_INET, NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM, NLM_F_CREATE, Request, name

_ELEMENTS_PER_REQUEST = 1000
"""An attribute holds 64 KiB at most, and an IPv6 address takes 28 bytes."""

Elements = Mapping[str, frozenset[bytes]]
"""The elements of each set, by its name: addresses in network order, in some sets behind an interface index in host order."""


def elements_of(sets: IsolatedSets) -> dict[str, frozenset[bytes]]:
    """The elements of the kernel's sets when `sets` is in force."""
    return {
        set_name: frozenset(_packed(set_type(set_name), text) for text in elements)
        for set_name, elements in sets.by_set_name().items()
    }


def _packed(kind: str, text: str) -> bytes:
    if not kind.startswith("iface_index"):
        return packed_address(parse_address(text))
    index, *addresses = text.split(" . ")
    return struct.pack("=I", int(index)) + b"".join(packed_address(parse_address(address)) for address in addresses)


def change_elements(before: Elements, after: Elements, family: int = NFPROTO_INET) -> tuple[Request, ...]:
    """Requests that turn the sets of a family's table from one state into another; none if they are equal. Both contain the same sets.

    The kernel rejects the removal of a missing element with ENOENT. Adding an existing element is no error.
    """
    return tuple(
        request
        for set_name in after
        for kind, addresses, flags in (
            (NFT_MSG_NEWSETELEM, after[set_name] - before[set_name], NLM_F_CREATE),
            (NFT_MSG_DELSETELEM, before[set_name] - after[set_name], 0),
        )
        for request in _requests(kind, set_name, addresses, flags, family)
    )


def _requests(kind: int, set_name: str, addresses: Iterable[bytes], flags: int, family: int) -> Iterator[Request]:
    remaining = iter(addresses)
    while portion := [_element(address) for address in islice(remaining, _ELEMENTS_PER_REQUEST)]:
        where = name(nfta.SET_ELEM_LIST_TABLE, TABLE), name(nfta.SET_ELEM_LIST_SET, set_name)
        yield Request(kind, (*where, nested(nfta.SET_ELEM_LIST_ELEMENTS, *portion)), flags, family)


def _element(address: bytes) -> bytes:
    return nested(nfta.LIST_ELEM, nested(nfta.SET_ELEM_KEY, attribute(nfta.DATA_VALUE, address)))
