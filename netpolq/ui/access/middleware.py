"""The middleware of the application: `Host`, other web sites, the user, and the headers of every answer.

The page itself holds no secret, so its files are served without a token; whatever is registered below `/api/` needs one. A token is checked
again every minute while an answer lasts, so that a stream ends when a user loses the right to it.
"""

import asyncio
import time

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

from aiohttp import web

from netpolq.ui.access.browser import HEADERS, Hosts, problem_of_origin
from netpolq.ui.access.failure_limit import FailureLimit
from netpolq.ui.access.refusal import Refusal, unauthorized
from netpolq.ui.access.settings import Access

USER = web.RequestKey("user", str)
"""The name of the user of a request; missing where none is known."""

_BEGUN = web.RequestKey("begun", bool)

HEALTH_PATH = "/healthz"
"""The kubelet asks it by the address of the pod, without a token. It tells nothing but that the process answers."""

_API = "/api/"
_CHECK_AGAIN_S = 60.0
_MAX_TOKEN = 16384

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Authenticator(Protocol):
    """Knows users by tokens."""

    async def user(self, token: str) -> str | None:
        """The user's name, or None if it has none. Raises `Refusal`."""

    def is_known(self, token: str) -> bool:
        """Whether the token is known to be good without any work."""


def protect(application: web.Application, access: Access, authenticator: Authenticator | None) -> None:
    """Add the checks to an application, before its other middlewares. `authenticator`: None for --authentication none."""
    hosts = Hosts(access.listen.host, access.allowed_hosts)
    users = None if authenticator is None else _Users(authenticator)

    @web.middleware
    async def checked(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path == HEALTH_PATH:
                return await handler(request)
            if problem := hosts.problem(request):
                raise Refusal(HTTPStatus.FORBIDDEN, problem)
            if not is_api(request):
                return await handler(request)
            if problem := problem_of_origin(request):
                raise Refusal(HTTPStatus.FORBIDDEN, problem)
            if users is None:
                return await handler(request)
            return await users.answer(request, handler)
        except Refusal as refusal:
            return refusal.response()

    application.middlewares.insert(0, checked)
    application.on_response_prepare.append(add_headers)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every answer. `Cache-Control` of a handler stays."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    request[_BEGUN] = True


def is_api(request: web.Request) -> bool:
    """Whether the answer is one of the API. The route decides, not the text of the path, which may be written in many ways."""
    resource = request.match_info.route.resource
    return resource is not None and f"{resource.canonical}/".startswith(_API)


class _Users:
    """Checks the token of each request."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._limit = FailureLimit()

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The answer to a request with a good token. Raises `Refusal`."""
        if (user := await self._check(request)) is not None:
            request[USER] = user
        answering = asyncio.ensure_future(handler(request))
        try:
            while not (await asyncio.wait({answering}, timeout=_CHECK_AGAIN_S))[0]:
                await self._check(request)
            return answering.result()
        except Refusal:
            if request.transport is not None and request.get(_BEGUN, False):
                request.transport.abort()  # in the middle of an answer nothing else can be said
            raise
        finally:
            if not answering.done():
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)

    async def _check(self, request: web.Request) -> str | None:
        token, client = _token(request), request.remote or ""
        now_s = time.monotonic()
        if not self._authenticator.is_known(token) and (wait_s := self._limit.wait_s(client, now_s)):
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, f"too many wrong tokens; try again in {wait_s} s", retry_after_s=wait_s)
        try:
            return await self._authenticator.user(token)
        except Refusal as refusal:
            if refusal.status is HTTPStatus.UNAUTHORIZED:
                self._limit.note(client, now_s)
            raise


def _token(request: web.Request) -> str:
    """The token of a request. Raises `Refusal` if it has none."""
    given = request.headers.getall("Authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("this page needs a token; log in, or send the header Authorization: Bearer TOKEN")
    if len(token) > _MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise unauthorized("the token is none; it has printable ASCII characters without spaces")
    return token
