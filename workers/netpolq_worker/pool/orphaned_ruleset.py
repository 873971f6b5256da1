"""Whether the kernel has a ruleset of netpolq: what the pool leaves behind when it ends.

Source: linux/netfilter/nf_tables.h.
"""

import socket

from netpolq.netlink.nfnetlink import NETLINK_NETFILTER, dump

_GET_TABLE = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_NFPROTO_INET = 1
_NFTA_TABLE_NAME = 1
_TIMEOUT_S = 1.0

TABLE = "netpolq"
"""The same as `netpolq.dataplane.ruleset.TABLE`, which the pool may not import."""


def has_ruleset() -> bool | None:
    """Whether the table is in this network namespace; None: the kernel does not tell."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            tables = dump(netlink, _GET_TABLE, family=_NFPROTO_INET)
    except OSError:
        return None
    names = {table.attributes.get(_NFTA_TABLE_NAME, b"").rstrip(b"\x00") for table in tables}
    return TABLE.encode() in names
