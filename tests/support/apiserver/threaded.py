"""The test API server in its own thread, for tests that are not asynchronous."""

import asyncio
import threading

from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.apiserver.faults import Fault
from tests.support.apiserver.resources import Body, Resource
from tests.support.apiserver.server import ApiServer

_LIMIT_S = 60.0

Answer = TypeVar("Answer")


class ThreadedApiServer:
    """Runs a server inside the context. Use `do` or `run`, which work in the server's thread, to read or change its state.

    `server.url`, `server.authority` and `server.kubeconfig` never change and may be used from everywhere.
    """

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, name="api-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result(_LIMIT_S)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_LIMIT_S)

    @property
    def url(self) -> str:
        return self.server.url

    def do(self, action: Callable[[ApiServer], Answer]) -> Answer:
        """Call a function with the server, in its thread. Raises the function's exceptions."""

        async def call() -> Answer:
            return action(self.server)

        return self.run(lambda _server: call())

    def run(self, action: Callable[[ApiServer], Coroutine[None, None, Answer]]) -> Answer:
        """Await a coroutine function of the server, in its loop. Raises its exceptions."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(action(self.server), self._loop).result(_LIMIT_S)

    def put(self, body: Body) -> int:
        return self.do(lambda server: server.put(body))

    def delete(self, resource: Resource, namespace: str, name: str) -> int:
        return self.do(lambda server: server.delete(resource, namespace, name))

    def objects(self, resource: Resource) -> dict[str, Body]:
        return self.do(lambda server: server.objects(resource))

    def inject(self, fault: Fault) -> None:
        self.do(lambda server: server.inject(fault))

    def until(self, condition: Callable[[ApiServer], bool]) -> None:
        """Wait until a condition of the server is true. Raises `TimeoutError`."""
        self.run(lambda server: server.until(lambda: condition(server)))

    def kubeconfig(self, path: Path, *, token: str | None = None) -> Path:
        return self.server.kubeconfig(path, token=token)

    def _serve(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self.server:
                self._started.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise
