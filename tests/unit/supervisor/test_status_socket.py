"""The status socket during a takeover."""

import asyncio
import socket

from pathlib import Path

from netpolq.errors import NetpolqError
from netpolq.ipc.channel import Channel, Logging
from netpolq.ipc.run_dir import STATUS_SOCKET
from netpolq.supervisor.http import StatusSocket, in_thread
from netpolq.supervisor.log_level import LOGLEVEL_PATH, Verbosity
from netpolq.supervisor.status_client import request


async def answer_of(run_dir: Path) -> bytes:
    """The first answer of the socket."""
    while True:
        try:
            return await asyncio.to_thread(request, run_dir, "GET", "/status", "")
        except NetpolqError:
            await asyncio.sleep(0.01)


async def test_the_socket_is_created_again_when_the_other_agent_has_left(tmp_path: Path) -> None:
    """The supervisor of the other agent may have restarted, and replaced it."""
    channel, pool_end = Channel.pair()
    left = asyncio.Event()
    verbosity = Verbosity(0, channel, log_denied=True)
    status_socket = StatusSocket(
        tmp_path / STATUS_SOCKET,
        100,
        left,
        documents={"/status": lambda: b"{}", "/names": lambda: b"[]"},
        streams={},
        metrics=in_thread(lambda: b"up 1\n"),
        verbosity=verbosity,
    )
    await status_socket.open()
    (tmp_path / STATUS_SOCKET).unlink()
    with socket.socket(socket.AF_UNIX) as others, pool_end:
        others.bind(str(tmp_path / STATUS_SOCKET))
        task = asyncio.create_task(status_socket.look_after())
        left.set()
        async with asyncio.timeout(10):
            assert await answer_of(tmp_path) == b"{}"
        assert not left.is_set()
        assert await asyncio.to_thread(request, tmp_path, "GET", "/names") == b"[]"
        assert await asyncio.to_thread(request, tmp_path, "GET", "/metrics") == b"up 1\n"
        assert await asyncio.to_thread(request, tmp_path, "PUT", LOGLEVEL_PATH, "0") == b"0"
        assert Channel(pool_end).receive() == (Logging(0, True), None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await status_socket.cleanup()
    channel.close()
