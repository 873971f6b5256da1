"""Serves flows, status and objects to `netpolq ui` over TLS 1.3, to clients with a certificate.

A client without a certificate of the client CA fails in the handshake, and one whose certificate has another name is disconnected after
it: neither gets a byte of HTTP. The supervisor accepts connections itself and paces them, so that handshakes cost it a bounded part of a
CPU and a bounded number of descriptors, whatever clients do.

Source of the paths: those of the status socket.
"""

import asyncio
import logging
import os
import socket
import time

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from netpolq.errors import BootError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.supervisor.http import Stream, error_log, stream_answer
from netpolq.tls import TlsContext, dns_names

MAX_CONNECTIONS = 32
"""Simultaneous connections of clients with a valid certificate. A `netpolq ui` has a few. One more closes the oldest."""

MAX_HANDSHAKES = 32
"""Simultaneous handshakes. One more ends the oldest."""

ACCEPT_S = 0.01
"""Pause after an accepted connection: at most 100 handshakes a second, of about a millisecond each. More wait in the kernel's backlog."""

HANDSHAKE_S = 5.0
IDLE_S = 30.0
"""A connection without a request under way is closed after this time, and a stream of which the client reads nothing for so long."""

MAX_AGE_S = 300.0
"""A connection takes no request after this time, so that an expired certificate is of no further use."""

_MAX_STREAMS = 4
"""Answers in pieces at once. Others wait: each holds references to many objects."""

_BACKLOG = 64
_LOOK_S = 10.0
_LOG_S = 60.0
_SHUTDOWN_S = 0.5

Respond = Callable[[web.BaseRequest, bool], Awaitable[web.StreamResponse]]
"""Answers a request. The second argument: whether it is the last one of its connection."""

log = logging.getLogger("report")


@dataclass(slots=True, kw_only=True)
class _Open:
    """An open connection. `timer`: ends it while no request is under way. `generation`: of the TLS context of its handshake."""

    transport: asyncio.Transport
    timer: asyncio.TimerHandle
    made_s: float
    generation: int


class _Connections(web.Server):
    """Open connections, after their handshake. `client_name`: the DNS name that a certificate must have."""

    def __init__(self, client_name: str, tls: TlsContext, refused: Callable[[str, str], None], respond: Respond) -> None:
        super().__init__(self._answer, access_log=None, logger=error_log(), keepalive_timeout=IDLE_S, lingering_time=0.0)
        self._client_name = client_name
        self._tls = tls
        self._refused = refused
        self._respond = respond
        self._open: dict[web.RequestHandler, _Open] = {}  # the oldest first

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a new connection, unless its certificate has another name. Closes the oldest one above the limit."""
        super().connection_made(handler, transport)
        names = dns_names(transport.get_extra_info("peercert"))
        if self._client_name not in names:
            shown = ", ".join(names)[:200] or "no DNS name"
            peer = transport.get_extra_info("peername")
            self._refused(str(peer[0]) if peer else "unknown", f"its certificate has {shown}, not {self._client_name}")
            transport.abort()
            return
        timer = asyncio.get_running_loop().call_later(IDLE_S, transport.abort)
        self._open[handler] = _Open(transport=transport, timer=timer, made_s=time.monotonic(), generation=self._tls.generation)
        if len(self._open) > MAX_CONNECTIONS:
            self._close(next(iter(self._open)))

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a closed connection."""
        super().connection_lost(handler, exc)
        self._close(handler)

    def _close(self, handler: web.RequestHandler) -> None:
        if (found := self._open.pop(handler, None)) is not None:
            found.timer.cancel()
            found.transport.abort()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        handler = request.protocol
        found = self._open.get(handler)
        if found is None:  # refused, or closed for a newer one
            return web.Response(status=HTTPStatus.FORBIDDEN)  # its transport is closed
        found.timer.cancel()
        is_last = found.generation != self._tls.generation or time.monotonic() - found.made_s > MAX_AGE_S
        try:
            return await self._respond(request, is_last)
        except (ConnectionError, TimeoutError):  # the client is gone, or reads nothing
            found.transport.abort()
            return web.Response()
        finally:
            if handler in self._open:
                found.timer = asyncio.get_running_loop().call_later(IDLE_S, found.transport.abort)


class ReportServer:
    """Listens, and answers GET for `documents` and `streams` by path. `client_name`: see `_Connections`."""

    def __init__(
        self,
        address: BindAddress,
        tls: TlsContext,
        client_name: str,
        *,
        documents: Mapping[str, Callable[[], bytes]],
        streams: Mapping[str, Stream],
    ) -> None:
        self._address = address
        self._tls = tls
        self._documents = documents
        self._streams = streams
        self._streaming = asyncio.Semaphore(_MAX_STREAMS)
        self._connections = _Connections(client_name, tls, self._note_refused, self._respond)
        self._handshakes: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._listeners: list[socket.socket] = []
        self._refused, self._logged_s = 0, float("-inf")

    async def open(self) -> None:
        """Start to listen. Raises `BootError` when the address is in use."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._address.host or None, self._address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, _kind, _protocol, _name, address in dict.fromkeys(found):
                self._listeners.append(_listener(family, address))
        except OSError as error:
            self._close_listeners()
            reason = error.strerror or os.strerror(error.errno or 0)
            raise BootError(f"--report-bind-address {self._address}: {reason}; choose another address") from error

    @property
    def ports(self) -> list[int]:
        """The port of each socket."""
        return [int(listener.getsockname()[1]) for listener in self._listeners]

    async def run(self) -> None:
        """Accept connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_at_files())
            for listener in self._listeners:
                tasks.create_task(self._accept(listener))

    async def cleanup(self) -> None:
        """Stop serving."""
        self._close_listeners()
        for task in tuple(self._handshakes):
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        await self._connections.shutdown(_SHUTDOWN_S)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _look_at_files(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._tls.current()

    async def _accept(self, listener: socket.socket) -> None:
        loop, is_logged = asyncio.get_running_loop(), False
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left, or the client is gone again
                if not is_logged:
                    log.warning("a connection to the report cannot be accepted: %s", os.strerror(error.errno or 0))
                is_logged = True
                await asyncio.sleep(1.0)
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
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connections,
                connection,
                ssl=self._tls.current(),
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as error:  # of TLS, too
            self._note_refused(client, getattr(error, "reason", None) or " ".join(str(error).split()) or type(error).__name__)

    def _note_refused(self, client: str, reason: str) -> None:
        """Log that a client was refused, at most once in a minute: a scan must not fill the log."""
        self._refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_s < _LOG_S:
            return
        more = f", and {self._refused - 1} others since the last such line" if self._refused > 1 else ""
        log.warning("a client of the report was refused, %s: %s%s", client, reason, more)
        self._refused, self._logged_s = 0, now_s

    async def _respond(self, request: web.BaseRequest, is_last: bool) -> web.StreamResponse:
        if request.method != "GET":
            response = web.Response(status=405, text="only GET\n", headers={"Allow": "GET"})
        elif (document := self._documents.get(request.path)) is not None:
            response = web.Response(body=document(), content_type="application/json")
        elif (stream := self._streams.get(request.path)) is not None:
            async with self._streaming:
                return await stream_answer(request, stream, write_s=IDLE_S, is_last=is_last)
        else:
            response = web.Response(status=404, text=f"there are {', '.join((*self._documents, *self._streams))}\n")
        if is_last:
            response.force_close()
        return response


def _listener(family: int, address: tuple[object, ...]) -> socket.socket:
    """A socket that listens. Two agents listen during a takeover. Raises `OSError`."""
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
