"""Who may ask the server, and what browsers are told about its answers: the check of `Host`, and the headers of every answer."""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Middleware

from netpolq.ui.api.errors import error_answer

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the headers that every answer has. For `Application.on_response_prepare`."""
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.popall("Server", None)


def host_check(allowed: Collection[str]) -> Middleware:
    """Return the middleware that refuses requests with another `Host`: a page of another site whose name was made to resolve to this
    address (DNS rebinding). `allowed`: host names and addresses without a port, in lower case. The port is not checked: it is another one
    where a port is forwarded.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = host_name(request.headers.get("Host", ""))
        if name not in allowed:
            return error_answer(403, f"the host {name[:253]!r} is not allowed; open the page by {' or '.join(sorted(allowed))}")
        return await handler(request)

    return check


def host_name(host: str) -> str:
    """The name or address in a `Host` header, without port and brackets, in lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")
