"""Reflector of one resource: lists it (or streams the list), then watches it, until cancelled.

    NOTHING ── streamed list, or pages ──► KNOWN ── version of the server ── watch ──► KNOWN
        ▲                                    │
        ├──── 410, a server with another history, a silent watch, or a watch that keeps failing
        └──── some time after a lost contact, if the server could not prove that its history is the same (`replica.py`)

The known state stays in force until a complete newer state has arrived.
"""

import asyncio
import logging
import random
import time

from collections.abc import Callable, Iterable

import aiohttp

from netpolq.model import ObjectKey
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.delayed_list import DelayedList
from netpolq.sources.kubernetes.paged_list import PagedList
from netpolq.sources.kubernetes.recovery import Recovery
from netpolq.sources.kubernetes.replica import Replica
from netpolq.sources.kubernetes.resources import Resource
from netpolq.sources.kubernetes.timing import Timing
from netpolq.sources.kubernetes.watch import (
    Changes,
    EndedAtOnceError,
    LineDecoder,
    NoStreamedListsError,
    NotResumableError,
    RestoredError,
    StatusError,
    StreamError,
    read_list,
)
from netpolq.sources.kubernetes.watch_attempt import WatchAttempt

_UNKNOWN_PARAMETER = frozenset({400, 404, 405, 406, 422})
"""Status codes that refuse streamed lists: Invalid from a server without the feature, the others from proxies."""

_MIN_WATCH_S = 2.0
"""The reflector opens no watch when a list is due sooner: a watch of one second looks like one that has not begun."""

_MAX_EXPECTED_FAILURES = 5
"""So many consecutive failures as the change of a CRD causes are not a problem."""

log = logging.getLogger("reflector")

Deliver = Callable[[Changes], None]


class Reflector:
    """Reflects one resource. Calls `deliver` with the first complete state, then with every change; `deliver` must not raise.

    `known`: see `Replica`. `on_not_found`: for a resource that exists only with its CRD, called when the server answers 404; such an
    answer, and a watch that ends at once because the schema has changed, is a problem only if it repeats.
    """

    def __init__(
        self,
        resource: Resource,
        connection: Connection,
        deliver: Deliver,
        timing: Timing,
        *,
        noise: Callable[[], float] = random.random,
        known: Iterable[ObjectKey] = (),
        on_not_found: Callable[[], None] | None = None,
    ) -> None:
        self._resource = resource
        self._connection = connection
        self._deliver = deliver
        self._timing = timing
        self._noise = noise
        self._replica = Replica(resource, known)
        self._on_not_found = on_not_found
        self._expected_failures = 0
        self._streams_lists = True
        self._paged_list = PagedList(connection, timing)
        self._recovery = Recovery(resource.kind, resource.permission, connection, timing, noise)
        self._is_version_checked = False
        self._is_contact_lost = False
        self._delayed_list = DelayedList(timing, noise)
        self.is_synced = False
        self.relists = 0
        self.contact_ns: int | None = None

    async def run(self) -> None:
        """Reflect until cancelled."""
        while True:
            generation, reached = self._connection.generation, self._connection.reached
            delay_s = 0.0
            try:
                if self._replica.resume_version is None:
                    await self._synchronise()
                else:
                    await self._wait_for_due_list()
                    await self._check_version()
                    await self._watch()
            except RestoredError as error:
                delay_s = self._list_again(str(error), level=logging.WARNING)
            except NotResumableError as error:
                delay_s = self._list_again(str(error))
            except StatusError as error:
                delay_s = await self._on_status(error, generation)
            except StreamError as error:
                self._lose_contact()
                if isinstance(error, EndedAtOnceError) and self._is_expected():
                    delay_s = self._pause_s()
                else:
                    delay_s = self._drop_suspect_version(self._recovery.on_invalid_answer(error))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._lose_contact()
                await self._recovery.wait_until_reachable(error, generation, reached)
                continue
            await asyncio.sleep(delay_s)

    def _is_expected(self) -> bool:
        """Note a failure that the change of a CRD may have caused. Returns whether it is not a problem yet."""
        self._expected_failures += 1
        return self._on_not_found is not None and self._expected_failures <= _MAX_EXPECTED_FAILURES

    def _pause_s(self) -> float:
        """The pause after an expected failure, which grows with their number."""
        timing = self._timing
        return min(timing.first_delay_s * 2.0**self._expected_failures, timing.max_delay_s) * (0.5 + self._noise() / 2)

    def _list_again(self, why: str, *, level: int = logging.INFO) -> float:
        """Drop the known version. Returns the delay in seconds."""
        log.log(level, "%s: %s; listing again", self._resource.kind, why)
        self._replica.abandon()
        self._replica.resume_version = None
        return self._noise() * self._timing.first_delay_s

    async def _on_status(self, error: StatusError, generation: int) -> float:
        if error.is_expired and self._replica.is_awaiting_proof:
            self._replica.drop_evidence()
            return 0.0
        if error.is_expired and self._replica.resume_version is not None:
            return self._list_again("the known version is too old to continue from")
        self._lose_contact()
        if error.code == 404 and self._on_not_found is not None:
            self._replica.resume_version = None
            self._on_not_found()
            if self._is_expected():
                return self._pause_s()
        return self._drop_suspect_version(await self._recovery.on_refusal(error, generation))

    def _lose_contact(self) -> None:
        self._replica.abandon()
        self._is_contact_lost = True

    def _drop_suspect_version(self, delay_s: float) -> float:
        """Drop the known version after too many failures that it may have caused. Returns `delay_s`."""
        if self._recovery.must_drop_version():
            self._replica.resume_version = None
        return delay_s

    def _on_contact(self) -> None:
        self._expected_failures = 0
        self.contact_ns = time.monotonic_ns()

    @property
    def problem(self) -> str | None:
        """The current problem, or None."""
        return self._recovery.problem

    @property
    def known(self) -> frozenset[ObjectKey]:
        """The keys of the known objects."""
        return self._replica.known

    async def _synchronise(self) -> None:
        self.relists += 1
        if self._streams_lists:
            try:
                return await self._stream_list()
            except StatusError as error:
                if error.code not in _UNKNOWN_PARAMETER or (error.code == 404 and self._on_not_found is not None):
                    raise
                reason = str(error)
            except NoStreamedListsError as error:
                reason = str(error)
            log.info("%s: the server does not stream lists (%s); asking for pages", self._resource.kind, reason)
            self._streams_lists = False
        return await self._list()

    async def _stream_list(self) -> None:
        """Watch from the complete state on (WatchList)."""
        self._replica.begin()
        await self._consume({"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": ""})

    async def _list(self) -> None:
        resume_version = await self._paged_list.read(self._replica, self._on_contact)
        self._on_complete()
        self._emit(self._replica.complete(resume_version), is_complete=True)
        self._is_version_checked = True
        self._recovery.succeed()

    def _on_complete(self) -> None:
        """Clear a lost contact and a scheduled list after a complete state has arrived."""
        self._is_contact_lost = False
        self._delayed_list.finish()

    async def _check_version(self) -> None:
        """Ask for the server's version. Raises `NotResumableError` if it is lower than the known one.

        A server whose etcd was restored from a backup answers a watch from a later version with 200 and sends nothing until it reaches
        that version; what it then sends belongs to another history. A list of at most one object has the current version: without
        resourceVersion it is a consistent read (API concepts, "Resource versions").
        """
        if self._is_version_checked:  # by a list a moment ago
            self._is_version_checked = False
            return
        body = await self._connection.get(self._resource.path, {"limit": "1"}, timeout_s=self._timing.request_s)
        _items, metadata = read_list(body)
        self._replica.compare(metadata.get("resourceVersion"))

    async def _wait_for_due_list(self) -> None:
        """Raise `NotResumableError` when the scheduled list is due, or due within `_MIN_WATCH_S`."""
        remaining_s = self._delayed_list.remaining_s
        if remaining_s is not None and remaining_s < _MIN_WATCH_S:
            await asyncio.sleep(remaining_s)
            raise NotResumableError("the API server could not prove after a lost contact that its history is the same")

    async def _watch(self) -> None:
        version = self._replica.begin_watch()
        if self._is_contact_lost and not self._replica.is_awaiting_proof:
            self._is_contact_lost = False
            self._delayed_list.schedule(self._replica.size)
            await self._wait_for_due_list()
        await self._consume({"resourceVersion": version})

    async def _consume(self, query: dict[str, str]) -> None:
        timing = self._timing
        min_s, max_s = timing.watch_s
        asked_s = min_s + (max_s - min_s) * self._noise()
        remaining_s = self._delayed_list.remaining_s
        if remaining_s is not None and not self._replica.is_arriving:
            asked_s = min(asked_s, remaining_s)
        lines = LineDecoder()
        attempt = WatchAttempt(asked_s, timing)
        async with self._connection.stream(
            self._resource.path, attempt.query(query), total_s=asked_s + timing.request_s, idle_s=timing.idle_s
        ) as content:
            try:
                async for data, _end_of_chunk in content.iter_chunks():
                    attempt.note_data()
                    self._take(lines.feed(data))
                    if self._replica.is_arriving and attempt.is_initial_state_overdue:
                        raise NoStreamedListsError("initial events without an end")
            except aiohttp.ServerTimeoutError:
                if not attempt.has_data:
                    self._replica.resume_version = None
                raise
        if self._replica.is_arriving:
            raise StreamError("the stream ended before the initial events did")
        if attempt.end():
            self._is_contact_lost = True
        self._recovery.succeed()

    def _take(self, lines: list[bytes]) -> None:
        """Apply watch events. They count as contact; the status 200 alone does not, as a server that lost its state sends it too."""
        self._on_contact()
        changes = Changes()
        try:
            for line in lines:
                if self._replica.on_line(line, changes):
                    self._on_complete()
                    self._emit(changes, is_complete=True)
                    changes = Changes()
                if not self._replica.is_arriving:
                    self._is_contact_lost &= self._replica.is_awaiting_proof
                    self._recovery.succeed()
        finally:
            # The events before a bad line are valid.
            self._emit(changes)

    def _emit(self, changes: Changes, *, is_complete: bool = False) -> None:
        self.is_synced |= is_complete
        if changes or is_complete:
            self._deliver(changes)
