"""Receipt of datagrams with descriptors on Unix sockets."""

import socket


def receive(end: socket.socket, max_bytes: int, max_descriptors: int) -> tuple[bytes, list[int]]:
    """The next datagram and the descriptors that came with it, which the caller then owns. Empty: the peer is gone.

    The kernel closes descriptors for which there is no room. Raises `OSError`.
    """
    try:
        return socket.recv_fds(end, max_bytes, max_descriptors)[:2]
    except ConnectionResetError:
        # Once, before the last messages of a peer that has closed its end with unread ones. Source: unix_release_sock (af_unix.c).
        return socket.recv_fds(end, max_bytes, max_descriptors)[:2]
