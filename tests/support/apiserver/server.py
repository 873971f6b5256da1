"""An API server for tests: lists and watches as the real one serves them, over real sockets, with faults to inject.

It uses aiohttp, because no existing server fits. kmock 0.8 comes nearest. It serves scripted answers to operators: its lists have neither
versions nor pages, its watches know no resourceVersion, bookmark or 410, and it has neither TLS nor broken connections. A reflector needs
all of these.
"""

import asyncio
import errno
import re
import socket

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from aiohttp import web

from tests.support.apiserver import status
from tests.support.apiserver.containers import Containers
from tests.support.apiserver.credentials import USER, Authority, ClientCertificate, Kubeconfig
from tests.support.apiserver.custom import NOT_FOUND, CustomResources
from tests.support.apiserver.events import Events
from tests.support.apiserver.faults import Answer, CloseAbruptly, EndStream, Fault, FaultPlan, NeverAnswer, WatchFault
from tests.support.apiserver.listing import list_page
from tests.support.apiserver.options import WatchListSupport, is_watch, list_options, watch_options
from tests.support.apiserver.resources import BY_PATH, DISCOVERY, GROUP, NETWORK_POLICIES, Body, Resource, Verb, key_of
from tests.support.apiserver.reviews import Reviews
from tests.support.apiserver.services import PATH as SERVICES_PATH
from tests.support.apiserver.services import Services
from tests.support.apiserver.status import ApiError
from tests.support.apiserver.store import Checkpoint, Store
from tests.support.apiserver.watching import WatchStream
from tests.support.apiserver.wire import ConnectionCutError, Wire, accepts_gzip, cut
from tests.support.apiserver.writes import Writes

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
_GZIP_FROM_BYTES = 128 * 1024  # defaultGzipThresholdBytes of the real server
_LIMIT_S = 30.0
_STEP_S = 0.003
_NODES = "/api/v1/nodes/"
_POLICY = re.compile(r"/apis/networking\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/networkpolicies/(?P<name>[^/]+)")


class Request(NamedTuple):
    """A received request. `user`: empty for an unauthenticated one."""

    method: str
    path: str
    resource: Resource | None
    verb: Verb | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    user: str


class ApiServer:
    """A server on its own port, as an async context manager. `url` is known before; connections are accepted inside.

    Without `token` and `client_certificates` the server answers every client. `listener`: a bound TCP socket, for example of another
    network namespace; it is closed with the server. `compacted_watch_is_http`: a watch from a forgotten version is refused
    with status 410; otherwise, as recent servers do, with an ERROR event.

    Call its methods in the thread of its event loop; other threads use `ThreadedApiServer`.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        token: str | None = None,
        client_certificates: bool = False,
        listener: socket.socket | None = None,
        watch_list: WatchListSupport = WatchListSupport.FULL,
        compacted_watch_is_http: bool = False,
        bookmark_interval_s: float = 60.0,
        watch_timeout_s: float = 1800.0,
        gzip_from_bytes: int = _GZIP_FROM_BYTES,
    ) -> None:
        self.store = Store()
        self.writes = Writes(self.store)
        self.events = Events(self.store)
        self.services = Services()
        self.containers = Containers()
        self.reviews = Reviews()
        self._custom = CustomResources()
        self.requests: list[Request] = []
        self.watch_list = watch_list
        self.compacted_watch_is_http = compacted_watch_is_http
        self.bookmark_interval_s = bookmark_interval_s
        self.watch_timeout_s = watch_timeout_s
        self.authority = Authority() if tls else None
        self._gzip_from_bytes = gzip_from_bytes
        self._tokens = {token} if token is not None else set()
        self._anonymous = token is None and not client_certificates
        self._forbidden: set[Resource] = set()
        self.nodes: set[str] | None = None
        """The names of Nodes; None: a Node of every name exists."""
        self.node_specs: dict[str, object] = {}
        """The `spec` of Nodes by name; without an entry it is empty."""
        self.nodes_forbidden = False
        """Whether a Node is refused with 403, as without a rule for nodes in the role."""
        self._plan = FaultPlan()
        self._streams: set[WatchStream] = set()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        host, port = self._listener.getsockname()[:2]
        self.host, self.port = str(host), int(port)
        self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in self.host else host}:{port}"
        self._context = (
            self.authority.server_context(self.host, "localhost", "kubernetes.default.svc") if self.authority else None
        )
        self._site: web.SockSite | None = None
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await self.accept_connections()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut_connections()
        await self._runner.cleanup()
        self._listener.close()

    # Objects

    def put(self, body: Body) -> int:
        """Create or replace an object. Returns its version."""
        version = self.store.put(body)
        self._wake()
        return version

    def delete(self, resource: Resource, namespace: str, name: str) -> int:
        """Remove an object. Raises `KeyError` if there is none."""
        version = self.store.delete(resource, namespace, name)
        self._wake()
        return version

    def load(self, bodies: Iterable[Body]) -> None:
        """Put many objects before the first request, without a history of events."""
        self.store.load(bodies)

    def objects(self, resource: Resource) -> dict[str, Body]:
        """The present objects by `namespace/name`."""
        return self.store.objects(resource)

    def advance(self, count: int = 1) -> None:
        """Raise the version, as writes to kinds that are not served here do."""
        self.store.advance(count)
        self._wake()

    def serve(self, resource: Resource, *versions: str) -> None:
        """Serve a kind that has a CRD in these versions, such as "v1alpha2". Its objects stay, and its watches end, as after each
        change of a CRD.
        """
        self._custom.serve(resource, *versions)
        self.strike(EndStream(resource=resource))

    def delete_crd(self, resource: Resource) -> None:
        """Delete a kind that has a CRD, with its objects. Its watches end without the deletions, as after a short loss of contact."""
        self._custom.serve(resource)
        self.store.drop(resource)
        self.strike(EndStream(resource=resource))

    # Authentication

    def rotate_token(self, token: str) -> None:
        """Accept only this token from now on."""
        self._tokens = {token}

    def forbid(self, *resources: Resource) -> None:
        """Refuse these, and only these, with 403."""
        self._forbidden = set(resources)

    def kubeconfig(
        self,
        path: Path,
        *,
        token: str | None = None,
        token_file: Path | None = None,
        client_certificate: ClientCertificate | None = None,
        exec_plugin: Sequence[str] = (),
    ) -> Path:
        """Write a kubeconfig for this server. Returns its path."""
        authority = self.authority.certificate if self.authority else None
        return Kubeconfig(self.url, authority, token, token_file, client_certificate, exec_plugin).write(path)

    # Requests

    def asked(self, resource: Resource | None = None, verb: Verb | None = None) -> list[Request]:
        """The requests that have arrived for a kind (or all), of a verb (or both), oldest first."""
        return [
            request
            for request in self.requests
            if (resource is None or request.resource == resource) and (verb is None or request.verb is verb)
        ]

    def open_watches(self, resource: Resource | None = None) -> int:
        """The number of open watches of a kind or of all."""
        return sum(resource is None or stream.resource == resource for stream in self._streams)

    async def until(self, condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> None:
        """Wait until a condition is true. Raises `TimeoutError`."""
        async with asyncio.timeout(limit_s):
            while not condition():  # noqa: ASYNC110 - the condition is arbitrary, so no event could signal it
                await asyncio.sleep(_STEP_S)

    # Faults

    def inject(self, fault: Fault) -> None:
        """Inject a fault into future requests."""
        self._plan.add(fault)

    def clear(self) -> None:
        """Remove the faults of future requests. Active faults stay."""
        self._plan.clear()

    @property
    def faults(self) -> list[Fault]:
        """The faults that still wait for requests."""
        return self._plan.waiting

    def strike(self, fault: WatchFault) -> int:
        """Inject a fault into the open watches. Returns their number."""
        struck = [stream for stream in self._streams if fault.affects(stream.resource, Verb.WATCH)]
        for stream in struck:
            stream.strike(fault)
        return len(struck)

    def cut_connections(self) -> None:
        """Cut all open connections."""
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()

    async def refuse_connections(self) -> None:
        """Refuse new connections; open ones stay."""
        await self.leave_connections_waiting()
        # On Linux a socket that has been shut down can listen again. It keeps a port that was bound by number, and the second bind fails;
        # a port that the kernel chose is released, and must be bound again.
        address = self._listener.getsockname()
        self._listener.shutdown(socket.SHUT_RDWR)
        try:
            self._listener.bind(address)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    async def leave_connections_waiting(self) -> None:
        """Stop accepting: the kernel establishes new connections, and they wait."""
        if self._site:
            await self._site.stop()
            self._site = None

    async def accept_connections(self) -> None:
        """Accept new connections again."""
        if self._site is None:
            # A duplicate, because the site closes its socket.
            self._site = web.SockSite(self._runner, self._listener.dup(), ssl_context=self._context)
            await self._site.start()

    async def restart(self, *, compact: bool = True, down_s: float = 0.0) -> None:
        """Restart on the same port: cut all connections and, if compacted, forget all history."""
        await self.refuse_connections()
        self.cut_connections()
        if compact:
            self.compact()
        await asyncio.sleep(down_s)
        await self.accept_connections()

    async def rotate_authority(self) -> None:
        """Restart with a certificate of another authority, with all connections cut."""
        await self.refuse_connections()
        self.cut_connections()
        self.authority = Authority()
        self._context = self.authority.server_context(self.host, "localhost", "kubernetes.default.svc")
        await self.accept_connections()

    def compact(self) -> None:
        """Forget history: watches from before and the remaining pages of lists are answered with 410."""
        self.store.compact()

    async def restore(self, checkpoint: Checkpoint, *, down_s: float = 0.0) -> None:
        """Restart with the state of an earlier `store.checkpoint()`, versions included."""
        await self.refuse_connections()
        self.cut_connections()
        self.store.restore(checkpoint)
        await asyncio.sleep(down_s)
        await self.accept_connections()

    def _wake(self) -> None:
        for stream in self._streams:
            stream.wake()

    # Answers

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s is not None else {}
            return web.Response(status=error.code, body=error.body, content_type="application/json", headers=headers)
        except ConnectionCutError:
            cut(request)
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        resource = BY_PATH.get(request.path) or self._custom.find(request.path)
        is_collection = resource is not None and resource != DISCOVERY
        verb = (Verb.WATCH if is_watch(request.query) else Verb.LIST) if is_collection else None
        user = self._user(request)
        self.requests.append(
            Request(request.method, request.path, resource, verb, dict(request.query), dict(request.headers), user or "")
        )
        faults = self._plan.take(resource, verb)
        for fault in faults:
            match fault:
                case CloseAbruptly():
                    raise ConnectionCutError
                case NeverAnswer():
                    await asyncio.Future[None]()
                case Answer(code=code, reason="", message=message, retry_after_s=retry_after_s):
                    headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
                    return web.Response(status=code, text=f"{message}\n", headers=headers)
                case Answer(code=code, reason=reason, message=message, retry_after_s=retry_after_s):
                    raise ApiError(code, reason, message, retry_after_s=retry_after_s)
        if user is None:
            raise status.unauthorized()
        if (written := await self.writes.answer(request)) is not None:
            return written
        if (event := await self.events.answer(request, user)) is not None:
            return event
        if (reviewed := await self.reviews.answer(request, user)) is not None:
            return reviewed
        if request.path == SERVICES_PATH:
            return await self.services.answer(request)
        if (answered := await self.containers.answer(request, user)) is not None:
            return answered
        if request.path.startswith(_NODES):
            return self._node(user, request.path.removeprefix(_NODES))
        if resource == DISCOVERY:
            return self._custom.answer(request.path)
        if request.path.startswith(f"/apis/{GROUP}/") and resource is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text=NOT_FOUND)
        if (policy := _POLICY.fullmatch(request.path)) is not None:
            return self._policy(policy["namespace"], policy["name"])
        if resource is None or verb is None:
            return _server_information(request.path)
        if request.method != "GET":
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", "this server only lists and watches")
        if resource in self._forbidden:
            raise status.forbidden(user, verb, resource)
        if verb is Verb.WATCH:
            return await self._watch(request, resource, faults)
        return await self._list(request, resource, faults)

    def _user(self, request: web.Request) -> str | None:
        """The user of a request, or None if unknown. A wrong token is refused even if anonymous requests are allowed."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            # The scheme is read in any case (RFC 9110 section 11.1), as the real server reads it.
            return USER if scheme.lower() == "bearer" and token in self._tokens else None
        certificate = request.get_extra_info("peercert") if self._context else None
        if certificate:
            names = {key: value for ((key, value),) in certificate["subject"]}
            return str(names["commonName"])
        return "system:anonymous" if self._anonymous else None

    def _node(self, user: str, name: str) -> web.Response:
        if self.nodes_forbidden:
            message = (
                f'nodes "{name}" is forbidden: User "{user}" cannot get resource "nodes" in API group "" at the cluster scope'
            )
            raise ApiError(HTTPStatus.FORBIDDEN, "Forbidden", message)
        if self.nodes is not None and name not in self.nodes:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'nodes "{name}" not found')
        spec = {"spec": self.node_specs[name]} if name in self.node_specs else {}
        return web.json_response({"kind": "Node", "apiVersion": "v1", "metadata": {"name": name}, **spec})

    def _policy(self, namespace: str, name: str) -> web.Response:
        found = self.store.objects(NETWORK_POLICIES).get(key_of(NETWORK_POLICIES, namespace, name))
        if found is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'networkpolicies.networking.k8s.io "{name}" not found')
        return web.json_response({"kind": "NetworkPolicy", "apiVersion": NETWORK_POLICIES.api_version, **found})

    async def _list(self, request: web.Request, resource: Resource, faults: Sequence[Fault]) -> web.StreamResponse:
        page = list_page(self.store, resource, list_options(request.query))
        wire = Wire(request, faults, compress=accepts_gzip(request) and page.size_bytes >= self._gzip_from_bytes)
        await wire.open()
        for piece in page.pieces():
            await wire.write(piece)
        await wire.close()
        return wire.response

    async def _watch(self, request: web.Request, resource: Resource, faults: Sequence[Fault]) -> web.StreamResponse:
        options = watch_options(request.query, self.watch_list)
        version = options.resource_version or 0
        if options.initial_events and version > self.store.resource_version:
            raise status.too_large(version, self.store.resource_version)
        if self.compacted_watch_is_http and not options.initial_events and 0 < version < self.store.compacted_at:
            raise status.too_old(version, self.store.compacted_at)
        wire = Wire(request, faults)
        interval_s, timeout_s = self.bookmark_interval_s, self.watch_timeout_s
        stream = WatchStream(self.store, resource, options, wire, bookmark_interval_s=interval_s, timeout_s=timeout_s)
        for fault in faults:
            if isinstance(fault, WatchFault):
                stream.strike(fault)
        await wire.open()
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
        return wire.response


def _server_information(path: str) -> web.Response:
    match path:
        case "/version":
            return web.json_response(VERSION)
        case "/readyz" | "/livez" | "/healthz":
            return web.Response(text="ok")
        case _:
            raise status.not_found()
