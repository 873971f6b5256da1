"""Accepts connections at a bounded rate, and brings them through their TLS handshake.

An event loop accepts all that come, and begins a handshake, about a millisecond of CPU and a descriptor, for each. Here a connection
is accepted each 10 ms at most, so that a flood waits in the kernel's backlog, and few handshakes go on at once.
"""

import asyncio
import logging
import os
import socket

from collections.abc import Callable

from netpolq.tls import TlsContext, TlsFileError

MAX_HANDSHAKES = 32
"""Simultaneous handshakes. One more ends the oldest."""

ACCEPT_S = 0.01
"""Pause after an accepted connection."""

HANDSHAKE_S = 5.0
"""Longest handshake."""

_BACKLOG = 64
_CLOSE_S = 0.5
_AGAIN_S = 1.0

log = logging.getLogger("listener")


class Listener:
    """Listens on an address. `host`: empty for all addresses of both families. `port` 0: the kernel chooses one.

    `make`: the protocol of a connection. `tls`: None for none; while it has no context, every connection is refused. `opened`: called with
    each connection after its handshake; `refused`: with the client's address and the reason after a handshake that has failed. `is_shared`:
    another process may listen on the address, too.
    """

    def __init__(
        self,
        host: str,
        port: int,
        make: Callable[[], asyncio.Protocol],
        tls: TlsContext | None,
        *,
        opened: Callable[[asyncio.BaseTransport], None],
        refused: Callable[[str, str], None],
        is_shared: bool = False,
    ) -> None:
        self._host, self._port = host, port
        self._make = make
        self._tls = tls
        self._opened = opened
        self._refused = refused
        self._is_shared = is_shared
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._sockets: list[socket.socket] = []

    async def open(self) -> None:
        """Start to listen. Raises `OSError`."""
        flags = socket.AI_PASSIVE
        found = await asyncio.get_running_loop().getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=flags)
        try:
            for family, _kind, _protocol, _name, address in dict.fromkeys(found):
                # With port 0 all families have the port that the kernel has chosen for the first one.
                port = self._port or (self.ports[0] if self._sockets else 0)
                self._sockets.append(_listening(family, (address[0], port, *address[2:]), is_shared=self._is_shared))
        except OSError:
            self._close_sockets()
            raise

    @property
    def ports(self) -> list[int]:
        """The port of each socket."""
        return [int(one.getsockname()[1]) for one in self._sockets]

    async def run(self) -> None:
        """Accept connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for one in self._sockets:
                tasks.create_task(self._accept(one))

    async def close(self) -> None:
        """Stop listening, and end handshakes. Open connections stay."""
        self._close_sockets()
        for task in tuple(self._handshakes):
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _close_sockets(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets.clear()

    async def _accept(self, listening: socket.socket) -> None:
        loop, is_logged = asyncio.get_running_loop(), False
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # no descriptor is left, or the client is gone again
                if not is_logged:
                    log.warning("a connection cannot be accepted: %s", os.strerror(error.errno or 0))
                is_logged = True
                await asyncio.sleep(_AGAIN_S)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._shake_hands(connection, str(address[0])))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))
            await asyncio.sleep(ACCEPT_S)

    async def _shake_hands(self, connection: socket.socket, client: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            tls = None if self._tls is None else self._tls.current()
        except TlsFileError as error:
            connection.close()
            self._refused(client, str(error))
            return
        try:
            if tls is None:
                transport, _protocol = await loop.connect_accepted_socket(self._make, connection)
            else:
                transport, _protocol = await loop.connect_accepted_socket(
                    self._make,
                    connection,
                    ssl=tls,
                    ssl_handshake_timeout=HANDSHAKE_S,
                    ssl_shutdown_timeout=_CLOSE_S,
                )
        except OSError as error:  # of TLS, too
            self._refused(client, getattr(error, "reason", None) or " ".join(str(error).split()) or type(error).__name__)
        else:
            self._opened(transport)


def _listening(family: int, address: tuple[object, ...], *, is_shared: bool) -> socket.socket:
    """A socket that listens. Raises `OSError`."""
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
