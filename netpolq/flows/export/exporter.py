"""What all exporters have in common: a backlog, the loop that sends it batch by batch, and counters.

An exporter says in `_send` what became of one batch. A batch stays at the head of the backlog until it is exported or rejected, so that
each record is exported at least once, unless it gives way to newer ones or the process ends.
"""

import asyncio
import logging

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from netpolq.flows.export.backlog import Backlog, Batch
from netpolq.flows.export.problem import Problem
from netpolq.flows.record import FlowRecord

MAX_WAITING = 32768
"""Records that may wait for one exporter. Source: docs/decisions/flow-export.md."""
LAST_SEND_S = 1.0
"""Limit of the last send on shutdown."""

log = logging.getLogger("flow-export")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The batch is done. `rejected`: records that the target did not take. `problem`: what it says about them, or None."""

    rejected: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The batch must be sent again, after `delay_s`."""

    problem: str
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """The target takes only smaller batches."""


Outcome = Sent | Failed | TooLarge


@dataclass(slots=True)
class Counts:
    """Records by what became of them."""

    exported: int = 0
    lost: int = 0
    rejected: int = 0

    def as_mapping(self) -> dict[str, int]:
        """By the name of the outcome."""
        return {"exported": self.exported, "lost": self.lost, "rejected": self.rejected}


class Exporter(ABC):
    """Sends records to `target`. `name`: the label in metrics."""

    name: ClassVar[str]

    def __init__(self, target: str, *, capacity: int = MAX_WAITING, batch_size: int = 0) -> None:
        self.target = target
        self._backlog = Backlog(capacity, batch_size)
        self._problem = Problem(log, f"flow export to {target}")
        self._counts = Counts()
        # Under way. It goes on when `run` is cancelled, because its end decides whether the batch is done.
        self._step_task: asyncio.Task[float] | None = None

    def offer(self, records: Sequence[FlowRecord]) -> None:
        """Add records to the backlog. Does not block."""
        self._backlog.add(records)

    @property
    def waiting(self) -> int:
        """Records that are not exported yet."""
        return self._backlog.waiting

    @property
    def counts(self) -> Counts:
        """Records of this process that no longer wait."""
        counts = self._counts
        return Counts(counts.exported, counts.lost + self._backlog.dropped, counts.rejected)

    @property
    def problem(self) -> str | None:
        """Why records wait or were rejected, or None."""
        return self._problem.text

    async def run(self) -> None:
        """Send what is offered until cancelled; then what still waits, within `LAST_SEND_S`."""
        try:
            while True:
                await self._backlog.filled()
                if delay_s := await self._attempt():
                    await asyncio.sleep(delay_s)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SEND_S):
                    await self._send_last()
            if self.waiting:
                log.warning("flow export to %s: the agent ends, and %d flow records are lost", self.target, self.waiting)
            await self._close()

    async def _attempt(self) -> float:
        """Send one batch. Returns the time to wait before the next."""
        if self._step_task is None:
            self._step_task = asyncio.create_task(self._step())
        delay_s = await asyncio.shield(self._step_task)
        self._step_task = None
        return delay_s

    async def _send_last(self) -> None:
        try:
            while self._step_task is not None or self._backlog.head() is not None:
                if await self._attempt():
                    return
        finally:
            if self._step_task is not None:
                self._step_task.cancel()

    async def _step(self) -> float:
        batch = self._backlog.head()
        if batch is None:
            return 0.0
        try:
            outcome = await self._send(batch)
        except Exception as error:  # must neither end the agent nor come back with each attempt
            log.error("flow export to %s: internal error", self.target, exc_info=error)
            outcome = Sent(rejected=len(batch.records), problem=f"internal error: {type(error).__name__}")
        return self._settle(batch, outcome)

    def _settle(self, batch: Batch, outcome: Outcome) -> float:
        match outcome:
            case Sent(rejected=rejected, problem=problem):
                self._counts.rejected += rejected
                self._counts.exported += len(batch.records) - rejected
                self._backlog.done()
                if problem is None:
                    self._problem.clear()
                else:
                    self._problem.set(problem)
                return 0.0
            case Failed(problem=problem, delay_s=delay_s):
                self._problem.set(problem)
                return delay_s
            case TooLarge():
                self._backlog.split()
                return 0.0

    @abstractmethod
    async def _send(self, batch: Batch) -> Outcome:
        """Send the batch once."""

    @abstractmethod
    async def _close(self) -> None:
        """Release what is open."""
