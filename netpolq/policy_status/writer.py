"""Writer of the conditions: takes part in the election and, as the leader, writes what the plan asks for, one request at a time."""

import asyncio
import contextlib
import logging
import random
import time
import uuid

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from netpolq.model import ObjectKey
from netpolq.policy_status import conditions, lease
from netpolq.policy_status.conditions import Condition
from netpolq.policy_status.election import Election, Event, Request
from netpolq.policy_status.lease import Lease
from netpolq.policy_status.plan import WritePlan
from netpolq.policy_status.timing import Timing
from netpolq.sources.kubernetes.attempts import Attempts
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.policy_report import PolicyReport
from netpolq.sources.kubernetes.timing import Timing as SourceTiming
from netpolq.sources.kubernetes.watch import StatusError
from netpolq.sources.kubernetes.write_failures import NO_ANSWER, is_about_one_object, open_connection, renew_credentials

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_OUTSIDE_A_POD = "kube-system"
"""The namespace of the Lease where the agent has no service account: that of the shipped manifests."""

log = logging.getLogger("policy-status")


def own_namespace() -> str:
    """The namespace of the agent's pod."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or _OUTSIDE_A_POD
    return _OUTSIDE_A_POD


class Reporter(Protocol):
    """The source as the writer uses it. A change of a policy replaces its report."""

    @property
    def policy_reports(self) -> Mapping[ObjectKey, PolicyReport]: ...


class PolicyStatus:
    """Writes the conditions of the policies that the source reports.

    `hostname`: of the node, part of the holder's name in the Lease. `noise`: random numbers from 0 to 1.
    """

    def __init__(
        self,
        source: Reporter,
        connection: Connection,
        registry: CollectorRegistry,
        *,
        hostname: str,
        namespace: str,
        timing: Timing | None = None,
        noise: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._connection = connection
        self._namespace = namespace
        self._timing = timing if timing is not None else Timing()
        self._lease: Lease | None = None
        # A part that differs, because two agents are on one node during a takeover.
        self._election = Election(f"{hostname}_{uuid.uuid4()}", self._timing, noise, time.monotonic())
        self._plan = WritePlan(self._timing)
        delays = SourceTiming(first_delay_s=self._timing.first_delay_s, max_delay_s=self._timing.max_delay_s)
        self._lease_attempts = Attempts(f"Lease {namespace}/{lease.NAME}", delays, noise)
        self._attempts = Attempts("status of cluster-wide policies", delays, noise)
        self._no_write_before = 0.0
        self._was_leading = False
        self._writes = Counter(
            "netpolq_policy_status_writes",
            "Writes of the conditions of cluster-wide policies by this agent, by result",
            ["result"],
            registry=registry,
        )
        for result in ("written", "failed"):
            self._writes.labels(result)

    @property
    def identity(self) -> str:
        """The name of this agent as the holder of the Lease."""
        return self._election.identity

    async def run(self) -> None:
        """Take part until cancelled, then release the Lease."""
        await open_connection(self._connection, self._attempts.fail)
        try:
            while True:  # noqa: ASYNC110 - what it waits for is a time
                await asyncio.sleep(await self._step())
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.release_s):
                    await self._drive(Event.STOP)
            await self._connection.close()

    async def _step(self) -> float:
        """Make what is due, at most one write. Returns the seconds until the next call."""
        now = time.monotonic()
        event = self._election.due(now)
        if event is not None:
            await self._drive(event)
        if not self._election.is_leading(now := time.monotonic()):
            return self._election.delay_s(now)
        if now >= self._no_write_before:
            found = self._plan.next_write(self._source.policy_reports, now)
            if found is not None:
                await self._write(*found)
                return self._timing.write_interval_s
        return min(self._timing.poll_s, self._election.delay_s(now))

    async def _drive(self, event: Event) -> None:
        """Feed the election until it waits for the clock."""
        request = self._election.on(event, time.monotonic())
        while request is not None:
            outcome = await self._ask(request)
            request = self._election.on(outcome, time.monotonic())
        is_leading = self._election.is_leading(time.monotonic())
        if is_leading is self._was_leading:
            return
        self._was_leading = is_leading
        self._plan.forget()
        log.info("this agent %s the status of cluster-wide policies", "now writes" if is_leading else "no longer writes")

    async def _ask(self, request: Request) -> Event:
        """Make a request about the Lease. Returns its outcome."""
        generation = self._connection.generation
        try:
            outcome = await (self._read() if request is Request.READ else self._update(request))
        except (*NO_ANSWER, StatusError, ValueError) as error:
            self._lease_attempts.fail(_text(error))
            await renew_credentials(self._connection, error, generation)
            return Event.FAILED
        self._lease_attempts.succeed()
        return outcome

    async def _read(self) -> Event:
        try:
            # Version 0: from the server's cache. An old state does no harm, because an update of it is a conflict.
            content = await self._connection.get(self._lease_path, {"resourceVersion": "0"}, timeout_s=self._timing.request_s)
            self._lease = lease.decode(content)
        except StatusError as error:
            if error.code != 404:
                raise
            self._lease = None
        return self._election.observe(self._lease, time.monotonic())

    async def _update(self, request: Request) -> Event:
        before, at = self._lease, datetime.now(UTC)
        if request is Request.WRITE:
            body = lease.held(self._namespace, before, self.identity, self._timing.lease_s, at)
        elif before is not None:
            body = lease.released(self._namespace, before, at)
        else:
            return Event.FAILED  # its creation was under way, with an unknown outcome: it expires
        method, path = ("POST", lease.collection(self._namespace)) if before is None else ("PUT", self._lease_path)
        try:
            content = await self._connection.send(method, path, body, timeout_s=self._timing.request_s)
        except StatusError as error:
            # 404: it was deleted since, and must be read again as for a conflict.
            if error.code == 409 or (error.code == 404 and before is not None):
                return Event.CONFLICT
            raise
        self._lease = lease.decode(content)
        return Event.WRITTEN

    @property
    def _lease_path(self) -> str:
        return f"{lease.collection(self._namespace)}/{lease.NAME}"

    async def _write(self, key: ObjectKey, wanted: Condition) -> None:
        """Write one condition."""
        report, generation = self._source.policy_reports[key], self._connection.generation
        try:
            await self._connection.send(
                "PATCH",
                conditions.path(report),
                conditions.apply_body(report, wanted, datetime.now(UTC)),
                # force: the condition Accepted may belong to a writer that is gone.
                query={"fieldManager": conditions.FIELD_MANAGER, "force": "true"},
                content_type="application/apply-patch+yaml",
                timeout_s=self._timing.request_s,
            )
        except (*NO_ANSWER, StatusError) as error:
            self._writes.labels("failed").inc()
            await self._on_failure(key, error, generation)
        else:
            self._writes.labels("written").inc()
            self._attempts.succeed()
            self._plan.on_written(key, time.monotonic())

    async def _on_failure(self, key: ObjectKey, error: Exception, generation: int) -> None:
        now = time.monotonic()
        if isinstance(error, StatusError) and is_about_one_object(error):
            log.info("%s: its status was not written: %s", key, error)
            self._plan.on_refused(key, now)
            return
        delay_s = self._attempts.fail(_text(error))
        if isinstance(error, StatusError):
            delay_s = max(delay_s, min(error.retry_after_s or 0.0, self._timing.max_delay_s))
        self._no_write_before = now + delay_s
        await renew_credentials(self._connection, error, generation)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
