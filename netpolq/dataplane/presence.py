"""What the kernel has of our table: enough to notice that something else changed it, without a process and in well under a millisecond.

Reads only. Source: linux/netfilter/nf_tables.h.
"""

import struct

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from netpolq.dataplane.nf_tables import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    NFT_MSG_GETCHAIN,
    NFT_MSG_GETOBJ,
    NFT_MSG_GETSET,
    name,
    open_socket,
)
from netpolq.dataplane.ruleset import TABLE
from netpolq.nfnetlink import Entry, dump, parse_attributes

_NFTA_CHAIN_TABLE = 1
_NFTA_CHAIN_NAME = 3
_NFTA_CHAIN_USE = 6
_NFTA_SET_TABLE = 1
_NFTA_SET_NAME = 2
_NFTA_OBJ_TABLE = 1
_NFTA_OBJ_NAME = 2
_NFTA_OBJ_TYPE = 3
_NFTA_OBJ_DATA = 4
_NFTA_COUNTER_PACKETS = 2
_NFT_OBJECT_COUNTER = 1


class Presence(NamedTuple):
    """Chains of the table with their use (rules in it and jumps to it), and the names of its sets. Not the sets' elements."""

    chains: Mapping[str, int]
    sets: frozenset[str]


def read_presence(table: str = TABLE) -> Presence:
    """What of a table is there now; empty if the table is not. Raises `OSError`."""
    chains = {
        _text(chain.attributes[_NFTA_CHAIN_NAME]): _integer(chain.attributes[_NFTA_CHAIN_USE])
        for chain in _dump(NFT_MSG_GETCHAIN, _NFTA_CHAIN_TABLE, table)
    }
    sets = {_text(entry.attributes[_NFTA_SET_NAME]) for entry in _dump(NFT_MSG_GETSET, _NFTA_SET_TABLE, table)}
    # Sets that nft makes for a rule's own list of values are numbered anew each time.
    return Presence(chains, frozenset(one for one in sets if not one.startswith("__")))


def read_counters() -> dict[str, int]:
    """Packets counted by each named counter of the table. Raises `OSError`."""
    return {
        _text(entry.attributes[_NFTA_OBJ_NAME]): _integer(
            parse_attributes(entry.attributes[_NFTA_OBJ_DATA])[_NFTA_COUNTER_PACKETS]
        )
        for entry in _dump(NFT_MSG_GETOBJ, _NFTA_OBJ_TABLE)
        if _integer(entry.attributes[_NFTA_OBJ_TYPE]) == _NFT_OBJECT_COUNTER
    }


def _dump(kind: int, table_attribute: int, table: str = TABLE) -> list[Entry]:
    entries: list[Entry] = []
    with open_socket() as netlink, suppress(FileNotFoundError):
        entries = dump(netlink, NFNL_SUBSYS_NFTABLES << 8 | kind, name(table_attribute, table), family=NFPROTO_INET)
    # Kernels differ in whether they filter a dump by table, and in whether a missing table is an error.
    return [entry for entry in entries if _text(entry.attributes[table_attribute]) == table]


def _text(value: bytes) -> str:
    return value.rstrip(b"\x00").decode()


def _integer(value: bytes) -> int:
    return int(struct.unpack(">I" if len(value) == 4 else ">Q", value)[0])
