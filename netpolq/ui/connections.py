"""The open connections of browsers, which are bounded: a client needs no token to connect."""

import asyncio
import time

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

MAX_CONNECTIONS = 512
"""One more closes the oldest connection that has no request which is let in."""

MAX_SILENT_S = 15.0
"""How long a connection may have no request that is let in, from its beginning."""

KEEPALIVE_S = 30.0
"""How long a connection may be without a request after one."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Counts connections and the requests that they have."""

    def __init__(self) -> None:
        self._opened: dict[asyncio.BaseTransport, float] = {}  # the oldest first
        self._requests: dict[asyncio.BaseTransport, int] = {}
        self._was_let_in: set[asyncio.BaseTransport] = set()

    def opened(self, transport: asyncio.BaseTransport) -> None:
        """Note a new connection, and close one above the limit."""
        self._forget_closed()
        self._opened[transport] = time.monotonic()
        if len(self._opened) > MAX_CONNECTIONS:
            _abort(next((one for one in self._opened if not self._requests.get(one)), transport))
        asyncio.get_running_loop().call_later(MAX_SILENT_S, self._close_if_silent, transport)

    def _close_if_silent(self, transport: asyncio.BaseTransport) -> None:
        if transport not in self._was_let_in:
            _abort(transport)
            self._forget_closed()

    def _forget_closed(self) -> None:
        for transport in [one for one in self._opened if one.is_closing()]:
            del self._opened[transport]
            self._was_let_in.discard(transport)

    @property
    def middleware(self) -> Middleware:
        """The middleware that notes requests; behind the one that refuses some."""

        @web.middleware
        async def noted(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if transport is None:  # the client is gone
                return await handler(request)
            if transport in self._opened:
                self._was_let_in.add(transport)
            self._requests[transport] = self._requests.get(transport, 0) + 1
            try:
                return await handler(request)
            finally:
                self._requests[transport] -= 1
                if not self._requests[transport]:
                    del self._requests[transport]

        return noted


def _abort(transport: asyncio.BaseTransport) -> None:
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
