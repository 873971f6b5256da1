"""The servers of a cluster in a box: one process that answers in all of its namespaces, until its standard input ends.

Run as `python -m loadtest.testbed.echo`. Reads one JSON line: a list of [namespace, address, [[protocol, port], …]]; writes "ready".
Each further byte that it reads comes back: the second of two in a row, when all that had arrived before the first has been answered.
TCP and UDP servers return the data that they receive, the SCTP server answers an INIT with an INIT ACK. The kernel answers ICMP.
"""

import json
import os
import selectors
import signal
import socket
import sys

from collections.abc import Callable, Iterator
from contextlib import suppress

from loadtest.testbed import netns, sctp

_BACKLOG = 512
_BUFFER_BYTES = 1 << 22

Serve = Callable[[socket.socket], None]


class Echo:
    """The sockets of all servers and one loop that serves them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._serving = True

    def listen(self, address: str, ports: list[tuple[str, int]]) -> None:
        """Serve an address of the calling thread's namespace."""
        for protocol, port in ports:
            if protocol == "TCP":
                self._add(_bound(address, socket.SOCK_STREAM, port), self._accept)
            elif protocol == "UDP":
                self._add(_bound(address, socket.SOCK_DGRAM, port), _answer_datagram)
        sctp_ports = frozenset(port for protocol, port in ports if protocol == "SCTP")
        if sctp_ports:
            raw = _bound(address, socket.SOCK_RAW, 0, socket.IPPROTO_SCTP)
            self._add(raw, lambda ready: _answer_init(ready, sctp_ports))

    def serve(self) -> None:
        """Serve until standard input ends, which happens when the parent process has exited."""
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ, None)
        while self._serving:
            for key, _events in self._selector.select():
                if key.data is not None:
                    key.data(key.fileobj)
                elif data := os.read(key.fd, 1):
                    os.write(sys.stdout.fileno(), data)
                else:
                    self._serving = False

    def _add(self, connection: socket.socket, serve: Serve) -> None:
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, serve)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the peer has closed it, or it failed before it was accepted
            while True:
                self._add(listener.accept()[0], self._answer_stream)

    def _answer_stream(self, connection: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = connection.recv(65536)
            connection.send(data)
        if not data:
            self._selector.unregister(connection)
            connection.close()


def _bound(address: str, kind: socket.SocketKind, port: int, protocol: int = 0) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    bound.bind((address, port))
    if kind is socket.SOCK_STREAM:
        bound.listen(_BACKLOG)
    return bound


def _answer_datagram(connection: socket.socket) -> None:
    for data, peer in _received(connection):
        with suppress(OSError):
            connection.sendto(data, peer)


def _answer_init(raw: socket.socket, ports: frozenset[int]) -> None:
    for data, peer in _received(raw):
        init = sctp.parse(payload(raw.family, data))
        if init is not None and init.chunk == sctp.INIT and init.destination_port in ports:
            answer = sctp.Packet(init.destination_port, init.source_port, init.initiate_tag, sctp.INIT_ACK, init.initiate_tag)
            with suppress(OSError):
                raw.sendto(sctp.build(answer), (peer[0], 0))


def _received(connection: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    """All datagrams that have arrived. An answer that was refused appears as an error here and is ignored."""
    while True:
        try:
            yield connection.recvfrom(65536)
        except BlockingIOError:
            return
        except OSError:
            continue


def payload(family: int, data: bytes) -> bytes:
    """The bytes behind the IP header; IPv4 sockets deliver the header too, IPv6 sockets do not (raw(7))."""
    return data[(data[0] & 0xF) * 4 :] if family == socket.AF_INET else data


def main() -> None:
    """Open all sockets, report readiness, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the parent process ends this one
    echo = Echo()
    for namespace, address, ports in json.loads(sys.stdin.buffer.readline()):
        netns.enter(namespace)
        echo.listen(address, ports)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    echo.serve()


if __name__ == "__main__":
    main()
