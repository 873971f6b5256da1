"""Serves flows, status and objects to `netpolq ui` over TLS 1.3, to clients with a certificate.

A client without a certificate of the client CA fails in the handshake, and one whose certificate has another name is disconnected after
it: neither gets a byte of HTTP. What handshakes cost is bounded (`netpolq.listener`).

Source of the paths: those of the status socket.
"""

import asyncio
import logging
import os
import time

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from netpolq.errors import BootError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.listener import Listener
from netpolq.supervisor.http import Stream, server_log, stream_answer
from netpolq.tls import TlsContext, TlsFileError, dns_names

MAX_CONNECTIONS = 32
"""Simultaneous connections of clients with a valid certificate. A `netpolq ui` has a few. One more closes the oldest."""

IDLE_S = 30.0
"""A connection without a request under way is closed after this time, and a stream of which the client reads nothing for so long."""

MAX_AGE_S = 300.0
"""A connection takes no request after this time, so that an expired certificate is of no further use."""

_MAX_STREAMS = 4
"""Answers in pieces at once. Others wait: each holds references to many objects."""

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
        super().__init__(self._answer, access_log=None, logger=server_log(), keepalive_timeout=IDLE_S, lingering_time=0.0)
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
        self._listener = Listener(
            address.host,
            address.port,
            self._connections,
            tls,
            opened=lambda _transport: None,
            refused=self._note_refused,
            is_shared=True,  # two agents listen during a takeover
        )
        self._refused, self._logged_s = 0, float("-inf")

    async def open(self) -> None:
        """Start to listen. Raises `BootError` when the address is in use."""
        try:
            await self._listener.open()
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise BootError(f"--report-bind-address {self._address}: {reason}; choose another address") from error

    @property
    def ports(self) -> list[int]:
        """The port of each socket."""
        return self._listener.ports

    async def run(self) -> None:
        """Accept connections until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_at_files())
            tasks.create_task(self._listener.run())

    async def cleanup(self) -> None:
        """Stop serving."""
        await self._listener.close()
        await self._connections.shutdown(_SHUTDOWN_S)

    async def _look_at_files(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(TlsFileError):  # which is told in the status
                self._tls.current()

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
