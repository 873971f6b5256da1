"""Transactions with nf_tables over netlink, for changes that `nft` cannot make or would make too slowly.

Only modules of `netpolq.dataplane` commit one.
Source: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

import socket
import threading

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U32, attribute
from netpolq.netlink.nfnetlink import NETLINK_NETFILTER, NLM_F_ACK, message, next_sequence, read_acknowledgements

NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10
NFPROTO_BRIDGE = 7
NFNL_SUBSYS_NFTABLES = 10

NFT_MSG_NEWTABLE = 0
NFT_MSG_GETTABLE = 1
NFT_MSG_DELTABLE = 2
NFT_MSG_NEWCHAIN = 3
NFT_MSG_GETCHAIN = 4
NFT_MSG_NEWRULE = 6
NFT_MSG_GETRULE = 7
NFT_MSG_DELRULE = 8
NFT_MSG_GETSET = 10
NFT_MSG_NEWSETELEM = 12
NFT_MSG_GETSETELEM = 13
NFT_MSG_DELSETELEM = 14
NFT_MSG_NEWGEN = 15
NFT_MSG_GETGEN = 16
NFT_MSG_GETOBJ = 19

NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

_NFNL_MSG_BATCH_BEGIN = 0x10
_NFNL_MSG_BATCH_END = 0x11
_DEFAULT_SEND_BUFFER_BYTES = 128 * 1024  # less than net.core.wmem_default, 208 KiB
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_DEADLINE_S = 30  # the kernel answers within the call, unless another process keeps the ruleset locked


class Request(NamedTuple):
    """One message of a transaction. `kind`: NFT_MSG_*; `flags`: besides NLM_F_REQUEST and NLM_F_ACK."""

    kind: int
    attributes: tuple[bytes, ...]
    flags: int = 0
    family: int = NFPROTO_INET


def name(kind: int, text: str) -> bytes:
    """A string attribute."""
    return attribute(kind, text.encode() + b"\x00")


def number(kind: int, value: int) -> bytes:
    """A 32-bit attribute."""
    return attribute(kind, U32.pack(value))


def open_socket() -> socket.socket:
    """A socket for nfnetlink, with a deadline on every wait. Raises `OSError` where the kernel has no netfilter."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    netlink.settimeout(_DEADLINE_S)
    return netlink


class Connection:
    """A socket for one transaction after the other. `port` identifies it while it is open, and is in the notifications of its transactions.

    A lock serializes calls from several threads.
    """

    def __init__(self) -> None:
        self.socket = open_socket()
        self.socket.bind((0, 0))
        self.port = int(self.socket.getsockname()[0])
        self._lock = threading.Lock()

    def commit(self, requests: Sequence[Request]) -> None:
        """Apply all requests at once, or none. Raises `OSError` with the errno of the first refusal."""
        with self._lock:
            _commit(self.socket, requests)


def commit(requests: Sequence[Request]) -> None:
    """Apply all requests at once, or none, over a new socket. Raises like `Connection.commit`."""
    with open_socket() as netlink:
        _commit(netlink, requests)


def remove_table(table: str, family: int = NFPROTO_INET) -> bool:
    """Remove a table of a family in one transaction. Returns whether it existed. Raises like `commit`."""
    with suppress(FileNotFoundError):
        commit([Request(NFT_MSG_DELTABLE, (name(nfta.TABLE_NAME, table),), family=family)])
        return True
    return False


def dry_run(requests: Sequence[Request]) -> None:
    """Have the kernel check the requests, loading the modules they need, without changing the ruleset. Raises like `commit`.

    A batch without an end is validated and rolled back.
    """
    with open_socket() as netlink:
        _transact(netlink, requests, is_complete=False)


def _commit(netlink: socket.socket, requests: Sequence[Request]) -> None:
    _transact(netlink, requests, is_complete=True)


def _transact(netlink: socket.socket, requests: Sequence[Request], *, is_complete: bool) -> None:
    if not requests:
        return
    # Sequence numbers are not reused: answers left over after a rejection match no later request.
    sequences = [next_sequence() for _ in requests]
    batch = _encode(requests, sequences)
    if is_complete:
        batch += _boundary(_NFNL_MSG_BATCH_END, sequence=next_sequence())
    if len(batch) > _DEFAULT_SEND_BUFFER_BYTES:
        with suppress(PermissionError):  # the send is then refused with EMSGSIZE
            netlink.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(batch))
    netlink.send(batch)
    read_acknowledgements(netlink, set(sequences))


def _encode(requests: Sequence[Request], sequences: Sequence[int]) -> bytes:
    # The kernel may reject the batch at its beginning (missing privilege, no nf_tables). The error then has the first request's number.
    parts = [_boundary(_NFNL_MSG_BATCH_BEGIN, sequence=sequences[0])]
    for sequence, request in zip(sequences, requests, strict=True):
        kind = NFNL_SUBSYS_NFTABLES << 8 | request.kind
        parts.append(
            message(kind, *request.attributes, flags=NLM_F_ACK | request.flags, sequence=sequence, family=request.family)
        )
    return b"".join(parts)


def _boundary(kind: int, *, sequence: int) -> bytes:
    return message(kind, sequence=sequence, resource_id=NFNL_SUBSYS_NFTABLES)
