"""Streams of server-sent events: a document at first, then what changes.

The handler of a client computes the next change only after the one before was written, and a change has all that happened since. So a
client that reads slowly costs one document, however long it takes; one that does not read at all is closed.
"""

import asyncio
import logging
import time

from collections.abc import Callable, Hashable

import orjson

from aiohttp import web

from netpolq.ui.api.changes import changes
from netpolq.ui.api.documents import Document
from netpolq.ui.api.errors import RequestError
from netpolq.ui.api.parts import Ui

MAX_STREAMS = 64
MIN_PERIOD_S = 1.0
"""Between two changes."""

COST_PAUSES = 2
"""A client waits so many times longer than all clients take for their changes, so that these take at most half of a CPU."""

PING_S = 15.0
MAX_WRITE_S = 60.0
"""A client that does not take an event for so long is closed."""

log = logging.getLogger("ui")


async def stream(
    request: web.Request, ui: Ui, version: Callable[[], Hashable], make: Callable[[], Document]
) -> web.StreamResponse:
    """Answer with events until the client leaves. `version`: changes with what `make` would return."""
    if ui.streams >= MAX_STREAMS:
        raise RequestError(503, f"{MAX_STREAMS} pages are open, the most that are served; close one")
    ui.streams += 1
    try:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        try:
            await _send_all(response, ui, version, make)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # its end could not be written either
        except ConnectionResetError:
            pass  # the client is gone
        return response
    finally:
        ui.streams -= 1


async def _send_all(response: web.StreamResponse, ui: Ui, version: Callable[[], Hashable], make: Callable[[], Document]) -> None:
    seen, sent = version(), make()
    await _write(response, "state", sent.fields())
    loop = asyncio.get_running_loop()
    written_s = loop.time()
    cost_s = 0.0
    while True:
        await asyncio.sleep(max(MIN_PERIOD_S, COST_PAUSES * ui.streams * cost_s))
        present = version()
        change = None
        if present != seen:
            started_s = time.thread_time()
            seen, after = present, make()
            change, sent = changes(sent, after), after
            cost_s = time.thread_time() - started_s
        if change is not None:
            await _write(response, "change", change)
            written_s = loop.time()
        elif loop.time() - written_s >= PING_S:
            await _write(response, "ping", {})
            written_s = loop.time()


async def _write(response: web.StreamResponse, event: str, fields: object) -> None:
    async with asyncio.timeout(MAX_WRITE_S):
        await response.write(b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(fields)))
