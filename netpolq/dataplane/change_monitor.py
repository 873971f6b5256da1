"""Monitor of changes that other processes make to the agent's table, by notifications of nfnetlink's nftables group.

The kernel sends a message for every object that a transaction changes, and at its end one with the new generation and the process that
made it. A filter in the kernel drops the notifications of the agent's own transactions: thousands when the verdict cache is busy.
Source: linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c (nft_commit_notify, nf_tables_gen_notify), linux/filter.h.
"""

import ctypes
import errno
import socket
import struct

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from netpolq.logs import one_line
from netpolq.netlink import nftables_attributes as nfta
from netpolq.netlink.attributes import U32, MalformedMessageError
from netpolq.netlink.nfnetlink import attributes_of, split
from netpolq.netlink.nftables import (
    NFNL_SUBSYS_NFTABLES,
    NFT_MSG_DELSETELEM,
    NFT_MSG_NEWGEN,
    NFT_MSG_NEWSETELEM,
    name,
    open_socket,
)

_NFNLGRP_NFTABLES = 7
_NEWGEN = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN
_ELEMENT_KINDS = {NFNL_SUBSYS_NFTABLES << 8 | kind for kind in (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM)}

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 4 << 20
"""Room for the notifications of `nft flush ruleset` with tens of thousands of objects. See `ChangeMonitor.has_lost_some` for more."""

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_LOAD_HALF, _LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x20, 0x15, 0x06
_TYPE_OFFSET, _PORT_OFFSET = 4, 12  # in struct nlmsghdr

_MAX_CHANGES = 64


class Change(NamedTuple):
    """A transaction that touched the table. `generation`: the one that it created. `pid`: in the initial PID namespace.

    `sets`: names of the table's sets and maps whose elements it changed.
    """

    generation: int
    pid: int
    program: str
    sets: frozenset[str]

    def __str__(self) -> str:
        return f"{self.program!r} (pid {self.pid})"


def is_later(generation: int, than: int) -> bool:
    """Whether one generation is later than another; the kernel's 32-bit counter wraps."""
    return 0 < (generation - than) & 0xFFFFFFFF < 1 << 31


class ChangeMonitor:
    """A socket in the group, and the changes that it reported.

    `own_ports`: netlink ports of the agent's sockets, whose transactions are not changes. `generation`: the newest in a notification,
    None before the first. `has_lost_some`: the socket's buffer overflowed, or a notification was malformed, so the table must be read.
    """

    def __init__(self, table: str, own_ports: Collection[int]) -> None:
        self._pattern = name(nfta.TABLE, table).rstrip(b"\x00") + b"\x00"
        self._own_ports = frozenset(own_ports)
        self._sets: set[str] = set()
        self._is_touched = False
        self.changes: list[Change] = []
        self.has_lost_some = False
        self.generation: int | None = None
        self.socket = open_socket()
        self.socket.setblocking(False)
        with suppress(PermissionError):  # in a user namespace; the default buffer is smaller but sufficient
            self.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        _attach_filter(self.socket, self._own_ports)
        self.socket.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))

    @property
    def has_news(self) -> bool:
        """Whether others may have changed the table since `forget`."""
        return bool(self.changes) or self.has_lost_some

    def read(self) -> None:
        """Read the notifications that have arrived. Does not wait. Raises `OSError`."""
        while True:
            try:
                data = self.socket.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.has_lost_some = True
                continue
            try:
                self._note(data)
            except MalformedMessageError:
                self.has_lost_some = True

    def forget(self, generation: int) -> None:
        """Drop the changes up to this generation: the caller has read the table since."""
        self.changes = [change for change in self.changes if is_later(change.generation, generation)]

    def _note(self, data: bytes) -> None:
        # Other programs may change thousands of elements of tables of their own, a few dozen in a datagram.
        may_touch = self._pattern in data
        for kind, _flags, _sequence, port, body in split(data):
            if kind == _NEWGEN:
                self._end_transaction(port, body)
            elif may_touch and self._pattern in body:
                self._is_touched = True
                if kind in _ELEMENT_KINDS:
                    self._sets.add(attributes_of(body).text(nfta.SET_ELEM_LIST_SET))

    def _end_transaction(self, port: int, body: bytes) -> None:
        attributes = attributes_of(body)
        self.generation = attributes.integer(nfta.GEN_ID, U32)
        if self._is_touched and port not in self._own_ports:
            if len(self.changes) >= _MAX_CHANGES:
                del self.changes[0]
                self.has_lost_some = True
            pid, program = attributes.integer(nfta.GEN_PROC_PID, U32, 0), attributes.text(nfta.GEN_PROC_NAME, "unknown")
            self.changes.append(Change(self.generation, pid, one_line(program), frozenset(self._sets)))
        self._is_touched = False
        self._sets.clear()


def _attach_filter(netlink: socket.socket, own_ports: Collection[int]) -> None:
    """Pass the final message of every transaction, and all messages of other processes. The socket must not be in the group yet.

    The filter loads in network byte order the fields that the header has in host order.
    """
    ports = sorted(own_ports)
    program = [
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_IF_EQUAL, len(ports) + 1, 0, socket.htons(_NEWGEN)),
        (_LOAD_WORD, 0, 0, _PORT_OFFSET),
        *((_JUMP_IF_EQUAL, len(ports) - index, 0, socket.htonl(port)) for index, port in enumerate(ports)),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    ]
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    netlink.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))
