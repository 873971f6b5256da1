"""Leaks of a denied flow: datagrams sent continuously, and the times of those that arrive."""

import socket
import threading
import time

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.cluster import Cluster

INTERVAL_S = 0.0005
_PORT = 9100
_QUIET_S = 0.2


class Leak:
    """A UDP flow between two hosts, a datagram every `INTERVAL_S`. `arrivals_s`: `time.monotonic()` of each arrival."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        self.arrivals_s: list[float] = []
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def is_quiet(self) -> bool:
        """Whether no datagram has arrived within the last `_QUIET_S`."""
        return not self.arrivals_s or time.monotonic() - self.arrivals_s[-1] > _QUIET_S

    def _send(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self._client.send(b"x")

    def _receive(self) -> None:
        while not self._end.is_set():
            try:
                self._server.recv(16)
            except TimeoutError:
                continue
            self.arrivals_s.append(time.monotonic())


@contextmanager
def leaking(cluster: Cluster, source: str, destination: str, family: int = 4) -> Iterator[Leak]:
    """Send datagrams until the end of the `with` statement."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with (
        cluster.box.inside(source, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as client,
        cluster.box.inside(destination, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as server,
    ):
        server.bind((cluster.box.address(destination, family), _PORT))
        server.settimeout(0.05)
        client.connect((cluster.box.address(destination, family), _PORT))
        leak = Leak(client, server)
        try:
            yield leak
        finally:
            leak.close()
