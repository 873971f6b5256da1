"""State of the agent's tables in the kernel, object by object: read after an installation, and compared with it later.

Handles are compared too. The kernel never reuses one, so an object that was removed and created again counts as another object. Only a
rule that is replaced keeps its handle; its bytes differ, or the handle of its list of values does.
Counters and the elements of sets with time-outs (the verdict maps) change in operation and are left out.
Reads only. Source: linux/netfilter/nf_tables.h.
"""

import socket

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from netpolq.dataplane.ruleset_names import TABLE
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U32, U64, attribute, parse_attributes, parse_list
from netpolq.netlink.nfnetlink import Entry, dump, query
from netpolq.netlink.nftables import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETGEN,
    NFT_MSG_GETOBJ,
    NFT_MSG_GETRULE,
    NFT_MSG_GETSET,
    NFT_MSG_GETSETELEM,
    NFT_MSG_GETTABLE,
    name,
    open_socket,
)

_NFT_OBJECT_COUNTER = 1
_NFT_SET_ELEM_INTERVAL_END = 0x1
_NF_DROP = bytes(4)

_NFT_SET_ANONYMOUS, _NFT_SET_TIMEOUT, _NFT_SET_EVAL = 0x1, 0x10, 0x20
_TABLE_PARTS = (nfta.TABLE_FLAGS, nfta.TABLE_HANDLE, nfta.TABLE_OWNER)
_CHAIN_PARTS = (nfta.CHAIN_HANDLE, nfta.CHAIN_HOOK, nfta.CHAIN_POLICY, nfta.CHAIN_TYPE, nfta.CHAIN_FLAGS)
_SET_PARTS = (*range(nfta.SET_FLAGS, 10), 11, 12, 13, 15, nfta.SET_HANDLE)
"""NFTA_SET_*: flags to description, time-outs, garbage collection, user data, type of objects, and the handle."""

_COUNTING = (b"counter", b"quota", b"last")
"""Expressions whose data changes with each packet."""

_FAMILY_NAMES = {NFPROTO_INET: "inet", NFPROTO_BRIDGE: "bridge"}


class TableState(NamedTuple):
    """Objects of the table by a name for the log. An object is bytes that stay equal until the object changes.

    `generation`: of the whole ruleset before the read: the state includes all changes up to it. `elements`: of each set that has no
    time-outs, by its name. All empty without a table.
    """

    generation: int
    objects: Mapping[str, tuple[bytes, ...]]
    elements: Mapping[str, frozenset[bytes]]

    def differences(self, expected: "TableState") -> list[str]:
        """Names of the objects in which this differs from what is expected; `elements of` sets included. Empty when all is the same."""
        if expected.objects and not self.objects:
            return [f"{next(key for key in expected.objects if key.startswith('table '))} is missing"]
        found = []
        for mine, theirs, prefix in (
            (self.objects, expected.objects, ""),
            (self.elements, expected.elements, ELEMENTS_PREFIX),
        ):
            for key in sorted(mine.keys() | theirs.keys()):
                if mine.get(key) != theirs.get(key):
                    what = "is missing" if key not in mine else "was added" if key not in theirs else "differs"
                    found.append(f"{prefix}{key} {what}")
        return found


ELEMENTS_PREFIX = "elements of set "


KnownElements = dict[str, tuple[bytes, frozenset[bytes]]]
"""The elements of each set as the kernel encoded them at the last read, and decoded: most sets do not change between reads."""


def read_state(known: KnownElements, family: int = NFPROTO_INET) -> TableState:
    """The current table of a family. Updates `known`, which the caller keeps for the next read. Raises `OSError`."""
    with open_socket() as netlink:
        generation = _generation(netlink)
        chains = _dump(netlink, NFT_MSG_GETCHAIN, family=family)
        sets = {entry.attributes.text(nfta.SET_NAME): entry for entry in _dump(netlink, NFT_MSG_GETSET, family=family)}
        objects = {
            **{
                f"table {_FAMILY_NAMES[family]} {TABLE}": _parts(entry, _TABLE_PARTS)
                for entry in _dump(netlink, NFT_MSG_GETTABLE, family=family)
            },
            **{f"chain {entry.attributes.text(nfta.CHAIN_NAME)}": _parts(entry, _CHAIN_PARTS) for entry in chains},
            **_rules(netlink, [entry.attributes.text(nfta.CHAIN_NAME) for entry in chains], family),
            **{f"set {set_name}": _parts(entry, _SET_PARTS) for set_name, entry in sets.items()},
            **{
                f"object {entry.attributes.text(nfta.OBJ_NAME)}": _parts(entry, (nfta.OBJ_TYPE, nfta.OBJ_HANDLE))
                for entry in _dump(netlink, NFT_MSG_GETOBJ, family=family)
            },
        }
        changing = _NFT_SET_ANONYMOUS | _NFT_SET_TIMEOUT | _NFT_SET_EVAL
        elements = {
            set_name: _elements(netlink, set_name, known, family)
            for set_name, entry in sets.items()
            if not entry.attributes.integer(nfta.SET_FLAGS, U32, 0) & changing
        }
    return TableState(generation, objects, elements)


def read_generation() -> int:
    """The number of the last transaction of this network namespace. Raises `OSError`."""
    with open_socket() as netlink:
        return _generation(netlink)


def read_chains() -> dict[str, bool]:
    """The table's chains, and for each whether its policy is drop. Raises `OSError`."""
    with open_socket() as netlink:
        return {
            entry.attributes.text(nfta.CHAIN_NAME): entry.attributes.get(nfta.CHAIN_POLICY) == _NF_DROP
            for entry in _dump(netlink, NFT_MSG_GETCHAIN)
        }


def read_chain_uses(table: str = TABLE) -> dict[str, int]:
    """The chains of an inet table with their use: rules in them and jumps to them. Empty if there is no such table. Raises `OSError`."""
    with open_socket() as netlink:
        chains = _dump(netlink, NFT_MSG_GETCHAIN, table=table)
        return {entry.attributes.text(nfta.CHAIN_NAME): entry.attributes.integer(nfta.CHAIN_USE, U32) for entry in chains}


def read_set_names() -> frozenset[str]:
    """The names of the table's sets and maps, without those that nft makes for lists of values in rules. Raises `OSError`."""
    with open_socket() as netlink:
        names = (entry.attributes.text(nfta.SET_NAME) for entry in _dump(netlink, NFT_MSG_GETSET))
        return frozenset(name for name in names if not name.startswith("__"))


def read_interval_bounds(table: str, set_name: str) -> list[tuple[bytes, bool]]:
    """The bounds of the intervals of a set, in order: a key, and whether an interval ends before it; else one begins with it.

    The last interval may have no end. Empty if there is no such set. Raises `OSError`.
    """
    with open_socket() as netlink:
        dumped = _dump(netlink, NFT_MSG_GETSETELEM, name(nfta.SET_ELEM_LIST_SET, set_name), table=table)
    bounds = [
        (
            _key_and_data(element),
            bool(parse_attributes(element).integer(nfta.SET_ELEM_FLAGS, U32, 0) & _NFT_SET_ELEM_INTERVAL_END),
        )
        for entry in dumped
        for element in entry.attributes.listed(nfta.SET_ELEM_LIST_ELEMENTS)
    ]
    return sorted(bounds, key=lambda bound: (bound[0], not bound[1]))


def read_counters(family: int = NFPROTO_INET) -> dict[str, int]:
    """Packets counted by each named counter of the table of a family. Raises `OSError`."""
    with open_socket() as netlink:
        return {
            entry.attributes.text(nfta.OBJ_NAME): entry.attributes.nested(nfta.OBJ_DATA).integer(nfta.COUNTER_PACKETS, U64)
            for entry in _dump(netlink, NFT_MSG_GETOBJ, family=family)
            if entry.attributes.integer(nfta.OBJ_TYPE, U32) == _NFT_OBJECT_COUNTER
        }


def _generation(netlink: socket.socket) -> int:
    return query(netlink, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN).attributes.integer(nfta.GEN_ID, U32)


def _dump(netlink: socket.socket, kind: int, *more: bytes, table: str = TABLE, family: int = NFPROTO_INET) -> list[Entry]:
    entries: list[Entry] = []
    with suppress(FileNotFoundError):
        entries = dump(netlink, NFNL_SUBSYS_NFTABLES << 8 | kind, name(nfta.TABLE, table), *more, family=family)
    # Kernels differ in whether they filter a dump by table, and in whether a missing table is an error.
    return [entry for entry in entries if entry.attributes.text(nfta.TABLE) == table]


def _parts(entry: Entry, kinds: tuple[int, ...]) -> tuple[bytes, ...]:
    return tuple(entry.attributes.get(kind, b"") for kind in kinds)


def _rules(netlink: socket.socket, chains: list[str], family: int) -> dict[str, tuple[bytes, ...]]:
    """Handle and expressions of each rule, in order, by chain."""
    found: dict[str, list[bytes]] = {chain: [] for chain in chains}
    for entry in _dump(netlink, NFT_MSG_GETRULE, family=family):
        rule = entry.attributes
        expressions = _without_counts(rule.get(nfta.RULE_EXPRESSIONS, b""))
        found.setdefault(rule.text(nfta.RULE_CHAIN), []).append(rule[nfta.RULE_HANDLE] + expressions)
    return {f"rules of chain {chain}": tuple(rules) for chain, rules in found.items()}


def _without_counts(expressions: bytes) -> bytes:
    """The list of expressions, but of those that count only the name."""
    if not any(attribute(nfta.EXPR_NAME, counting + b"\x00") in expressions for counting in _COUNTING):
        return expressions
    kept = []
    for expression in parse_list(expressions):
        kind = parse_attributes(expression).text(nfta.EXPR_NAME, "").encode()
        kept.append(kind if kind in _COUNTING else expression)
    return b"|".join(kept)


def _elements(netlink: socket.socket, set_name: str, known: KnownElements, family: int) -> frozenset[bytes]:
    """Key, and of a map the data, of each element."""
    dumped = _dump(netlink, NFT_MSG_GETSETELEM, name(nfta.SET_ELEM_LIST_SET, set_name), family=family)
    written = b"".join(entry.attributes.get(nfta.SET_ELEM_LIST_ELEMENTS, b"") for entry in dumped)
    if set_name not in known or known[set_name][0] != written:
        known[set_name] = written, frozenset(map(_key_and_data, parse_list(written)))
    return known[set_name][1]


def _key_and_data(element: bytes) -> bytes:
    parts = parse_attributes(element)
    return parts.nested(nfta.SET_ELEM_KEY)[nfta.DATA_VALUE] + parts.get(nfta.SET_ELEM_DATA, b"")
