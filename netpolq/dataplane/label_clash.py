"""Detection of foreign rules that set the agent's bits of connection labels.

Such a rule would open isolated pods. Rules that only read labels are harmless. Not detected are programs that write into the connection
table directly, and tables of the legacy iptables.
Source: linux/netfilter/nf_tables.h, linux/netfilter/xt_connlabel.h.
"""

import struct

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netpolq.dataplane.ruleset_names import TABLE
from netpolq.enums import CONNECTION_LABEL_BITS
from netpolq.hold import ruleset as hold_ruleset
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U32, Attributes, parse_attributes
from netpolq.netlink.nfnetlink import walk
from netpolq.netlink.nftables import NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFT_MSG_GETRULE, number, open_socket

_NFT_CT_LABELS = 13
_CONNLABEL = b"connlabel\x00"
_CONNLABEL_INFO = struct.Struct("=HH")  # struct xt_connlabel_mtinfo: bit, options
_ALIGNED_INFO_BYTES = 8  # XT_ALIGN of linux/netfilter/x_tables.h
_XT_CONNLABEL_OP_SET = 2

LABEL_BITS = 128
_ALL_BITS = frozenset(range(LABEL_BITS))
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
_OWN = {(NFPROTO_INET, TABLE), (NFPROTO_INET, hold_ruleset.TABLE)}


class Setter(NamedTuple):
    """A chain with a rule that sets bits of labels. `bits`: all bits if the rule does not contain the value."""

    chain: str
    bits: frozenset[int]


def read_setters() -> list[Setter]:
    """Chains of other tables that set labels. Raises `OSError`, `InterruptedError` if the ruleset changed meanwhile."""
    found = []
    # A node may have tens of thousands of rules: rules without such an expression are not parsed.
    wanted = (number(nfta.CT_KEY, _NFT_CT_LABELS), _CONNLABEL)
    with open_socket() as netlink:
        for entry in walk(netlink, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, containing=wanted):
            table, chain = (entry.attributes.text(kind) for kind in (nfta.RULE_TABLE, nfta.RULE_CHAIN))
            if (entry.family, table) in _OWN:
                continue
            bits = frozenset(bits_set(entry.attributes.listed(nfta.RULE_EXPRESSIONS)))
            if bits:
                found.append(Setter(f"{_FAMILIES.get(entry.family, 'other')} {table} {chain}", bits))
    return found


def clashes(setters: Iterable[Setter], ct_label: int) -> list[str]:
    """The chains that set one of the agent's bits, which begin with `ct_label`."""
    own = set(range(ct_label, ct_label + CONNECTION_LABEL_BITS))
    return sorted({setter.chain for setter in setters if setter.bits & own})


def free_bits(setters: Iterable[Setter]) -> int | None:
    """The highest first bit of enough adjacent ones that no rule sets."""
    used = {bit for setter in setters for bit in setter.bits}
    starts = range(LABEL_BITS - CONNECTION_LABEL_BITS, -1, -1)
    return next((start for start in starts if used.isdisjoint(range(start, start + CONNECTION_LABEL_BITS))), None)


def bits_set(expressions: Iterable[bytes]) -> Iterator[int]:
    """The bits that one rule sets. A value that the rule does not contain as a constant may have any bit.

    Raises `MalformedMessageError`.
    """
    loaded: dict[bytes, bytes] = {}
    for expression in map(parse_attributes, expressions):
        kind, data = expression.text(nfta.EXPR_NAME, ""), expression.nested(nfta.EXPR_DATA)
        if kind == "immediate":
            loaded[data[nfta.IMMEDIATE_DREG]] = data.nested(nfta.IMMEDIATE_DATA).get(nfta.DATA_VALUE, b"")
        elif kind == "ct" and nfta.CT_SREG in data and data.integer(nfta.CT_KEY, U32) == _NFT_CT_LABELS:
            value = loaded.get(data[nfta.CT_SREG], b"")
            yield from _bits_of(value) if len(value) == LABEL_BITS // 8 else _ALL_BITS
        elif kind == "match":
            yield from _bits_of_match(data)


def _bits_of_match(data: Attributes) -> Iterator[int]:
    if data.get(nfta.MATCH_NAME) == _CONNLABEL:
        bit, options = _CONNLABEL_INFO.unpack_from(data.binary(nfta.MATCH_INFO, _CONNLABEL_INFO.size, _ALIGNED_INFO_BYTES))
        if options & _XT_CONNLABEL_OP_SET:
            yield bit


def _bits_of(value: bytes) -> frozenset[int]:
    """The bits that are set in a bitmap of 32-bit words in host order."""
    words = struct.unpack(f"={len(value) // 4}I", value)
    return frozenset(32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1)
