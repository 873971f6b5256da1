"""The HTTP endpoints: /metrics, /healthz and /readyz for the network, /status and /loglevel on a Unix socket for root."""

import asyncio
import logging
import os

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from netpolq.errors import BootError
from netpolq.ipc.peer_credentials import PeerCredentials, peer_credentials
from netpolq.supervisor.log_level import LOGLEVEL_PATH, Verbosity

MAX_CONNECTIONS = 64
"""To the metrics, at the same time. Prometheus and the kubelet have one or two each."""

MAX_CONNECTION_S = 20.0
"""Longer than any scrape may take (scrape_timeout is 10 s by default)."""

_KEEPALIVE_S = 10.0
_SHUTDOWN_S = 0.5
_CHECK_S = 1.0
_MAX_LOGGED_UIDS = 16
"""User ids that are logged when a request is rejected, each once: repeated requests must not fill the log."""

log = logging.getLogger("http")

_MAX_QUOTED = 200


class _OneLine(logging.Filter):
    """Makes one line of what aiohttp says of a request that is no HTTP: a warning without the traceback. Errors of our own stay whole."""

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


def _server_log() -> logging.Logger:
    """The logger of the HTTP servers. At debug level, because aiohttp tells some malformed requests only there."""
    found = logging.getLogger("http.server")
    found.setLevel(logging.DEBUG)
    if not any(isinstance(one, _OneLine) for one in found.filters):
        found.addFilter(_OneLine())
    return found


class _ConnectionLimit(web.Server):
    """Lets in anybody, and bounds what that costs: clients of the metrics may be slow, many, or hostile.

    One more connection than there may be closes the oldest, not the new one: who answers in time is through long before his turn comes,
    and nobody can keep others out by holding connections open. Nor can he hold one for longer than a while.
    """

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(answer, access_log=None, logger=_server_log(), keepalive_timeout=_KEEPALIVE_S, lingering_time=0.0)
        self._open: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}  # the oldest first

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """A client has come."""
        super().connection_made(handler, transport)
        self._open[handler] = transport, asyncio.get_running_loop().call_later(MAX_CONNECTION_S, transport.abort)
        if len(self._open) > MAX_CONNECTIONS:
            self._close(next(iter(self._open)))

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """A client has gone."""
        super().connection_lost(handler, exc)
        self._close(handler)

    def _close(self, handler: web.RequestHandler) -> None:
        if handler in self._open:
            transport, timer = self._open.pop(handler)
            timer.cancel()
            transport.abort()


async def serve_metrics(
    host: str, port: int, *, expose: Callable[[], bytes], not_ready: Callable[[], list[str]]
) -> web.ServerRunner:
    """Serve on an address (empty host: all). Raises `BootError` when it is taken."""
    exposing: asyncio.Task[bytes] | None = None

    async def metrics() -> bytes:
        # In a thread, because it reads the files of all workers; and once for all who ask meanwhile.
        nonlocal exposing
        if exposing is None or exposing.done():
            exposing = asyncio.create_task(asyncio.to_thread(expose))
        return await asyncio.shield(exposing)

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405, text="only GET\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/metrics":
                content_type = "text/plain; version=0.0.4; charset=utf-8"
                return web.Response(body=await metrics(), headers={"Content-Type": content_type})
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
        # Two agents listen while one takes over from the other.
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
    """Serves the status document, and the verbosity of the log, on a Unix socket that only its owner may use.

    `number`: that no other agent has, for the name under which the socket is made. Then it takes the place of whatever is at `path`: the
    socket of a supervisor that was killed, or of an agent that we take over from, which goes on with those who have connected.
    """

    def __init__(self, path: Path, number: int, *, status: Callable[[], bytes], verbosity: Verbosity | None = None) -> None:
        self._path = path
        self._builder = path.with_name(f"sock.{number}")
        self._status = status
        self._verbosity = verbosity
        self._logged_uids: set[int | None] = set()
        application = web.Application()
        application.add_routes([web.get("/status", self._answer)])
        if verbosity is not None:
            application.add_routes([web.get(LOGLEVEL_PATH, self._tell_verbosity), web.put(LOGLEVEL_PATH, self._set_verbosity)])
        self._runner = web.AppRunner(
            application, access_log=None, logger=_server_log(), handle_signals=False, shutdown_timeout=_SHUTDOWN_S
        )

    async def open(self) -> None:
        """Raises `BootError` where it cannot be made."""
        await self._runner.setup()
        try:
            await self.claim()
        except OSError as error:
            await self._runner.cleanup()
            raise BootError(
                f"--run-dir {self._path.parent}: the status socket cannot be made: {os.strerror(error.errno or 0)}"
            ) from error

    async def claim(self) -> None:
        """Have the name, whoever had it. Raises `OSError`."""
        self._builder.unlink(missing_ok=True)
        await web.UnixSite(self._runner, self._builder).start()
        self._builder.chmod(0o600)
        self._builder.rename(self._path)

    async def look_after(self) -> None:
        """Once a second, make the socket again if another program has removed it or the folder. Until cancelled."""
        is_told = False
        while True:
            await asyncio.sleep(_CHECK_S)
            if self._path.is_socket():
                continue
            try:
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                await self.claim()
            except OSError as error:
                if not is_told:
                    log.error("%s is missing and cannot be made again: %s", self._path, os.strerror(error.errno or 0))
                is_told = True
                continue
            is_told = False
            log.warning("%s was missing and is there again", self._path)

    async def cleanup(self) -> None:
        """Stop to serve."""
        await self._runner.cleanup()

    def _refuse_others(self, request: web.Request) -> None:
        """Raises `HTTPForbidden` unless the client runs as root or as the agent's own user."""
        credentials = _credentials(request)
        if credentials is None or not credentials.is_trusted:
            # A second check: the permissions of file and directory may have been loosened.
            uid = None if credentials is None else credentials.uid
            if uid not in self._logged_uids and len(self._logged_uids) < _MAX_LOGGED_UIDS:
                self._logged_uids.add(uid)
                log.warning("status request from user %s rejected", uid)
            raise web.HTTPForbidden(text="only root and the agent's own user may ask\n")

    async def _answer(self, request: web.Request) -> web.Response:
        self._refuse_others(request)
        return web.Response(body=self._status(), content_type="application/json")

    async def _tell_verbosity(self, request: web.Request) -> web.Response:
        self._refuse_others(request)
        assert self._verbosity is not None  # noqa: S101  # or there would be no such path
        return web.Response(text=str(self._verbosity.present))

    async def _set_verbosity(self, request: web.Request) -> web.Response:
        self._refuse_others(request)
        assert self._verbosity is not None  # noqa: S101  # or there would be no such path
        try:
            before = self._verbosity.change(await request.text())
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except ConnectionError as error:
            return web.Response(status=503, text=str(error))
        return web.Response(text=str(before))
