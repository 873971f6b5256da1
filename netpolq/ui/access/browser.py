"""What other web sites may not do through the browser of a user: read answers, show the page in a frame, or send requests.

A browser sends requests of any site to a loopback address too, so these checks hold with and without authentication. `Host` must be a
name of this server: a site whose own name suddenly has the address of this server (DNS rebinding) sends its own name. Fetch metadata and
`Origin` tell that another site has sent a request; other programs than browsers send neither.
"""

import ipaddress

from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "netpolq",  # without the versions of aiohttp and Python
}
"""On every answer."""

REQUESTED_WITH = ("X-Requested-With", "netpolq")
"""A header that a form of another site cannot send. Requests other than GET and HEAD need it."""

_OWN_SITE = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site. none: the user has typed the address."""


class Hosts:
    """The names that `Host` may have. `listen`: the host that the server listens on, empty for all addresses; `allowed`: more names.

    Where the server listens on all addresses, any IP address may be in `Host`: a site has a name of its own.
    """

    def __init__(self, listen: str, allowed: tuple[str, ...]) -> None:
        self._names = frozenset(map(_normalized, ("localhost", listen, *allowed)))
        self._addresses = not listen or _is_unspecified(listen)

    def problem(self, request: web.Request) -> str:
        """Why the `Host` of a request is not allowed, or empty."""
        given = request.headers.getall("Host", [])
        host = _host_of(given[0]) if len(given) == 1 else ""
        if host and (_normalized(host) in self._names or (_is_loopback(host)) or (self._addresses and _is_address(host))):
            return ""
        return f"the host {host[:100]!r} is not a name of this server; open another address, or name it with --allowed-host"


def problem_of_origin(request: web.Request) -> str:
    """Why a request to the API comes from another web site, or empty."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in _OWN_SITE:
        return "the request comes from another web site; open the page of this server and use it there"
    origin = request.headers.get("Origin")
    if site is None and origin is not None and _netloc_of(origin) != request.headers.get("Host", "").lower():
        return "the request comes from another web site; open the page of this server and use it there"
    if request.method not in {"GET", "HEAD"}:
        name, value = REQUESTED_WITH
        if request.headers.get(name) != value:
            return f"the request needs the header {name}: {value}"
    return ""


def _netloc_of(origin: str) -> str:
    """Host and port of an `Origin`, in lower case; empty if there is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _host_of(header: str) -> str:
    """The host in a header `Host`, without the port and without brackets; empty for what is no host."""
    try:
        parts = urlsplit(f"//{header}")
        port = parts.port
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc or port == 0:
        return ""
    return parts.hostname or ""


def _normalized(name: str) -> str:
    return name.lower().rstrip(".").strip("[]")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _is_loopback(host: str) -> bool:
    """A loopback address in `Host` is harmless wherever the server listens: it is what `kubectl port-forward` gives."""
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
