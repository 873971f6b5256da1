"""Writer of Events: sends what the table asks for, one request at a time, and waits while the API server refuses."""

import asyncio
import logging
import random
import time

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from netpolq.events import body
from netpolq.events.part import DenialEvents
from netpolq.events.series import PodIdentity
from netpolq.events.table import Write
from netpolq.sources.kubernetes.attempts import Attempts
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.timing import Timing as SourceTiming
from netpolq.sources.kubernetes.watch import StatusError
from netpolq.sources.kubernetes.write_failures import NO_ANSWER, is_about_one_object, open_connection, renew_credentials

_MAX_UIDS = 1024
"""Pods whose uid is kept. A node has a tenth of that."""

_TERMINATING = "being terminated"
"""In the message of the refusal (403) of a new object in a namespace that is being deleted. Source: the admission plugin
NamespaceLifecycle.
"""

log = logging.getLogger("events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds. `poll_s`: between two looks at the table. `first_delay_s`, `max_delay_s`: back-off after a failure;
    `max_retry_after_s`: the longest that a server may ask to wait.
    """

    request_s: float = 10.0
    poll_s: float = 0.5
    first_delay_s: float = 1.0
    max_delay_s: float = 60.0
    max_retry_after_s: float = 300.0


class _Cause(Enum):
    """What a failure is about."""

    THIS_EVENT = auto()
    ALL_EVENTS = auto()


class EventWriter:
    """Writes the Events of a part. `noise`: random numbers from 0 to 1."""

    def __init__(
        self,
        events: DenialEvents,
        connection: Connection,
        *,
        timing: Timing | None = None,
        noise: Callable[[], float] = random.random,
    ) -> None:
        self._events = events
        self._connection = connection
        self._timing = timing if timing is not None else Timing()
        delays = SourceTiming(first_delay_s=self._timing.first_delay_s, max_delay_s=self._timing.max_delay_s)
        self._attempts = Attempts("Events of denied connections", delays, noise)
        self._uids: OrderedDict[PodIdentity, str] = OrderedDict()
        self._permission = ""

    async def run(self) -> None:
        """Write until cancelled."""
        await open_connection(self._connection, self._fail)
        try:
            while True:
                write = self._events.table.next_write(time.monotonic())
                delay_s = self._timing.poll_s if write is None else await self._write(write)
                await asyncio.sleep(delay_s)
        finally:
            await self._connection.close()

    async def _write(self, write: Write) -> float:
        """Make one write. Returns the seconds until the next one."""
        generation, table = self._connection.generation, self._events.table
        try:
            is_taken = await self._send(write)
        except (*NO_ANSWER, StatusError, ValueError) as error:
            self._events.failed += 1
            if isinstance(error, StatusError) and _cause(error) is _Cause.THIS_EVENT:
                return self._on_refused(write, error)
            table.on_failed(write, time.monotonic())
            delay_s = self._fail(self._text(error))
            if isinstance(error, StatusError) and error.retry_after_s is not None:
                delay_s = max(delay_s, min(error.retry_after_s, self._timing.max_retry_after_s))
            await renew_credentials(self._connection, error, generation)
            return delay_s
        self._attempts.succeed()
        self._events.problem = None
        if is_taken:
            self._events.written += 1
            table.on_written(write, time.monotonic())
        else:
            self._events.failed += 1
            table.on_gone(write, time.monotonic())
        return 0.0

    async def _send(self, write: Write) -> bool:
        """Make the requests of a write. Returns whether the server has it; not if the pod is gone."""
        if not write.is_new:
            self._permission = "patch events"
            await self._connection.send(
                "PATCH", body.path(write), body.change(write), content_type=body.PATCH_TYPE, timeout_s=self._timing.request_s
            )
            return True
        uid = await self._uid(write.key.pod)
        if uid:
            self._permission = "create events"
            event = body.new_event(write, uid, self._events.node)
            await self._connection.send("POST", body.collection(write.key.pod.namespace), event, timeout_s=self._timing.request_s)
        return bool(uid)

    async def _uid(self, pod: PodIdentity) -> str:
        """The uid of a pod, asked for once; empty if the pod is gone. The agent does not keep those of all pods of the cluster."""
        if (known := self._uids.get(pod)) is not None:
            self._uids.move_to_end(pod)
            return known
        self._permission = "list pods"
        path, query = body.pod_query(pod)
        uid = body.uid_in(await self._connection.get(path, query, timeout_s=self._timing.request_s), pod)
        if uid:
            self._uids[pod] = uid
            while len(self._uids) > _MAX_UIDS:
                self._uids.popitem(last=False)
        return uid

    def _on_refused(self, write: Write, error: StatusError) -> float:
        now = time.monotonic()
        if error.code == 409 and write.is_new:
            self._events.table.on_exists(write, now)
            return 0.0
        if error.code != 404:
            log.info("Pod %s/%s: its Event was not written: %s", write.key.pod.namespace, write.key.pod.name, error)
        self._events.table.on_gone(write, now)
        return 0.0

    def _text(self, error: Exception) -> str:
        """The failure of the last request in words, the same for all pods, so that it is logged once."""
        if isinstance(error, StatusError) and error.code == 403:
            return f'403: the ClusterRole of the agent does not permit to {self._permission} (API group "")'
        return str(error) or type(error).__name__

    def _fail(self, problem: str) -> float:
        delay_s = self._attempts.fail(problem)
        self._events.problem = self._attempts.problem
        return delay_s


def _cause(error: StatusError) -> _Cause:
    is_terminating = error.code == 403 and _TERMINATING in str(error)
    return _Cause.THIS_EVENT if is_terminating or is_about_one_object(error) else _Cause.ALL_EVENTS
