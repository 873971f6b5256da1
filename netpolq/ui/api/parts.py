"""What handlers share: the parts of the process, and answers as JSON."""

import asyncio
import time

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import orjson

from aiohttp import web

from netpolq.ui.agents.source import Source
from netpolq.ui.api.errors import RequestError
from netpolq.ui.objects import CachedObjects
from netpolq.ui.state.known_agents import KnownAgents

MAX_COMPUTED = 2
"""Questions that are computed at once, each in a thread."""

MAX_WAITING = 16
"""Questions that wait for it."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Ui:
    """The parts. `session`: what `GET /api/session` answers, apart from the user."""

    agents: KnownAgents
    source: Source
    objects: CachedObjects
    session: dict[str, object]
    streams: int = 0
    _computing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_COMPUTED))
    _asked: int = 0

    async def compute(self, work: Callable[[], T]) -> T:
        """The result of some work, done in a thread. Raises `RequestError` if too much of it waits."""
        if self._asked >= MAX_COMPUTED + MAX_WAITING:
            raise RequestError(503, "too many questions are being answered; ask again in a moment")
        self._asked += 1
        try:
            async with self._computing:
                return await asyncio.to_thread(work)
        finally:
            self._asked -= 1


UI = web.AppKey("ui", Ui)


def parts(request: web.Request) -> Ui:
    """The parts, for a handler."""
    return request.app[UI]


def now_s() -> float:
    """Unix time."""
    return time.time()


def json_answer(document: object) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=orjson.dumps(document), content_type="application/json")


def query_of(request: web.Request, *allowed: str) -> dict[str, str]:
    """The parameters of a query, each given once. Raises `ValueError` for others."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in allowed:
            raise ValueError(f"parameter {name[:40]!r} does not exist; allowed: {', '.join(allowed)}")
        if name in found:
            raise ValueError(f"parameter {name}: is given more than once")
        if len(value) > MAX_VALUE:
            raise ValueError(f"parameter {name}: has more than {MAX_VALUE} characters")
        found[name] = value
    return found


MAX_VALUE = 600
"""Of a parameter: two names of objects, and a kind."""


def number_of(text: str, name: str, least: int, most: int) -> int:
    """A number in a query. Raises `ValueError`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise ValueError(f"parameter {name}: {text[:40]!r} is not allowed; allowed: {least} to {most}")
    return int(text)
