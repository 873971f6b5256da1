"""Messages of nf_tables that no ordinary program causes: names that are not UTF-8, and malformed notifications."""

import socket

import pytest

from netpolq.dataplane.change_monitor import ChangeMonitor
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.label_clash import read_setters
from netpolq.dataplane.table_state import read_chains, read_set_names
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U32, attribute
from netpolq.netlink.nfnetlink import message
from netpolq.netlink.nftables import (
    NFNL_SUBSYS_NFTABLES,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWGEN,
    NFT_MSG_NEWSETELEM,
    NFT_MSG_NEWTABLE,
    NLM_F_CREATE,
    Request,
    commit,
    name,
)
from tests.netns.dataplane.lab import A_EGRESS, Lab

_NAME = b"\xfe\xff\x00"


async def test_names_of_foreign_objects_may_have_any_bytes(ruleset: Ruleset) -> None:
    table = attribute(nfta.TABLE_NAME, _NAME)
    chain = attribute(nfta.CHAIN_NAME, _NAME)
    commit([Request(NFT_MSG_NEWTABLE, (table,), NLM_F_CREATE), Request(NFT_MSG_NEWCHAIN, (table, chain), NLM_F_CREATE)])
    await ruleset.install(A_EGRESS)
    assert await ruleset.in_place()
    assert read_setters() == []
    assert "enqueue" in read_chains()
    assert "isolated_egress_v4" in read_set_names()


def _generation(*attributes: bytes) -> bytes:
    return message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN, *attributes)


_ELEMENT = message(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM, name(nfta.SET_ELEM_LIST_TABLE, "netpolq"))


@pytest.mark.parametrize(
    "data",
    [_generation(), _generation(attribute(nfta.GEN_ID, b"\x07")), _generation()[:-1], _ELEMENT],
    ids=["no generation", "short generation", "cut message", "no name of the set"],
)
def test_a_malformed_notification_counts_as_lost(node: Lab, data: bytes) -> None:
    """So the table is read. The next notification is understood."""
    del node
    monitor = ChangeMonitor("netpolq", ())
    monitor.socket.close()
    monitor.socket, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monitor.socket.setblocking(False)
    with monitor.socket, kernel:
        kernel.send(data)
        monitor.read()
        assert monitor.has_lost_some
        kernel.send(_generation(attribute(nfta.GEN_ID, U32.pack(8))))
        monitor.read()
        assert monitor.generation == 8
