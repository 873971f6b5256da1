"""Keeps a replica of one resource up to date: list or streamed list, then watch, for ever and whatever happens.

    NOTHING ── streamed list, or pages ──► KNOWN ── watch ──► KNOWN
        ▲                                    │
        └──── 410, or a watch that keeps failing

What is known stays in force until a complete newer state has arrived.
"""

import asyncio
import logging
import random
import time

from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import orjson

from netpolq.sources.cluster.connection import Connection
from netpolq.sources.cluster.resources import Resource
from netpolq.sources.cluster.watch import Changes, LineDecoder, NoStreamedListsError, Replica, StatusError, StreamError

_UNKNOWN_PARAMETER = frozenset({400, 404, 405, 406, 422})
"""Codes by which servers refuse streamed lists: Invalid where the feature is off, others from what stands between."""

_SHORTEST_WATCH_S = 1.0
"""A watch that ends sooner and says nothing has not begun; asking again at once would never end."""

log = logging.getLogger("reflector")

Deliver = Callable[[Changes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take, in seconds.

    `watch_s`: a watch is asked to end after a random time between these two. `idle_s`: without a byte, bookmarks included, a connection
    counts as dead; the server sends a bookmark about every minute. `first_delay_s`, `most_delay_s`: back-off between attempts that fail.
    `failures_before_relist`: after so many in a row, what is known is not trusted to be resumable.
    """

    page_objects: int = 500
    request_s: float = 60.0
    watch_s: tuple[float, float] = (300.0, 600.0)
    idle_s: float = 150.0
    initial_events_s: float = 120.0
    first_delay_s: float = 0.5
    most_delay_s: float = 30.0
    failures_before_relist: int = 3


class Reflector:
    """One resource of the cluster. `deliver` gets the first complete state, then every change; it must not raise."""

    def __init__(
        self,
        resource: Resource,
        connection: Connection,
        deliver: Deliver,
        timing: Timing,
        *,
        noise: Callable[[], float] = random.random,
    ) -> None:
        self._resource = resource
        self._connection = connection
        self._deliver = deliver
        self._timing = timing
        self._noise = noise
        self._replica = Replica(resource)
        self._streams_lists = True
        self._pages_lists = True
        self._failures = 0
        self.is_synced = False
        self.relists = 0
        self.problem: str | None = None
        self.contact_ns: int | None = None

    async def run(self) -> None:
        """Reflect until cancelled."""
        while True:
            generation = self._connection.generation
            delay_s = 0.0
            try:
                if self._replica.resume_version is None:
                    await self._synchronise()
                else:
                    await self._watch()
            except StatusError as error:
                delay_s = await self._on_status(error, generation)
            except (aiohttp.ClientError, OSError, StreamError, TimeoutError) as error:
                delay_s = self._on_failure(str(error) or type(error).__name__)
            await asyncio.sleep(delay_s)

    async def _on_status(self, error: StatusError, generation: int) -> float:
        if error.is_expired and self._replica.resume_version is not None:
            log.info("%s: what is known is too old to go on from; listing again", self._resource.kind)
            self._replica.resume_version = None
            return self._noise() * self._timing.first_delay_s
        if error.code == 401:
            try:
                await self._connection.renew(generation)
            except Exception as failure:  # noqa: BLE001  # whatever a plugin or parser raises, the old credentials are still there
                return self._on_failure(f"{error}; credentials cannot be read again: {failure}")
        delay_s = self._on_failure(str(error))
        return max(delay_s, min(error.retry_after_s or 0.0, self._timing.most_delay_s))

    def _on_failure(self, problem: str) -> float:
        """Note a failure. Returns how long to wait: growing, and never the same for two agents."""
        self._replica.abandon()
        self._failures += 1
        if self.problem != problem:
            log.warning("%s: %s; trying again", self._resource.kind, problem)
        self.problem = problem
        if self._failures % self._timing.failures_before_relist == 0:
            self._replica.resume_version = None
        most_s: float = min(self._timing.first_delay_s * 2.0 ** min(self._failures - 1, 10), self._timing.most_delay_s)
        return most_s * (0.5 + self._noise() / 2)

    def _on_contact(self) -> None:
        self.contact_ns = time.monotonic_ns()

    def _on_success(self) -> None:
        if self.problem is not None:
            log.info("%s: the API server answers again", self._resource.kind)
        self._failures = 0
        self.problem = None

    # --- complete states ----------------------------------------------------------------------------------------------------------

    async def _synchronise(self) -> None:
        self.relists += 1
        if self._streams_lists:
            try:
                return await self._stream_list()
            except StatusError as error:
                if error.code not in _UNKNOWN_PARAMETER:
                    raise
                reason = str(error)
            except NoStreamedListsError as error:
                reason = str(error)
            log.info("%s: the server does not stream lists (%s); asking for pages", self._resource.kind, reason)
            self._streams_lists = False
        return await self._list()

    async def _stream_list(self) -> None:
        """A watch that begins with the complete state and goes on as a watch (WatchList)."""
        self._replica.begin()
        await self._consume(
            {
                "sendInitialEvents": "true",
                "resourceVersionMatch": "NotOlderThan",
                "resourceVersion": "",
            }
        )

    async def _list(self) -> None:
        """The complete state in pages. If the pages expire on the way, everything at once.

        No version is asked for: with "0" many a server answers from its cache and takes no notice of the limit, which for a hundred
        thousand pods is a body of most of a gigabyte.
        """
        query = {"limit": str(self._timing.page_objects)} if self._pages_lists else {}
        self._replica.begin()
        while True:
            try:
                body = await self._connection.get(self._resource.path, query, timeout_s=self._timing.request_s)
            except StatusError as error:
                if error.is_expired and "continue" in query:
                    self._pages_lists = False
                raise
            self._on_contact()
            items, metadata = _read_list(body)
            self._replica.add_page(items)
            following = metadata.get("continue")
            if not following:
                break
            query = {**query, "continue": str(following)}
            await asyncio.sleep(0)
        resume_version = metadata.get("resourceVersion")
        if not isinstance(resume_version, str) or not resume_version:
            raise StreamError("a list without resourceVersion")
        self._pages_lists = True
        self._hand_on(self._replica.complete(resume_version), is_complete=True)
        self._on_success()

    # --- changes ------------------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        await self._consume({"resourceVersion": self._replica.resume_version or ""})

    async def _consume(self, query: dict[str, str]) -> None:
        timing = self._timing
        shortest_s, longest_s = timing.watch_s
        asked_s = shortest_s + (longest_s - shortest_s) * self._noise()
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(int(asked_s), 1)),
            **query,
        }
        lines = LineDecoder()
        opened = time.monotonic()
        lasted = False
        async with self._connection.stream(
            self._resource.path, query, total_s=asked_s + timing.request_s, idle_s=timing.idle_s
        ) as content:
            self._on_contact()
            deadline = opened + timing.initial_events_s
            async for data, _end_of_chunk in content.iter_chunks():
                self._on_contact()
                lasted = True
                changes = Changes()
                try:
                    for line in lines.feed(data):
                        if self._replica.on_line(line, changes):
                            self._hand_on(changes, is_complete=True)
                            changes = Changes()
                        if not self._replica.is_arriving:
                            self._on_success()
                finally:
                    # What came before a bad line is good.
                    self._hand_on(changes)
                if self._replica.is_arriving and time.monotonic() > deadline:
                    raise NoStreamedListsError("initial events without an end")

        if self._replica.is_arriving:
            raise StreamError("the stream ended before the initial events did")
        if not lasted and time.monotonic() - opened < _SHORTEST_WATCH_S:
            raise StreamError("the watch ended as soon as it had begun")
        self._on_success()

    def _hand_on(self, changes: Changes, *, is_complete: bool = False) -> None:
        self.is_synced |= is_complete
        if changes or is_complete:
            self._deliver(changes)


def _read_list(body: bytes) -> tuple[list[object], dict[str, object]]:
    """Items and metadata of a list. Raises `StreamError` for anything else."""
    try:
        document = orjson.loads(body)
        items, metadata = document.get("items") or [], document["metadata"]
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise StreamError(f"not a list: {body[:80]!r}") from error
    if not isinstance(items, list) or not isinstance(metadata, dict):
        raise StreamError(f"not a list: {body[:80]!r}")
    return items, metadata
