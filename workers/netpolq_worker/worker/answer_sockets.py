"""Raw sockets for answers to denied packets. The pool opens them, before it drops CAP_NET_RAW, and all workers send with them.

They are descriptors above the limit of open files that a worker sets itself, so no other descriptor of a worker can ever have one of their
numbers: the filter of system calls allows by these numbers to send to an address (`netpolq_worker.worker.sandbox`).
"""

import fcntl
import resource
import socket

from contextlib import suppress
from typing import NamedTuple

_MAX_LIMIT = 4096
"""The kernel's table of descriptors has 8 bytes for each up to the highest, in every process."""
_IPV6_HDRINCL = 36  # linux/in6.h


class AnswerSockets(NamedTuple):
    """Sockets by the bytes of an address, 4 or 16. `descriptor_limit`: the limit of open files that a worker sets; they lie above it."""

    descriptor_limit: int
    sockets: dict[int, socket.socket]

    def descriptors(self) -> tuple[int, ...]:
        """Their descriptors."""
        return tuple(one.fileno() for one in self.sockets.values())

    def close(self) -> None:
        """Close them."""
        for one in self.sockets.values():
            one.close()


def open_answer_sockets() -> AnswerSockets:
    """Open them: one for each family that the kernel has. Raises `PermissionError` without CAP_NET_RAW, and `OSError`."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = (_MAX_LIMIT if soft == resource.RLIM_INFINITY else min(soft, _MAX_LIMIT)) - 2
    ipv4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)  # its packets include the IP header
    sockets = {4: ipv4}
    with suppress(OSError):  # a kernel without IPv6
        sockets[16] = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        sockets[16].setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return AnswerSockets(limit, {family: _moved(one, limit) for family, one in sockets.items()})


def _moved(raw: socket.socket, lowest: int) -> socket.socket:
    with raw:
        moved = socket.socket(fileno=fcntl.fcntl(raw, fcntl.F_DUPFD_CLOEXEC, lowest))
    moved.setblocking(False)
    return moved
