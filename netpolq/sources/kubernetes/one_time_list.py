"""A one-time list of a cluster, for commands: each resource once, without a watch. The agent itself follows reflectors.

Resources are listed one after the other, in pages, so a change in between may be seen in part. Nodes are listed only if a policy selects
nodes, and cluster-wide policies only where their CRDs exist.
"""

import time

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from netpolq.errors import BootError, NetpolqError
from netpolq.model import ClusterNetworkPolicy, NodePeer, Object, Rejection
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.discovery import Served, read_served
from netpolq.sources.kubernetes.resources import NODES, RESOURCES, Resource, read_item
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError, read_list

_MAX_RESTARTS = 2
"""How often a list whose pages have expired begins again, then without pages."""


class Progress(NamedTuple):
    """How far a list is. `read`: objects so far. `remaining`: as the server estimates it, None if it does not tell."""

    plural: str
    read: int
    remaining: int | None


class Extra(NamedTuple):
    """A resource that the agent does not use. `take`: gets the body of each object, with `kind` and `apiVersion`. `is_optional`: it may
    be missing or forbidden.
    """

    kind: str
    api_version: str
    path: str
    take: Callable[[object], None]


@dataclass(slots=True, kw_only=True)
class Listed:
    """A listed cluster. `server`: URL without credentials. `began_s`: time at which the first list began. `skipped`: plural names of
    the extra resources that could not be listed, with the reason.
    """

    server: str
    began_s: float
    objects: list[Object] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


class _Listing:
    """Lists over one connection. `on_progress`: called after each page."""

    def __init__(self, connection: Connection, server: str, on_progress: Callable[[Progress], None]) -> None:
        self._connection = connection
        self._server = server
        self._on_progress = on_progress
        self._timing = Timing()

    async def served(self) -> Served:
        """Return the optional kinds that the server has. Raises `NetpolqError`."""
        try:
            return await read_served(self._connection, self._timing.request_s)
        except (StatusError, StreamError, aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NetpolqError(f"{self._server}: the API groups cannot be read: {_described(error)}") from error

    async def items(self, plural: str, group: str, path: str) -> list[object]:
        """Return the bodies of all objects of a resource. Raises `NetpolqError` that names verb and resource."""
        limit = {"limit": str(self._timing.page_objects)}
        try:
            for _ in range(_MAX_RESTARTS):
                try:
                    return await self._pages(plural, path, limit)
                except StatusError as error:
                    if not error.is_expired:
                        raise
                    limit = {}
            return await self._pages(plural, path, limit)
        except StatusError as error:
            if error.code in {401, 403}:
                raise NetpolqError(
                    f'{self._server} refuses the list of {plural}: {error}; the user needs the verb list of {plural} in API group "{group}"'
                ) from error
            raise NetpolqError(f"{self._server}: the list of {plural} fails: {error}") from error
        except StreamError as error:
            raise NetpolqError(f"{self._server}: the list of {plural} cannot be read: {error}") from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NetpolqError(f"{self._server} cannot be reached for the list of {plural}: {_described(error)}") from error

    async def _pages(self, plural: str, path: str, query: Mapping[str, str]) -> list[object]:
        found: list[object] = []
        following: Mapping[str, str] | None = query
        while following is not None:
            body = await self._connection.get(path, following, timeout_s=self._timing.request_s)
            items, metadata = read_list(body)
            found += items
            remaining = metadata.get("remainingItemCount")
            token = metadata.get("continue")
            self._on_progress(Progress(plural, len(found), remaining if isinstance(remaining, int) else None))
            following = {**query, "continue": str(token)} if token else None
        return found


async def list_cluster(kubeconfig: str, context: str, extras: Sequence[Extra], on_progress: Callable[[Progress], None]) -> Listed:
    """List a cluster. `kubeconfig`: as for `Connection`. `context`: of the kubeconfig, empty: the current one.

    Raises `NetpolqError` with the server, and with verb and resource where the server refuses.
    """
    connection = Connection(kubeconfig, context=context)
    try:
        await connection.open()
    except BootError as error:
        raise NetpolqError(str(error).partition("; give --kubeconfig")[0]) from error
    try:
        server = without_credentials(connection.address)
        if "@" in urlsplit(connection.address).netloc:
            raise NetpolqError(f"--kubeconfig {kubeconfig}: the URL of {server} has a user name; give credentials under users")
        listing = _Listing(connection, server, on_progress)
        listed = Listed(server=server, began_s=time.time())
        served = await listing.served()
        for resource in (*RESOURCES, *served.values()):
            await _take(listing, resource, listed)
        if _has_node_peers(listed.objects):
            await _take(listing, NODES, listed)
        for extra in extras:
            await _take_extra(listing, extra, listed)
        return listed
    finally:
        await connection.close()


async def _take(listing: _Listing, resource: Resource, listed: Listed) -> None:
    group, _, _version = resource.api_version.rpartition("/")
    for body in await listing.items(_plural(resource.path), group, resource.path):
        item = read_item(resource, body)
        if item is None:
            continue
        if item.content is not None:
            listed.objects.append(item.content)
        if item.rejection is not None:
            listed.rejections.append(item.rejection)


async def _take_extra(listing: _Listing, extra: Extra, listed: Listed) -> None:
    group, _, _version = extra.api_version.rpartition("/")
    try:
        bodies = await listing.items(_plural(extra.path), group, extra.path)
    except NetpolqError as error:
        listed.skipped[extra.kind] = str(error)
        return
    for body in bodies:
        extra.take({**body, "kind": extra.kind, "apiVersion": extra.api_version} if isinstance(body, dict) else body)


def without_credentials(url: str) -> str:
    """Return a URL without user and password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _has_node_peers(objects: Sequence[Object]) -> bool:
    policies: Iterator[ClusterNetworkPolicy] = (item for item in objects if isinstance(item, ClusterNetworkPolicy))
    return any(isinstance(peer, NodePeer) for policy in policies for rule in policy.egress for peer in rule.peers or ())


def _plural(path: str) -> str:
    return path.rpartition("/")[2]


def _described(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer within the time limit"
    return " ".join(str(error).split()) or type(error).__name__
