"""Reader of the pool's messages: passes each to the part of the supervisor that it concerns."""

import asyncio
import logging
import os
import time

from netpolq.ipc.channel import (
    Answer,
    Channel,
    Counters,
    FlowMemory,
    Hints,
    Message,
    PeerGone,
    Refusal,
    Report,
    StoodDown,
    Taken,
    Welcome,
)
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout_events import Noticed, OtherAgentLeft, Refused, WorkerReported

_REPUBLISH_S = 1.0

log = logging.getLogger("publisher")


class PoolReader:
    """Reads the channel.

    `workers`: the last report of each worker's slot. `waiting`: that of the waiting process, None before the first. `memories`:
    descriptors of the workers' counter memories, by metrics file id. `refusals`: snapshots that a worker or the pool refused.
    `pool_gone`: set when the pool has closed the channel. `other_agent_left`: set when the agent that this one replaces has left.
    """

    def __init__(
        self,
        channel: Channel,
        progress: Progress,
        publisher: Publisher,
        verdict_cache: VerdictCache | None,
        names: LearnedNames,
        flows: FlowIntake | None,
        welcome: Welcome,
        *,
        worker_count: int,
    ) -> None:
        self._channel = channel
        self._worker_count = worker_count
        self._progress = progress
        self._publisher = publisher
        self._verdict_cache = verdict_cache
        self._names = names
        self._flows = flows
        self.supervisor_restarts = welcome.supervisor_restarts
        self.refusals = 0
        self.workers: dict[int, Report] = {}
        self.waiting: Report | None = None
        self.memories: dict[int, int] = {}
        self.pool_gone = asyncio.Event()
        self.other_agent_left = asyncio.Event()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read messages from now on, until the pool closes the channel."""
        loop.add_reader(self._channel.fileno(), self._read, loop)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                received = self._channel.receive()
                if received is None:
                    return
                self._take(*received)
            except EOFError:
                loop.remove_reader(self._channel.fileno())
                self.pool_gone.set()
                return
            except ValueError as error:
                log.error("message ignored: %s", error)

    def _take(self, message: Message, descriptor: int | None) -> None:
        match message:
            case Report(slot=slot, acked_version=version):
                self._progress.send(WorkerReported(slot, version))
                self._publisher.taken(version)
                if slot < self._worker_count:
                    self.workers[slot] = message
                else:
                    self.waiting = message
            case Hints():
                if self._verdict_cache is not None:
                    self._verdict_cache.hinted(message)
            case Answer():
                self._names.answered(message)
            case Refusal(slot, version, problem):
                self.refusals += 1
                process = f"worker {slot}" if slot < self._worker_count else "the waiting process"
                log.error("%s refused snapshot %d: %s", process, version, problem)
            case Counters(metrics_file_id) if descriptor is not None:
                self.memories[metrics_file_id] = descriptor
            case FlowMemory(metrics_file_id) if descriptor is not None:
                if self._flows is None:
                    os.close(descriptor)
                else:
                    self._flows.add_memory(metrics_file_id, descriptor)
            case Taken(version, problem):
                self._publisher.taken(version)
                if problem:
                    self._refused(version, problem)
            case StoodDown():
                self._publisher.stood_down()
                self._names.stood_down()
            case PeerGone():
                self._progress.send(OtherAgentLeft())
                self.other_agent_left.set()
            case _:
                log.error("unexpected message %r", message)

    def _refused(self, version: int, problem: str) -> None:
        self.refusals += 1
        log.error("the pool refused snapshot %d: %s; publishing everything again", version, problem)
        self._progress.send(Refused())
        asyncio.get_running_loop().call_later(_REPUBLISH_S, self._republish)

    def _republish(self) -> None:
        self._progress.send(Noticed(time.monotonic_ns()))

    def missing_workers(self) -> list[int]:
        """Slots that have no worker at present or have not reported yet."""
        return [slot for slot in range(self._worker_count) if slot not in self.workers or self.workers[slot].pid == 0]

    def is_waiting_missing(self) -> bool:
        """Whether there is no waiting process at present, or it has not reported yet."""
        return self.waiting is None or self.waiting.pid == 0

    def late_workers(self, limit_s: float) -> list[int]:
        """Slots without the newest version, if it was published longer ago than the limit."""
        return [slot for slot, report in sorted(self.workers.items()) if self._is_late(report, limit_s)]

    def is_waiting_late(self, limit_s: float) -> bool:
        """Whether the waiting process does not have the newest version, if it was published longer ago than the limit."""
        return self.waiting is not None and self._is_late(self.waiting, limit_s)

    def _is_late(self, report: Report, limit_s: float) -> bool:
        is_overdue = time.monotonic_ns() - self._publisher.published_ns >= limit_s * 1e9
        return is_overdue and report.acked_version < self._progress.rollout.version


async def receive_welcome(channel: Channel) -> Welcome | None:
    """The first message of the pool; None if the pool has closed the channel. Raises `ValueError` for another message."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(channel.fileno(), readable.set)
    try:
        while (received := channel.receive()) is None:
            readable.clear()
            await readable.wait()
    except EOFError:
        return None
    finally:
        loop.remove_reader(channel.fileno())
    message, _descriptor = received
    if not isinstance(message, Welcome):
        raise ValueError(f"the first message of the pool is {message!r}")
    return message
