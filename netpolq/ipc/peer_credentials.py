"""Credentials of the process at the other end of a Unix socket."""

import os
import socket
import struct

from typing import NamedTuple

_UCRED = struct.Struct("3i")


class PeerCredentials(NamedTuple):
    """The process that connected, at the time of connect(2). Source: `struct ucred`, unix(7)."""

    pid: int
    uid: int
    gid: int

    @property
    def is_trusted(self) -> bool:
        """Whether root or the agent's own user runs the peer process."""
        return self.uid in {0, os.geteuid()}


def peer_credentials(end: socket.socket) -> PeerCredentials:
    """The credentials of the peer of a connected Unix socket, as the kernel recorded them (SO_PEERCRED)."""
    return PeerCredentials(*_UCRED.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
