"""A minimal client for the tests of the test API server."""

import json
import ssl

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple, TypedDict, cast

import aiohttp

from tests.support.apiserver.resources import PODS, Body, Resource
from tests.support.apiserver.server import ApiServer

WATCH_LIST = {"watch": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}


class Listing(TypedDict):
    kind: str
    apiVersion: str
    metadata: dict[str, str | int]
    items: list["_Item"]


class _Item(TypedDict):
    metadata: "_Metadata"
    spec: dict[str, object]


class _Metadata(TypedDict):
    name: str
    labels: dict[str, str]


class Line(NamedTuple):
    """An event of a watch, with the parts that tests check."""

    type: str
    name: str
    resource_version: int
    body: dict[str, object]


def pod(name: str, namespace: str = "x", **labels: str) -> Body:
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": {}}


def namespace(name: str) -> Body:
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}


@asynccontextmanager
async def client(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=trusting(server)) if server.authority else None
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout) as session:
        yield session


def trusting(server: ApiServer) -> ssl.SSLContext:
    assert server.authority is not None
    return ssl.create_default_context(cadata=server.authority.certificate.decode())


async def listed(session: aiohttp.ClientSession, resource: Resource = PODS, /, **query: str) -> Listing:
    async with session.get(resource.path, params=query) as response:
        assert response.status == 200, await response.text()
        return cast("Listing", await response.json())


async def refused(session: aiohttp.ClientSession, resource: Resource = PODS, /, **query: str) -> dict[str, object]:
    """The Status that answers a request."""
    async with session.get(resource.path, params=query) as response:
        body = cast("dict[str, object]", await response.json())
        assert body["kind"] == "Status"
        assert body["code"] == response.status
        return body


def names(listing: Listing) -> list[str]:
    return [item["metadata"]["name"] for item in listing["items"]]


class Watch:
    """A watch as its client sees it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def line(self) -> Line | None:
        """The next event, or None at the end of the stream."""
        raw = await self.response.content.readline()
        return parsed(raw) if raw else None

    async def lines(self, count: int) -> list[Line]:
        found = [await self.line() for _ in range(count)]
        return [line for line in found if line]

    async def rest(self) -> list[Line]:
        """The remaining events until the end of the stream."""
        return [parsed(raw) async for raw in self.response.content]


def parsed(raw: bytes) -> Line:
    assert raw.endswith(b"\n")
    event = json.loads(raw)
    body = event["object"]
    metadata = body["metadata"]
    return Line(event["type"], metadata.get("name", ""), int(metadata.get("resourceVersion", 0)), body)


@asynccontextmanager
async def watching(session: aiohttp.ClientSession, resource: Resource = PODS, /, **query: str) -> AsyncIterator[Watch]:
    async with session.get(resource.path, params={"watch": "true"} | query) as response:
        assert response.status == 200, await response.text()
        yield Watch(response)


def brief(lines: list[Line]) -> list[str]:
    return [f"{line.type} {line.name}".strip() for line in lines]
