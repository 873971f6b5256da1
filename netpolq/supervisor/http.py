"""The HTTP endpoints: /metrics, /healthz and /readyz for the network, /status on a Unix socket for root."""

import asyncio
import logging
import os
import socket
import struct

from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from netpolq.errors import BootError

_SHUTDOWN_S = 0.5
_MOST_TOLD = 16
"""Users whose refusal is logged, each once: who may ask as often as he likes must not fill the log."""

_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7)

log = logging.getLogger("http")


async def serve_metrics(
    host: str, port: int, *, expose: Callable[[], bytes], not_ready: Callable[[], list[str]]
) -> web.AppRunner:
    """Serve on an address (empty host: all). Raises `BootError` when it is taken."""

    async def metrics(_request: web.Request) -> web.Response:
        # In a thread, because it reads the files of all workers.
        body = await asyncio.to_thread(expose)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reasons = not_ready()
        return web.Response(status=503, text="\n".join(reasons) + "\n") if reasons else web.Response(text="ok\n")

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
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


def _peer_uid(request: web.Request) -> int | None:
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        return None
    _pid, uid, _gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


async def serve_status(path: Path, number: int, *, status: Callable[[], bytes]) -> web.AppRunner:
    """Serve the status document on a Unix socket that only its owner may use.

    `number`: that no other agent has, for the name under which the socket is made. Then it takes the place of whatever is at `path`: the
    socket of a supervisor that was killed, or of an agent that we take over from, which goes on with those who have connected.
    """
    told: set[int | None] = set()

    async def answer(request: web.Request) -> web.Response:
        uid = _peer_uid(request)
        if uid not in {0, os.geteuid()}:
            # Permissions of file and folder keep others out as well, unless somebody has loosened them.
            if uid not in told and len(told) < _MOST_TOLD:
                told.add(uid)
                log.warning("user %s asks for the status and is refused", uid)
            raise web.HTTPForbidden(text="only root and the agent's own user may ask\n")
        return web.Response(body=status(), content_type="application/json")

    application = web.Application()
    application.add_routes([web.get("/status", answer)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    draft = path.with_name(f"sock.{number}")
    draft.unlink(missing_ok=True)
    try:
        await web.UnixSite(runner, draft).start()
        draft.chmod(0o600)
        draft.rename(path)
    except OSError as error:
        await runner.cleanup()
        raise BootError(f"--run-dir {path.parent}: the status socket cannot be made: {os.strerror(error.errno or 0)}") from error
    return runner
