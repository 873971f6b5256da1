"""HTTP connection to the API server, with the address and credentials of the configuration.

The kubernetes package does configuration, authentication and TLS only. Bodies stay bytes, because its typed models cost many times the
work and memory of the few fields that the agent uses.
"""

import asyncio
import contextlib
import socket
import ssl

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import orjson
import yarl

from kubernetes.aio import client, config

from netpolq.errors import BootError
from netpolq.sources.kubernetes import kubeconfig
from netpolq.sources.kubernetes.watch import StatusError

_MAX_ERROR_BYTES = 65536
_SUCCESS = (200, 201)
"""Source: the API reference: 200, and 201 for an object that was created."""

_CONNECT_TIMEOUT_S = 10.0
_READ_BUFFER_BYTES = 2**21
"""As the package sets it: an event of a watch may be larger than what aiohttp keeps otherwise."""

_MAX_MESSAGE_BYTES = 2**22
"""Of a WebSocket. Servers send pieces of 32 KiB."""

_CLOSE_S = 1.0

_USER_AGENT = "netpolq"

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 3
"""A connection that is silent for 10 s is probed by the kernel, and cut after three probes without an answer: 25 s, within the 30 s in
which a silently cut connection must be noticed. The server's own bookmarks come a minute apart."""

_UNACKNOWLEDGED_MS = 1000 * (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES)
"""The same for a request under way, which keepalive does not probe."""

_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS),
)
"""Source: tcp(7)."""


def _make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a dead connection."""
    family, kind, protocol, _name, _address = address
    made = socket.socket(family, kind, protocol)
    for level, option, value in _SOCKET_OPTIONS:
        made.setsockopt(level, option, value)
    return made


@dataclass(slots=True)
class _Lease:
    """A client and its number of running requests. `retired`: takes no new requests; the last one closes the client."""

    client: client.ApiClient
    requests: int = 0
    retired: bool = False

    async def close_if_done(self) -> None:
        if self.retired and not self.requests:
            await self.client.close()


class Connection:
    """Requests to one API server.

    `kubeconfig_paths`: one path, several separated by colons, or empty for the service account of the pod. `context`: of the kubeconfig;
    empty for the current one. `max_connections`: at once; None for the default of the kubernetes package. `advice`: what to do if the
    configuration is unusable.
    """

    def __init__(
        self,
        kubeconfig_paths: str,
        *,
        context: str = "",
        max_connections: int | None = None,
        advice: str = "give --kubeconfig FILE, KUBECONFIG or --manifests DIR",
    ) -> None:
        self._kubeconfig = kubeconfig_paths
        self._context = context
        self._max_connections = max_connections
        self._advice = advice
        self._lease: _Lease | None = None
        self._renewal = asyncio.Lock()
        self._generation = 0
        self._reached = 0
        self._is_reached = asyncio.Event()

    async def open(self) -> None:
        """Read the configuration. Raises `BootError` with the reason if it is unusable."""
        try:
            self._lease = _Lease(await self._make_client())
        except Exception as error:  # its parsers and plugins raise any type
            origin = f"--kubeconfig {self._kubeconfig}" if self._kubeconfig else "the service account of this pod"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BootError(f"{origin} cannot be used: {reason}; {self._advice}") from error

    async def _make_client(self) -> client.ApiClient:
        configuration = client.Configuration()
        if self._kubeconfig:
            kubeconfig.check(self._kubeconfig, self._context)
            await config.load_kube_config(
                config_file=self._kubeconfig,
                context=self._context or None,
                client_configuration=configuration,
                persist_config=False,
            )
        else:
            config.load_incluster_config(client_configuration=configuration)
        files = configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file
        kubeconfig.check_certificates(files)
        try:
            made = client.ApiClient(configuration)
        except ssl.SSLError as error:
            raise kubeconfig.KubeconfigError(kubeconfig.described(error, files)) from error
        rest = made.rest_client
        if rest.pool_manager is not None:
            raise RuntimeError("the package has made its connections before they could be configured")
        # The connector belongs to the session below, which the package closes.
        limit = rest.maxsize if self._max_connections is None else self._max_connections
        connector = aiohttp.TCPConnector(limit=limit, ssl=rest.ssl_context, socket_factory=_make_socket)
        rest.pool_manager = aiohttp.ClientSession(connector=connector, trust_env=True, read_bufsize=_READ_BUFFER_BYTES)
        made.user_agent = _USER_AGENT
        return made

    @property
    def address(self) -> str:
        """The server's URL."""
        return str(self._current.client.configuration.host)

    @property
    def _current(self) -> _Lease:
        if self._lease is None:
            raise RuntimeError("the connection is not open")
        return self._lease

    @property
    def generation(self) -> int:
        """The number of renewals. Pass the value from before a request to `renew`."""
        return self._generation

    async def renew(self, generation: int) -> None:
        """Read the configuration again, after refused credentials. Does nothing if another reflector has already renewed.

        Running requests end with the old credentials.
        """
        async with self._renewal:
            if generation != self._generation:
                return
            made = await self._make_client()
            old, self._lease = self._current, _Lease(made)
            self._generation += 1
            old.retired = True
            await old.close_if_done()

    @property
    def reached(self) -> int:
        """How often the server was reached after a failure. Pass the value from before an attempt to `wait_until_reached`."""
        return self._reached

    def note_reached(self) -> None:
        """Wake the reflectors that wait: the server answers again after a failure."""
        self._reached += 1
        self._is_reached.set()
        self._is_reached = asyncio.Event()

    async def wait_until_reached(self, reached: int, max_s: float) -> None:
        """Wait until `reached` has changed, at most `max_s` seconds."""
        if self._reached == reached:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max_s):
                    await self._is_reached.wait()

    async def close(self) -> None:
        """Close all connections as soon as no request is running."""
        if self._lease is not None:
            self._lease.retired = True
            await self._lease.close_if_done()

    async def get(self, path: str, query: Mapping[str, str], *, timeout_s: float) -> bytes:
        """A whole body. Raises `StatusError`, and `OSError`, `aiohttp.ClientError` or `TimeoutError` where there is no answer."""
        async with self.stream(path, query, total_s=timeout_s, idle_s=timeout_s) as content:
            return await content.read()

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object],
        *,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Send an object (POST, PUT or PATCH). Returns the answer's body. `content_type`: any of JSON, and of a server-side apply.

        Errors as for `get`.
        """
        exchange = self._exchange(
            method, path, query or {}, total_s=timeout_s, idle_s=timeout_s, body=body, content_type=content_type
        )
        async with exchange as content:
            return await content.read()

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], *, total_s: float, idle_s: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A body as it arrives. `total_s`: for all of it; `idle_s`: without any byte. Errors as for `get`."""
        async with self._exchange("GET", path, query, total_s=total_s, idle_s=idle_s) as content:
            yield content

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str, query: Sequence[tuple[str, str]], *, protocols: Sequence[str], timeout_s: float
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket. `query`: a name may occur several times. `timeout_s`: until it is open. Errors as for `get`."""
        lease = self._current
        lease.requests += 1
        try:
            _method, url, headers, _body, _post = await lease.client.param_serialize(
                "GET", path, query_params=list(query), header_params={}, auth_settings=["BearerToken"]
            )
            opened = await self._connected(lease, url, headers, protocols, timeout_s)
            try:
                yield opened
            finally:
                await opened.close()
        except aiohttp.WSServerHandshakeError as error:
            raise await self._refusal(path, query, error.status, timeout_s) from error
        finally:
            lease.requests -= 1
            await lease.close_if_done()

    @staticmethod
    async def _connected(
        lease: _Lease, url: str, headers: Mapping[str, str], protocols: Sequence[str], timeout_s: float
    ) -> aiohttp.ClientWebSocketResponse:
        session = lease.client.rest_client.pool_manager
        if session is None:
            raise RuntimeError("the client has no session")
        async with asyncio.timeout(timeout_s):
            return await session.ws_connect(
                yarl.URL(url, encoded=True),
                headers=headers,
                protocols=protocols,
                max_msg_size=_MAX_MESSAGE_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            )

    async def _refusal(self, path: str, query: Sequence[tuple[str, str]], status: int, timeout_s: float) -> StatusError:
        """Why a WebSocket was refused, whose response was closed unread: the same request without an upgrade is refused for the same."""
        try:
            async with self._exchange("GET", path, query, total_s=timeout_s, idle_s=timeout_s):
                return StatusError(status, "the server does not open a WebSocket")
        except StatusError as error:
            return error

    @contextlib.asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | Sequence[tuple[str, str]],
        *,
        total_s: float,
        idle_s: float,
        body: Mapping[str, object] | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.StreamReader]:
        lease = self._current
        lease.requests += 1
        try:
            _method, url, headers, _body, _post = await lease.client.param_serialize(
                method,
                path,
                query_params=list(query.items() if isinstance(query, Mapping) else query),
                header_params={"Accept": "application/json", **({} if body is None else {"Content-Type": content_type})},
                auth_settings=["BearerToken"],
            )
            timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_TIMEOUT_S, sock_read=idle_s)
            answer = await lease.client.rest_client.request(method, url, headers=headers, body=body, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            try:
                if response.status not in _SUCCESS:
                    raise _status_error(response, await response.content.read(_MAX_ERROR_BYTES))
                yield response.content
            finally:
                response.close()
        finally:
            lease.requests -= 1
            await lease.close_if_done()


def _status_error(response: aiohttp.ClientResponse, body: bytes) -> StatusError:
    message = response.reason or ""
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        message = str(orjson.loads(body).get("message", message))
    retry_after = response.headers.get("Retry-After", "")
    return StatusError(response.status, message[:200], float(retry_after) if retry_after.isdigit() else None)


def is_about_certificates(error: BaseException) -> bool:
    """Whether TLS failed: the agent rejected the server's certificate, or the server rejected the agent's (an alert)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError)):
            return True
        cause = cause.__cause__
    return False
