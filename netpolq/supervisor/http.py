"""HTTP servers: /metrics, /healthz and /readyz on the network; JSON documents, /metrics and /loglevel on a Unix socket for root."""

import asyncio
import logging
import os

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from netpolq.errors import BootError
from netpolq.ipc.peer_credentials import PeerCredentials, peer_credentials
from netpolq.supervisor.log_level import LOGLEVEL_PATH, Verbosity
from netpolq.supervisor.status import METRICS_PATH

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Stream = Callable[[Sequence[tuple[str, str]]], AsyncIterator[bytes]]
"""Makes a document in JSON lines, in pieces, from the parameters of a query. Raises `ValueError` for parameters that it cannot read."""

MAX_CONNECTIONS = 64
"""Simultaneous connections to the metrics server. Prometheus and the kubelet have one or two each."""

MAX_CONNECTION_S = 20.0
"""Maximum lifetime of a connection. Longer than any scrape (scrape_timeout is 10 s by default)."""

_KEEPALIVE_S = 10.0
_SHUTDOWN_S = 0.5
_CHECK_S = 1.0
_MAX_LOGGED_UIDS = 16
"""User ids that are logged when a request is rejected, each once: repeated requests must not fill the log."""

log = logging.getLogger("http")

_MAX_QUOTED = 200


class _OneLine(logging.Filter):
    """Turns aiohttp's error about a malformed request into a warning of one line. Errors of the agent keep their traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return record.levelno > logging.DEBUG
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        client = record.args[0] if isinstance(record.args, tuple) and record.args else "unknown"
        reason = " ".join(error.message.split())[:_MAX_QUOTED]
        record.msg, record.args = "malformed request from %s: %s", (client or "a Unix socket", reason)
        return True


def server_log() -> logging.Logger:
    """The logger of the HTTP servers. At debug level, because aiohttp logs some malformed requests at no other."""
    found = logging.getLogger("http.server")
    found.setLevel(logging.DEBUG)
    if not any(isinstance(one, _OneLine) for one in found.filters):
        found.addFilter(_OneLine())
    return found


class _ConnectionLimit(web.Server):
    """Server that caps connections and evicts the oldest: clients of the metrics may be slow, many, or hostile.

    A connection above `MAX_CONNECTIONS` closes the oldest one, so idle clients cannot block others. Every connection is closed after
    `MAX_CONNECTION_S`.
    """

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(answer, access_log=None, logger=server_log(), keepalive_timeout=_KEEPALIVE_S, lingering_time=0.0)
        self._open: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}  # the oldest first

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a new connection, and close the oldest one above the limit."""
        super().connection_made(handler, transport)
        self._open[handler] = transport, asyncio.get_running_loop().call_later(MAX_CONNECTION_S, transport.abort)
        if len(self._open) > MAX_CONNECTIONS:
            self._close(next(iter(self._open)))

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a closed connection."""
        super().connection_lost(handler, exc)
        self._close(handler)

    def _close(self, handler: web.RequestHandler) -> None:
        if handler in self._open:
            transport, timer = self._open.pop(handler)
            timer.cancel()
            transport.abort()


def in_thread(expose: Callable[[], bytes]) -> Callable[[], Awaitable[bytes]]:
    """The exposition of the metrics for all servers. It runs in a thread, because it reads the counters of all workers.

    Concurrent requests share one result: the collectors have state.
    """
    exposing: asyncio.Task[bytes] | None = None

    async def exposed() -> bytes:
        nonlocal exposing
        if exposing is None or exposing.done():
            exposing = asyncio.create_task(asyncio.to_thread(expose))
        return await asyncio.shield(exposing)

    return exposed


async def stream_answer(
    request: web.BaseRequest, stream: Stream, *, write_s: float | None = None, is_last: bool = False
) -> web.StreamResponse:
    """Answer with a document in JSON lines, or with what is wrong with the query.

    `write_s`: how long the client may read nothing, or None; then raises `TimeoutError`. `is_last`: the connection closes afterwards.
    """
    response: web.StreamResponse
    try:
        pieces = stream(tuple(request.query.items()))
    except ValueError as error:
        response = web.Response(status=400, text=str(error))
        if is_last:
            response.force_close()
        return response
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    if is_last:
        response.force_close()
    await response.prepare(request)
    async for piece in pieces:
        async with asyncio.timeout(write_s):
            await response.write(piece)
    async with asyncio.timeout(write_s):
        await response.write_eof()
    return response


async def serve_metrics(
    host: str, port: int, *, metrics: Callable[[], Awaitable[bytes]], not_ready: Callable[[], list[str]]
) -> web.ServerRunner:
    """Serve on an address (empty host: all). Raises `BootError` when it is in use."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                return web.Response(body=await metrics(), headers={"Content-Type": _METRICS_TYPE})
            case "/healthz":
                return web.Response(text="ok\n")
            case "/readyz":
                reasons = not_ready()
                return web.Response(status=503, text="\n".join(reasons) + "\n") if reasons else web.Response(text="ok\n")
            case _:
                return web.Response(status=404, text="there are /metrics, /healthz and /readyz\n")

    runner = web.ServerRunner(_ConnectionLimit(answer), handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        # Two agents listen during a takeover.
        await web.TCPSite(runner, host or None, port, reuse_port=True).start()
    except OSError as error:
        await runner.cleanup()
        raise BootError(
            f"--metrics-bind-address {host}:{port}: {os.strerror(error.errno or 0)}; choose another address"
        ) from error
    return runner


def _credentials(request: web.Request) -> PeerCredentials | None:
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        return None
    return peer_credentials(peer)


class StatusSocket:
    """Serves JSON documents, the metrics and the log verbosity on a Unix socket that only its owner may use.

    `documents`, `streams`: by path. `number`: unique among agents; part of the temporary name of the socket. The socket then
    replaces the one at `path`: that of a killed supervisor, or of the running agent in a takeover, which still serves its open
    connections. When the other agent has left, the socket is created again: its supervisor may have restarted and replaced it.
    """

    def __init__(
        self,
        path: Path,
        number: int,
        other_agent_left: asyncio.Event,
        *,
        documents: Mapping[str, Callable[[], bytes]],
        streams: Mapping[str, Stream],
        metrics: Callable[[], Awaitable[bytes]],
        verbosity: Verbosity,
    ) -> None:
        self._path = path
        self._other_agent_left = other_agent_left
        self._temporary_path = path.with_name(f"sock.{number}")
        self._verbosity = verbosity
        self._metrics = metrics
        self._logged_uids: set[int | None] = set()
        application = web.Application()
        application.add_routes([web.get(path, self._answer(document)) for path, document in documents.items()])
        application.add_routes([web.get(path, self._answer_in_pieces(stream)) for path, stream in streams.items()])
        application.add_routes([web.get(METRICS_PATH, self._get_metrics)])
        application.add_routes([web.get(LOGLEVEL_PATH, self._get_verbosity), web.put(LOGLEVEL_PATH, self._set_verbosity)])
        self._runner = web.AppRunner(
            application, access_log=None, logger=server_log(), handle_signals=False, shutdown_timeout=_SHUTDOWN_S
        )

    async def open(self) -> None:
        """Start to serve. Raises `BootError` if the socket cannot be created."""
        await self._runner.setup()
        try:
            await self.bind()
        except OSError as error:
            await self._runner.cleanup()
            raise BootError(
                f"--run-dir {self._path.parent}: cannot create the status socket: {os.strerror(error.errno or 0)}"
            ) from error

    async def bind(self) -> None:
        """Create the socket and move it to its path, replacing what is there. Raises `OSError`."""
        self._temporary_path.unlink(missing_ok=True)
        await web.UnixSite(self._runner, self._temporary_path).start()
        self._temporary_path.chmod(0o600)
        self._temporary_path.rename(self._path)

    async def look_after(self) -> None:
        """Create the socket again if another program has removed it or its directory. Checks every second until cancelled."""
        is_logged = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._other_agent_left.wait()
            if self._other_agent_left.is_set():
                await self._replace()
                continue
            if self._path.is_socket():
                continue
            try:
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                await self.bind()
            except OSError as error:
                if not is_logged:
                    log.error("%s is missing and cannot be created again: %s", self._path, os.strerror(error.errno or 0))
                is_logged = True
                continue
            is_logged = False
            log.warning("%s was missing and has been created again", self._path)

    async def _replace(self) -> None:
        self._other_agent_left.clear()
        try:
            await self.bind()
        except OSError as error:
            logging.getLogger("supervisor").error("cannot create the status socket: %s", error.strerror)

    async def cleanup(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    def _reject_others(self, request: web.Request) -> None:
        """Raises `HTTPForbidden` unless the client runs as root or as the agent's own user."""
        credentials = _credentials(request)
        if credentials is None or not credentials.is_trusted:
            # A second check: the permissions of file and directory may have been loosened.
            uid = None if credentials is None else credentials.uid
            if uid not in self._logged_uids and len(self._logged_uids) < _MAX_LOGGED_UIDS:
                self._logged_uids.add(uid)
                log.warning("status request from user %s rejected", uid)
            raise web.HTTPForbidden(text="only root and the agent's own user have access\n")

    def _answer(self, document: Callable[[], bytes]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.Response:
            self._reject_others(request)
            return web.Response(body=document(), content_type="application/json")

        return answer

    def _answer_in_pieces(self, stream: Stream) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            self._reject_others(request)
            return await stream_answer(request, stream)

        return answer

    async def _get_metrics(self, request: web.Request) -> web.Response:
        self._reject_others(request)
        return web.Response(body=await self._metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def _get_verbosity(self, request: web.Request) -> web.Response:
        self._reject_others(request)
        return web.Response(text=str(self._verbosity.present))

    async def _set_verbosity(self, request: web.Request) -> web.Response:
        self._reject_others(request)
        try:
            before = self._verbosity.change(await request.text())
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except ConnectionError as error:
            return web.Response(status=503, text=str(error))
        return web.Response(text=str(before))
