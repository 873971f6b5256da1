"""The chain that notes the original destination of a translated packet before it is queued, and the maps in which it notes them.

A worker that denies the packet reads it there, to answer from the address that the client has asked for
(`netpolq.netlink.original_destinations`). A map that is full takes no more: the answer then comes from the translated address, and the
client ignores it.

The rules of the chain are encoded here: `nft` 1.0.6 cannot read a statement that adds to a map under a key of several parts.
Source: linux/netfilter/nf_tables.h.
"""

import struct

from collections.abc import Iterator

from netpolq.dataplane.rule_terms import Chain
from netpolq.dataplane.ruleset_config import RulesetConfig
from netpolq.dataplane.ruleset_names import TABLE
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import attribute, nested
from netpolq.netlink.nftables import (
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_MSG_NEWRULE,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Request,
    name,
    number,
)
from netpolq.netlink.original_destinations import ORIGINALS_V4, ORIGINALS_V6

_NOTE_ORIGINAL = "note_original"
_TIMEOUT = "5s"
"""Longer than a packet waits for a worker, unless the worker is overloaded."""
MAX_ORIGINALS = 16384
"""In each map. An element takes some 200 bytes."""

_FIRST_REGISTER = 8  # NFT_REG32_00; each has four bytes
_META_NFPROTO, _META_L4PROTO = 15, 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_CT_PROTO_DST, _CT_DST_IP, _CT_DST_IP6 = 12, 20, 22
_IP_CT_DIR_ORIGINAL = 0
_DYNSET_OP_UPDATE = 1
_PORT_BYTES = 2


def original_maps(config: RulesetConfig) -> Iterator[str]:
    """The maps, each as `name { definition }`: from protocol, source and destination to the original destination."""
    for map_name, kind in ((ORIGINALS_V4, "ipv4_addr"), (ORIGINALS_V6, "ipv6_addr")) if config.rejects else ():
        types = f"inet_proto . {kind} . inet_service . {kind} . inet_service : {kind} . inet_service"
        yield f"{map_name} {{ type {types}; flags dynamic,timeout; timeout {_TIMEOUT}; size {MAX_ORIGINALS}; }}"


def note_original(config: RulesetConfig) -> tuple[str, ...]:
    """The rules for packets in original direction, in front of those that queue them."""
    return (f"ct status dnat meta l4proto {{ tcp, udp, sctp }} jump {_NOTE_ORIGINAL}",) if config.rejects else ()


def original_chains(config: RulesetConfig) -> Iterator[Chain]:
    """The chain that notes, without its rules."""
    if config.rejects:
        yield Chain(_NOTE_ORIGINAL, "", ())


def original_rules(config: RulesetConfig) -> tuple[Request, ...]:
    """Requests that add the rules to the empty chain."""
    if not config.rejects:
        return ()
    in_chain = name(nfta.RULE_TABLE, TABLE), name(nfta.RULE_CHAIN, _NOTE_ORIGINAL)
    return tuple(
        Request(NFT_MSG_NEWRULE, (*in_chain, nested(nfta.RULE_EXPRESSIONS, *expressions)), NLM_F_CREATE | NLM_F_APPEND)
        for expressions in (
            _rule(NFPROTO_IPV4, ORIGINALS_V4, address_offset=12, address_bytes=4, original=_CT_DST_IP),
            _rule(NFPROTO_IPV6, ORIGINALS_V6, address_offset=8, address_bytes=16, original=_CT_DST_IP6),
        )
    )


def _rule(family: int, map_name: str, *, address_offset: int, address_bytes: int, original: int) -> Iterator[bytes]:
    """The expressions: load the key, then the data behind it, and add both to the map."""
    register = _FIRST_REGISTER
    yield _expression("meta", number(nfta.META_DREG, register), number(nfta.META_KEY, _META_NFPROTO))
    wanted = nested(nfta.CMP_DATA, attribute(nfta.DATA_VALUE, bytes((family,))))
    yield _expression("cmp", number(nfta.CMP_SREG, register), number(nfta.CMP_OP, 0), wanted)
    yield _expression("meta", number(nfta.META_DREG, register), number(nfta.META_KEY, _META_L4PROTO))
    register += 1
    for end in (0, 1):  # source, destination
        for base, offset, length in (
            (_NETWORK_HEADER, address_offset + end * address_bytes, address_bytes),
            (_TRANSPORT_HEADER, end * _PORT_BYTES, _PORT_BYTES),
        ):
            numbers = (register, base, offset, length)
            yield _expression(
                "payload", *map(number, (nfta.PAYLOAD_DREG, nfta.PAYLOAD_BASE, nfta.PAYLOAD_OFFSET, nfta.PAYLOAD_LEN), numbers)
            )
            register += (length + 3) // 4
    data_register = register
    for key, length in ((original, address_bytes), (_CT_PROTO_DST, _PORT_BYTES)):
        direction = attribute(nfta.CT_DIRECTION, struct.pack("=B", _IP_CT_DIR_ORIGINAL))
        yield _expression("ct", number(nfta.CT_DREG, register), number(nfta.CT_KEY, key), direction)
        register += (length + 3) // 4
    yield _expression(
        "dynset",
        name(nfta.DYNSET_SET_NAME, map_name),
        number(nfta.DYNSET_OP, _DYNSET_OP_UPDATE),
        number(nfta.DYNSET_SREG_KEY, _FIRST_REGISTER),
        number(nfta.DYNSET_SREG_DATA, data_register),
    )


def _expression(kind: str, *attributes: bytes) -> bytes:
    return nested(nfta.LIST_ELEM, name(nfta.EXPR_NAME, kind), nested(nfta.EXPR_DATA, *attributes))
