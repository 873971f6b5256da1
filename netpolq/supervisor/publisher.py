"""The supervisor's end of the channel: seals and sends snapshots, keeps a copy for the next start, tracks each worker's version."""

import asyncio
import logging
import os
import time

from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from netpolq.ipc.channel import (
    MAX_CHANGED,
    MAX_UNREAD,
    Channel,
    Counters,
    Heartbeat,
    Hints,
    Logging,
    PeerGone,
    Publish,
    Refusal,
    Report,
    RulesetInstalled,
    StandDown,
    StoodDown,
    Taken,
    Welcome,
)
from netpolq.snapshot import memfd
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.supervisor.snapshot_file import SnapshotFile

_RETRY_S = 1.0
_HEARTBEAT_S = 1.0

log = logging.getLogger("publisher")


class Publisher:
    """Publishes snapshots and reads the messages of the pool.

    Called back: `on_progress` when a worker reports; `on_hints` when a worker has repeated decisions; `on_publish` when a snapshot was
    sent, with its version, the addresses that it may evaluate differently (None: all), and its memfd; `on_peer_gone` when the agent that
    this one replaces has left; `on_refusal` a second after the pool has refused a snapshot: then everything must be published again;
    `on_end` when the pool has closed the channel.
    """

    def __init__(
        self,
        channel: Channel,
        image_path: Path,
        *,
        on_progress: Callable[[], None],
        on_hints: Callable[[Hints], None],
        on_publish: Callable[[int, Collection[bytes] | None, int], None],
        on_peer_gone: Callable[[], None],
        on_refusal: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._snapshot_file = SnapshotFile(image_path)
        self._on_progress = on_progress
        self._on_hints = on_hints
        self._on_publish = on_publish
        self._on_peer_gone = on_peer_gone
        self._on_refusal = on_refusal
        self._on_end = on_end
        self._stood_down = asyncio.Event()
        self._is_complete = False
        self._unread: list[int] = []
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.welcomed = asyncio.Event()
        self.version = 0
        self.published = 0
        self.image_bytes = 0
        self.published_ns = 0
        self.supervisor_restarts = 0
        self.refusals = 0
        self.workers: dict[int, Report] = {}
        self.memories: dict[int, int] = {}
        """Descriptors of the workers' counter memories, by metrics file id."""

    async def send_heartbeats(self) -> None:
        """Send a heartbeat every second, which shows that the event loop runs. Runs until cancelled."""
        while True:
            self._channel.send(Heartbeat(self.version))
            await asyncio.sleep(_HEARTBEAT_S)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read messages from now on."""
        loop.add_reader(self._channel.fileno(), self._read)

    def _read(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                message, descriptor = received
                match message:
                    case Report() as report:
                        self.workers[report.slot] = report
                        self._on_taken(report.acked_version)
                        self._on_progress()
                    case Hints() as hints:
                        self._on_hints(hints)
                    case Refusal() as refusal:
                        self.refusals += 1
                        log.error("worker %d refused snapshot %d: %s", *refusal)
                    case Counters(metrics_file_id) if descriptor is not None:
                        self.memories[metrics_file_id] = descriptor
                    case Taken(version, problem):
                        self._on_taken(version)
                        if problem:
                            self._refused(version, problem)
                    case Welcome(version, restarts):
                        self.version = version
                        self.supervisor_restarts = restarts
                        self.welcomed.set()
                    case StoodDown():
                        self._stood_down.set()
                        self._snapshot_file.begin()
                    case PeerGone():
                        self._on_peer_gone()
                    case _:
                        log.error("unexpected message %r", message)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self.welcomed.set()  # no welcome can arrive any more; the waiting task must go on
            self._has_room.set()
            self._on_end()
        except ValueError as error:
            log.error("message ignored: %s", error)

    def _on_taken(self, version: int) -> None:
        self._unread = [sent for sent in self._unread if sent > version]
        if len(self._unread) < MAX_UNREAD:
            self._has_room.set()

    def _refused(self, version: int, problem: str) -> None:
        self.refusals += 1
        log.error("the pool refused snapshot %d: %s; publishing everything again", version, problem)
        self._is_complete = False
        asyncio.get_running_loop().call_later(_RETRY_S, self._on_refusal)

    async def room(self) -> None:
        """Wait until the pool has read all but a few snapshots: each unread one stays in memory as a whole."""
        await self._has_room.wait()

    def publish(self, builder: SnapshotBuilder, changed: Collection[bytes]) -> int:
        """Send a snapshot to every worker, unless nothing has changed. Returns its version.

        `changed`: addresses whose flows it may evaluate differently than the previous one. Raises `ConnectionError`.
        """
        if self._is_complete and not builder.is_touched:
            return self.version
        announced = tuple(sorted(changed)) if self._is_complete and len(changed) <= MAX_CHANGED else None
        # After a failure below the changed addresses are lost, so the next publish must be a complete one.
        self._is_complete = False
        descriptor = memfd.seal(*builder.pieces(version=self.version + 1, created_ns=time.time_ns()))
        try:
            self._snapshot_file.outdate()
            if not self._channel.send(Publish(self.version + 1, announced), [descriptor]):
                raise ConnectionError("the pool does not accept the snapshot")
            self._is_complete = True
            self.version += 1
            self._unread.append(self.version)
            if len(self._unread) >= MAX_UNREAD:
                self._has_room.clear()
            self.published += 1
            self.image_bytes = os.fstat(descriptor).st_size
            self.published_ns = time.monotonic_ns()
            self._on_publish(self.version, announced, descriptor)
            self._snapshot_file.keep(descriptor)
        finally:
            os.close(descriptor)
        return self.version

    async def stand_down(self) -> None:
        """Wait until no other agent changes the ruleset. Returns at once unless there is a takeover."""
        while not self._stood_down.is_set():
            self._channel.send(StandDown())
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._stood_down.wait()

    def send_ruleset_installed(self) -> None:
        """Report that the ruleset is installed: the agent that this one replaces may leave."""
        self._channel.send(RulesetInstalled())

    def send_logging(self, logging_settings: Logging) -> bool:
        """Change what pool and workers log. Returns whether the message was sent."""
        return self._channel.send(logging_settings)

    async def leave(self) -> None:
        """Finish writing the snapshot file. Nothing is published afterwards."""
        await self._snapshot_file.leave()

    @property
    def keeping_problem(self) -> str | None:
        """Why the newest snapshot is not kept for the next start, or None."""
        return self._snapshot_file.problem

    @property
    def acknowledged_version(self) -> int:
        """The version that every worker has at least; 0 while a slot has no worker or a worker no snapshot."""
        return min((report.acked_version for report in self.workers.values()), default=0)

    def late_workers(self, limit_s: float) -> list[int]:
        """Slots without the newest version, if it was published longer ago than the limit."""
        if time.monotonic_ns() - self.published_ns < limit_s * 1e9:
            return []
        return [slot for slot, report in sorted(self.workers.items()) if report.acked_version < self.version]
