"""Clients of the page that are many or silent: they are closed, and those with a request are not."""

import asyncio

from contextlib import AsyncExitStack, suppress

import aiohttp
import psutil
import pytest

from netpolq.ipc.agent_settings import BindAddress
from netpolq.ui import connections
from netpolq.ui.access import check
from netpolq.ui.agents.demonstration import Demonstration
from netpolq.ui.server import serving

LIMIT_S = 30.0
LISTEN = check(listen=BindAddress("127.0.0.1", 0))


async def opened(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))


async def ends(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        with suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_many_silent_connections_end_no_stream_and_keep_no_other_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Demonstration(history_s=60), LISTEN))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stream = await stack.enter_async_context(session.get(f"{url}api/stream/nodes"))
        assert await stream.content.readline() == b"event: state\n"
        before = psutil.Process().num_fds()
        clients = [await opened(url) for _ in range(60)]
        async with session.get(f"{url}api/session") as answer:
            assert answer.status == 200
        assert psutil.Process().num_fds() < before + len(clients) + 30
        assert await ends(clients[0][0]) == b""
        assert (await stream.content.readline()).startswith(b"data: ")
        assert not stream.content.at_eof()
        for _reader, writer in clients:
            writer.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"GET /api/session HTTP/1.1\r\nHost: localh", b"GET /api/session HTTP/1.1\r\nHost: attacker.example\r\n\r\n"],
    ids=["silent", "half a request", "a refused request"],
)
async def test_a_connection_without_a_request_that_is_let_in_ends(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_SILENT_S", 0.2)
    monkeypatch.setattr(connections, "KEEPALIVE_S", 10 * LIMIT_S)
    async with serving(Demonstration(history_s=60), LISTEN) as url:
        reader, writer = await opened(url)
        writer.write(data)
        assert b"200 OK" not in await ends(reader)
        writer.close()


async def test_a_connection_with_a_request_outlasts_the_time_for_silent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_SILENT_S", 0.2)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(Demonstration(history_s=60), LISTEN))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stream = await stack.enter_async_context(session.get(f"{url}api/stream/nodes"))
        reader, writer = await opened(url)  # closed after the time, so that the time is over
        await ends(reader)
        writer.close()
        assert await stream.content.readline() == b"event: state\n"
        assert not stream.content.at_eof()
