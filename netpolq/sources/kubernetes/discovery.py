"""Discovery of the optional kinds: which of them the API server has, and in which version.

The kinds of `policy.networking.k8s.io` exist only with their CRDs, which may come, change and go at any time. Every service account may
read the discovery documents. Source: the API concepts page, "API discovery"; `v1.APIGroup`, `v1.APIResourceList`.
"""

import asyncio
import contextlib
import random

from collections.abc import Callable, Mapping

import aiohttp
import orjson

from netpolq.model import Kind
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.recovery import Recovery
from netpolq.sources.kubernetes.resources import GROUP_PATH, OPTIONAL, Resource
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import StatusError, StreamError

Served = Mapping[Kind, Resource]
"""The served kinds, each in the newest version that the agent knows."""


class Discovery:
    """Asks at random intervals, and at once after `ask_again`. Calls `on_served` after each answer, at first when it is complete.

    A kind is gone only when two answers in a row lack it: one server of several may know a CRD later than the others. Any failure but 404
    changes nothing. `is_known`: whether there was a complete answer. `noise`: random numbers from 0 to 1.
    """

    def __init__(
        self,
        connection: Connection,
        on_served: Callable[[Served], None],
        timing: Timing,
        *,
        noise: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._on_served = on_served
        self._timing = timing
        self._noise = noise
        self._recovery = Recovery("discovery", f"get of the URL {GROUP_PATH}", connection, timing, noise)
        self._is_wanted = asyncio.Event()
        self._served: Served = {}
        self._missing: frozenset[Kind] = frozenset()
        self.is_known = False

    @property
    def problem(self) -> str | None:
        """The current problem, or None."""
        return self._recovery.problem

    def ask_again(self) -> None:
        """Ask at once: the server has answered 404 for a kind that it had."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            self._is_wanted.clear()
            delay_s = await self._ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._is_wanted.wait()

    async def _ask(self) -> float:
        """Ask once. Returns the delay until the next question, in seconds."""
        generation, reached = self._connection.generation, self._connection.reached
        try:
            found = await self._read()
        except StatusError as error:
            return await self._recovery.on_refusal(error, generation)
        except StreamError as error:
            return self._recovery.on_invalid_answer(error)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self._recovery.wait_until_reachable(error, generation, reached)
            return 0.0
        self._recovery.succeed()
        return self._take(found)

    def _take(self, found: Served) -> float:
        missing = frozenset(self._served) - found.keys()
        unconfirmed = missing - self._missing
        self._missing = missing
        self._served = {**{kind: self._served[kind] for kind in unconfirmed}, **found}
        self.is_known = True
        self._on_served(self._served)
        min_s, max_s = self._timing.discovery_s
        return self._timing.absence_s if unconfirmed else min_s + (max_s - min_s) * self._noise()

    async def _read(self) -> Served:
        return await read_served(self._connection, self._timing.request_s)


async def read_served(connection: Connection, timeout_s: float) -> Served:
    """Ask which optional kinds the server has. Errors as of `Connection.get` but for 404, and `StreamError`."""

    async def get(path: str) -> bytes | None:
        """A document, or None if there is none."""
        try:
            return await connection.get(path, {}, timeout_s=timeout_s)
        except StatusError as error:
            if error.code == 404:
                return None
            raise

    versions = read_versions(await get(GROUP_PATH))
    found: dict[Kind, Resource] = {}
    for version in dict.fromkeys(resource.api_version for resource in OPTIONAL):
        if version in versions:
            plurals = read_plurals(await get(f"/apis/{version}"))
            for resource in OPTIONAL:
                if resource.api_version == version and resource.path.rpartition("/")[2] in plurals:
                    found.setdefault(resource.kind, resource)
    return found


def read_versions(body: bytes | None) -> frozenset[str]:
    """The versions of an APIGroup with their group, as in apiVersion. Raises `StreamError` for anything else; None: no group."""
    return _names(body, "versions", "groupVersion")


def read_plurals(body: bytes | None) -> frozenset[str]:
    """The resources of an APIResourceList. Raises `StreamError` for anything else; None: no such version."""
    return _names(body, "resources", "name")


def _names(body: bytes | None, entries: str, name: str) -> frozenset[str]:
    if body is None:
        return frozenset()
    try:
        return frozenset(str(entry[name]) for entry in orjson.loads(body)[entries])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StreamError(f"not a discovery document: {body[:80]!r}") from error
