"""The server of `netpolq ui`: connects a source of agents, what is known of them, the API, and the page."""

import asyncio
import os
import time

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from netpolq.errors import BootError
from netpolq.flows.table import HISTORY_S
from netpolq.ipc.agent_settings import BindAddress
from netpolq.listener import Listener
from netpolq.supervisor.http import server_log
from netpolq.tls import TlsContext, TlsFile, TlsFileError, server_context
from netpolq.ui import access
from netpolq.ui.access.middleware import Authenticator
from netpolq.ui.agents.source import Source
from netpolq.ui.api import questions, state
from netpolq.ui.api.documents import Documents
from netpolq.ui.api.errors import RequestError, errors_as_json
from netpolq.ui.api.parts import UI, Ui
from netpolq.ui.connections import KEEPALIVE_S, Connections
from netpolq.ui.objects import CachedObjects
from netpolq.ui.state.known_agents import KnownAgents

if TYPE_CHECKING:
    from netpolq.sources.kubernetes.connection import Connection

STATIC = Path(__file__).with_name("static")
"""The built page: `index.html`, and files under `assets/` whose names have a hash of their content."""

_TICK_S = 1.0
_SHUTDOWN_S = 0.5
_IMMUTABLE = "public, max-age=31536000, immutable"
_NOT_BUILT = (
    "the page is not built; run `make ui` in the source folder, or install a wheel of netpolq. The API at /api works without it."
)


def application(
    ui: Ui,
    settings: access.Access,
    authenticator: Authenticator | None,
    connections: Connections,
    *,
    static: Path = STATIC,
) -> web.Application:
    """The application. `authenticator`: see `access.protect`."""
    app = web.Application(middlewares=[connections.middleware, errors_as_json], client_max_size=questions.MAX_BODY_BYTES)
    access.protect(app, settings, authenticator)
    app[UI] = ui
    app[state.DOCUMENTS] = Documents(ui)
    app.add_routes(
        [
            web.get("/api/session", state.session),
            web.get("/api/map", state.get_map),
            web.get("/api/flows", state.get_flows),
            web.get("/api/flows.csv", state.get_flows_csv),
            web.get("/api/policies", state.get_policies),
            web.get("/api/policies/yaml", questions.get_policy_yaml),
            web.get("/api/nodes", state.get_nodes),
            web.get("/api/stream/map", state.stream_map, allow_head=False),
            web.get("/api/stream/flows", state.stream_flows, allow_head=False),
            web.get("/api/stream/policies", state.stream_policies, allow_head=False),
            web.get("/api/stream/nodes", state.stream_nodes, allow_head=False),
            web.get("/api/ends", questions.get_ends),
            web.get("/api/explain", questions.get_explain),
            web.post("/api/what-if", questions.post_what_if),
            web.get(access.HEALTH_PATH, _answer_health),
            web.get("/{path:(?!api/).*}", _file_of(static)),
        ]
    )
    return app


async def _answer_health(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _file_of(static: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    root = static.resolve()

    async def answer(request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"] or "index.html"
        path = (root / name).resolve() if "\0" not in name else root
        if not path.is_relative_to(root) or not path.is_file():
            if name == "index.html":
                raise RequestError(503, _NOT_BUILT)
            raise web.HTTPNotFound
        is_hashed = path.parent != root
        return web.FileResponse(path, headers={"Cache-Control": _IMMUTABLE if is_hashed else "no-cache"})

    return answer


@asynccontextmanager
async def serving(
    source: Source, settings: access.Access, connection: "Connection | None" = None, *, static: Path = STATIC
) -> AsyncIterator[str]:
    """Read a source and serve, in the body of the context. Yields the URL. Raises `BootError` if an address or a file cannot be used, and
    what `Source.open` raises.

    `connection`: to the API server that knows the users, closed; None unless the settings ask for it.
    """
    listen = settings.listen
    tls, authenticator = _tls_of(settings), access.authenticator_of(settings, connection)
    if connection is not None:
        await connection.open()
    agents = KnownAgents(time.time())
    objects = CachedObjects(source.objects)
    session: dict[str, object] = {
        "version": version("netpolq"),
        "source": source.name,
        "authentication": settings.authentication.value,
        "history_s": HISTORY_S,
    }
    ui = Ui(agents=agents, source=source, objects=objects, session=session)
    connections = Connections()
    app = application(ui, settings, authenticator, connections, static=static)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=server_log(),
        handle_signals=False,
        shutdown_timeout=_SHUTDOWN_S,
        keepalive_timeout=KEEPALIVE_S,
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the runner has made no server")
    listener = Listener(
        listen.host,
        listen.port,
        runner.server,
        tls,
        opened=connections.opened,
        refused=lambda _client, _reason: None,  # browsers that do not trust the certificate yet
    )
    try:
        try:
            await listener.open()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise BootError(f"--listen {listen}: {reason}; choose another address") from error
        port = listener.ports[0]
        await source.open()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in (source.run(agents), _tick(agents), listener.run())]
            yield f"{'http' if tls is None else 'https'}://{BindAddress(listen.host or 'localhost', port)}/"
            for task in tasks:
                task.cancel()
    finally:
        await objects.close()
        await listener.close()
        await runner.cleanup()
        if connection is not None:
            await connection.close()


def _tls_of(settings: access.Access) -> TlsContext | None:
    """The certificate of the page; None without TLS. Raises `BootError`."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    try:
        return server_context(
            TlsFile(flag="--tls-certificate", path=certificate), TlsFile(flag="--tls-key", path=key), client_ca=None
        )
    except TlsFileError as error:
        raise BootError(str(error)) from error


async def _tick(agents: KnownAgents) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        agents.tick(time.time())
