"""Worker processes as the pool makes and knows them: forked, not executed, so that they share its memory and inherit the bound queues."""

import heapq
import logging
import os
import signal
import socket

from dataclasses import dataclass, field
from typing import NoReturn

from netpolq.ipc import counter_memory
from netpolq.ipc.channel import MAX_UNREAD, Channel, Publish
from netpolq_worker.pool.args import PoolOptions
from netpolq_worker.worker.loop import Worker
from netpolq_worker.worker.nfqueue import Queue
from netpolq_worker.worker.packet_loop import handle_packets
from netpolq_worker.worker.sandbox import Sandbox
from netpolq_worker.worker.standby import StandbyWorker, WorkerSettings

_MAX_DESCRIPTOR = 0x7FFFFFFF
_STANDARD_STREAMS = (0, 1, 2)

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest one, for those that are forked. `version` 0: there is none, and `descriptor` is -1."""

    version: int = 0
    descriptor: int = -1


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """A worker's process. `slot` None: it is the standby. `seat`: whose memory of counters it has; free again when it is dead.

    `behind`: a publish was not sent to it or was refused by it, so it is to be sent the newest one, as "everything", from `retry_due` on
    (monotonic seconds). `unread`: versions that it has not said it has read.
    """

    pid: int
    seat: int
    channel: Channel
    slot: int | None = None
    behind: bool = False
    retry_due: float = 0.0
    unread: list[int] = field(default_factory=list)

    def publish(self, snapshot: Snapshot, changed: tuple[bytes, ...] | None) -> None:
        """Send it the newest snapshot, unless it has enough to read: then it gets the newest one later. `changed` as in `Publish`."""
        message = Publish(snapshot.version, None if self.behind else changed)
        self.behind = len(self.unread) >= MAX_UNREAD or not self.channel.send(message, [snapshot.descriptor])
        if not self.behind:
            self.unread.append(snapshot.version)

    def refused(self, version: int, retry_due: float) -> None:
        """It could not use a snapshot."""
        self.has_read(version)
        self.behind, self.retry_due = True, retry_due

    def has_read(self, version: int) -> None:
        """It has read all snapshots up to this version."""
        self.unread = [sent for sent in self.unread if sent > version]


class WorkerSpawner:
    """Binds the queues and spawner processes that can serve any of them."""

    def __init__(self, options: PoolOptions) -> None:
        """Raises `NetpolqError`."""
        self._options = options
        # Known to a worker alone: the pool binds the queues, and judges nothing.
        self._worker: Worker | None = None
        self.logging = options.logging
        self.queues = tuple(self._bind(num) for num in options.queues)
        self._confinement = Sandbox()
        # A counter goes on where the dead process of the same seat stopped, and never has two writers. Few seats: each takes memory.
        self.memories: list[int] = []
        """Descriptors of the memories of counters, by seat."""
        self._free_seats: list[int] = []

    def _bind(self, queue_num: int) -> Queue:
        def serving() -> Worker | None:
            return self._worker

        judging = handle_packets(serving)
        next(judging)
        return Queue(queue_num, judging, fail_open=self._options.fail_open)

    def fork(self, snapshot: Snapshot) -> WorkerProcess:
        """Another process. It is a standby until it is sent `Serve`. Raises `OSError` where none can be had."""
        if not self._free_seats:
            self.memories.append(counter_memory.make())
            self._free_seats.append(len(self.memories) - 1)
        seat = self._free_seats[0]
        ours, theirs = Channel.pair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._be_worker(seat, theirs, snapshot)
        heapq.heappop(self._free_seats)
        return WorkerProcess(pid, seat, ours)

    def bury(self, worker: WorkerProcess) -> None:
        """It is dead, and what it said has been read."""
        worker.channel.close()
        heapq.heappush(self._free_seats, worker.seat)

    def _be_worker(self, seat: int, end: socket.socket, snapshot: Snapshot) -> NoReturn:
        """The child's side of the fork. Leaves by `os._exit` alone: the pool's objects must not be torn down a second time."""
        status = 1
        try:
            # Signals to the whole process group are the pool's to answer: it drains its workers. The handlers that are inherited only
            # note them, in a list that nobody reads here.
            signal.set_wakeup_fd(-1)
            queues = {descriptor for queue in self.queues for descriptor in queue.descriptors()}
            memory = self.memories[seat]
            _close_all_but({*_STANDARD_STREAMS, *queues, end.fileno(), snapshot.descriptor, memory})
            settings = WorkerSettings(
                seat=seat,
                memory=memory,
                fail_open=self._options.fail_open,
                mark_mask=self._options.mark_mask,
                hints=self._options.hints,
                logging=self.logging,
                snapshot_version=snapshot.version,
                snapshot_descriptor=snapshot.descriptor,
            )
            spare = StandbyWorker(settings, self.queues, Channel(end))
            self._confinement.apply()
            self._worker = spare.wait()
            if self._worker is not None:
                self._worker.run()
            status = 0
        except BaseException:
            log.exception("worker failed")
        finally:
            os._exit(status)


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for descriptor in sorted(kept):
        if descriptor > first:  # an empty range, or a negative end, would be taken for all there are
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _MAX_DESCRIPTOR)
