"""The ruleset that the pool leaves in the kernel when it ends: whether there is one, and what that means for new connections.

Source: linux/netfilter/nf_tables.h.
"""

import logging
import socket

from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.nfnetlink import NETLINK_NETFILTER, dump
from netpolq.netlink.nftables import NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFT_MSG_GETTABLE

_TIMEOUT_S = 1.0

TABLE = "netpolq"
"""The same as `netpolq.dataplane.ruleset.TABLE`, which the pool may not import."""

log = logging.getLogger("pool")


def has_ruleset() -> bool | None:
    """Whether this network namespace has the table; None: the kernel does not answer."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.settimeout(_TIMEOUT_S)
            tables = dump(netlink, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, family=NFPROTO_INET)
            return any(table.attributes.text(nfta.TABLE_NAME) == TABLE for table in tables)
    except OSError:
        return None


def log_consequence(*, fail_open: bool, has_installed: bool) -> None:
    """Log what is enforced after the agent has stopped. `has_installed`: this agent has installed the ruleset at some time."""
    is_left = has_ruleset()
    if is_left is False or (is_left is None and not has_installed):
        log.info("stopped. There is no ruleset of netpolq in this network namespace: nothing is enforced.")
        return
    if fail_open:
        consequence = "new connections of isolated pods bypass policy evaluation until an agent runs again"
    else:
        consequence = "new connections of isolated pods are dropped until an agent runs again"
    log.info("stopped. The ruleset stays in place: %s. `netpolq cleanup` removes it.", consequence)
