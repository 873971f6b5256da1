"""Streams of events to a client that reads slowly, and to one that leaves."""

import asyncio

from collections.abc import AsyncIterator
from typing import cast

import pytest

from aiohttp import web

from netpolq.ui.api import stream as stream_module
from netpolq.ui.api.documents import Document
from netpolq.ui.api.parts import Ui
from netpolq.ui.api.stream import stream
from tests.support.polling import until

SIZE = 1 << 20
_LIMIT_BYTES = 1 << 16


class Streams:
    """A server with one stream, of a document of a megabyte that differs each time."""

    def __init__(self) -> None:
        self.made = 0
        self.ui = cast("Ui", self)
        self.streams = 0
        self.transport: asyncio.Transport | None = None
        self.port = 0

    def make(self) -> Document:
        self.made += 1
        return Document({"at": 0}, {"items": [{"id": "a", "number": self.made, "text": "x" * SIZE}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.transport = request.transport
        return await stream(request, self.ui, lambda: self.made, self.make)

    @property
    def is_waiting_for_the_client(self) -> bool:
        return self.transport is not None and self.transport.get_write_buffer_size() > _LIMIT_BYTES


@pytest.fixture
async def streams(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Streams]:
    monkeypatch.setattr(stream_module, "MIN_PERIOD_S", 0.0)
    monkeypatch.setattr(stream_module, "COST_PAUSES", 0)
    streams = Streams()
    application = web.Application()
    application.router.add_get("/", streams.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    streams.port = runner.addresses[0][1]
    yield streams
    await runner.cleanup()


async def connected(streams: Streams) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", streams.port, limit=_LIMIT_BYTES)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return reader, writer


async def test_nothing_is_computed_for_a_client_that_does_not_read(streams: Streams) -> None:
    reader, writer = await connected(streams)
    await until(lambda: streams.is_waiting_for_the_client)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert streams.is_waiting_for_the_client
    made = streams.made
    for _ in range(1000):
        await asyncio.sleep(0)
    assert streams.made == made
    await reader.readexactly((made + 2) * SIZE)
    assert streams.made > made, "it goes on when the client reads"
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_does_not_read_at_all_is_closed(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_WRITE_S", 0.05)
    _reader, writer = await connected(streams)
    await until(lambda: streams.made)
    assert streams.streams == 1
    await until(lambda: streams.streams == 0)
    assert streams.transport is not None
    assert streams.transport.is_closing()
    writer.transport.abort()


async def test_a_client_that_leaves_makes_room(streams: Streams) -> None:
    _reader, writer = await connected(streams)
    await until(lambda: streams.made)
    writer.transport.abort()
    await until(lambda: streams.streams == 0)
