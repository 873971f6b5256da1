"""Worker processes and their spawner. Workers are forked, not executed: they share the pool's memory and inherit the bound queues."""

import heapq
import logging
import os
import socket

from dataclasses import dataclass, field

from netpolq.enums import FlowsMode
from netpolq.ipc import counter_memory, flow_memory
from netpolq.ipc.agent_settings import Settings
from netpolq.ipc.channel import MAX_UNREAD, Channel, Counters, FlowMemory, Publish
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq_worker.pool.fork import fork_child
from netpolq_worker.waiting import table
from netpolq_worker.waiting.packet_loop import hold_packets
from netpolq_worker.waiting.process import WAITING_QUEUE_PACKETS, WaitingProcess
from netpolq_worker.worker.answer_sockets import AnswerSockets, open_answer_sockets
from netpolq_worker.worker.loop import Worker
from netpolq_worker.worker.nfqueue import Queue
from netpolq_worker.worker.packet_loop import handle_packets
from netpolq_worker.worker.sandbox import Sandbox
from netpolq_worker.worker.standby import StandbyWorker, WorkerSettings

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True)
class SnapshotHandle:
    """Version and memfd of a snapshot. `version` 0: there is none, and `descriptor` is -1."""

    version: int = 0
    descriptor: int = -1


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """The process of a worker, and the snapshots that the pool has sent to it.

    `slot` None: it is the standby worker. `metrics_file_id`: the metrics memory that it writes to; free again after `reap`.
    `behind`: a publish was not sent to it, or it has refused one. The pool then sends the newest snapshot, with everything changed, from
    `retry_due` on (monotonic seconds). `unread`: versions sent to it that it has not acknowledged.
    """

    pid: int
    metrics_file_id: int
    channel: Channel
    slot: int | None = None
    behind: bool = False
    retry_due: float = 0.0
    unread: list[int] = field(default_factory=list)

    def publish(self, snapshot: SnapshotHandle, changed: tuple[bytes, ...] | None) -> None:
        """Send the newest snapshot, or mark the process as behind if it has `MAX_UNREAD` unread ones. `changed` as in `Publish`."""
        message = Publish(snapshot.version, None if self.behind else changed)
        self.behind = len(self.unread) >= MAX_UNREAD or not self.channel.send(message, [snapshot.descriptor])
        if not self.behind:
            self.unread.append(snapshot.version)

    def refused(self, version: int, retry_due: float) -> None:
        """Record that the worker could not use a snapshot."""
        self.has_read(version)
        self.behind, self.retry_due = True, retry_due

    def has_read(self, version: int) -> None:
        """Record that the worker has read all snapshots up to this version."""
        self.unread = [sent for sent in self.unread if sent > version]


class WorkerSpawner:
    """Binds the queues and forks processes that can serve any of them."""

    def __init__(self, settings: Settings) -> None:
        """Raises `NetpolqError`."""
        self._settings = settings
        # Set in a worker process only: the pool binds the queues and evaluates nothing.
        self._worker: Worker | None = None
        self.logging = settings.logging
        self._unknown_peers = AddressRanges(settings.hold_unknown_peers)
        self.queues = (*(self._bind(num) for num in settings.queues.numbers), self._bind_waiting(settings.waiting_queue))
        """Those of the workers, and the waiting queue."""
        self.held_table = table.make()
        """Descriptor of what the waiting process holds."""
        self._answer_sockets = _answer_sockets()
        self.sandbox = Sandbox(answer_sockets=self._answer_sockets)
        # A new process continues the counters of a dead one with the same id, and a memory never has two writers. The lowest free id is
        # used first, because each memory takes room.
        self.memories: list[int] = []
        """Descriptors of the metrics memories, by metrics file id."""
        self.flow_memories: dict[int, int] = {}
        """Descriptors of the flow memories, by metrics file id; there are none if flows are not recorded."""
        self.announced: list[tuple[Counters | FlowMemory, int]] = []
        """All of these memories, with the messages that announce them to the supervisor."""
        self._free_metrics_file_ids: list[int] = []

    def _bind(self, queue_num: int) -> Queue:
        def context() -> Worker | None:
            return self._worker

        packet_handler = handle_packets(context)
        next(packet_handler)
        return Queue(queue_num, packet_handler, fail_open=self._settings.fail_open)

    def _bind_waiting(self, queue_num: int) -> Queue:
        def context() -> WaitingProcess | None:
            return self._worker if isinstance(self._worker, WaitingProcess) else None

        packet_handler = hold_packets(context)
        next(packet_handler)
        return Queue(queue_num, packet_handler, fail_open=self._settings.fail_open, max_packets=WAITING_QUEUE_PACKETS)

    def spawn(self, snapshot: SnapshotHandle) -> WorkerProcess:
        """Fork a process. It is a standby worker until it receives `Serve`. Raises `OSError` if the kernel refuses the process."""
        if not self._free_metrics_file_ids:
            self._free_metrics_file_ids.append(self._new_memories())
        metrics_file_id = self._free_metrics_file_ids[0]
        memory, flows = self.memories[metrics_file_id], self.flow_memories.get(metrics_file_id, -1)
        queues = (descriptor for queue in self.queues for descriptor in queue.descriptors())
        answering = () if self._answer_sockets is None else self._answer_sockets.descriptors()
        pid, channel = fork_child(
            "worker",
            (*queues, snapshot.descriptor, memory, flows, self.held_table, *answering),
            lambda end: self._run_worker(metrics_file_id, end, snapshot),
        )
        heapq.heappop(self._free_metrics_file_ids)
        return WorkerProcess(pid, metrics_file_id, channel)

    def new_memory(self) -> int:
        """The metrics file id of a new memory. Raises `OSError` without free memory."""
        self.memories.append(counter_memory.make())
        metrics_file_id = len(self.memories) - 1
        self.announced.append((Counters(metrics_file_id), self.memories[metrics_file_id]))
        return metrics_file_id

    def _new_memories(self) -> int:
        """The metrics file id of new memories of a worker. Raises `OSError` without free memory."""
        flows = None if self._settings.flows is FlowsMode.OFF else flow_memory.make()
        try:
            metrics_file_id = self.new_memory()
        except OSError:
            if flows is not None:
                os.close(flows)
            raise
        if flows is not None:
            self.flow_memories[metrics_file_id] = flows
            self.announced.append((FlowMemory(metrics_file_id), flows))
        return metrics_file_id

    def close(self) -> None:
        """Close what new processes would inherit beside the queues."""
        os.close(self.held_table)
        for descriptor in (*self.memories, *self.flow_memories.values()):
            os.close(descriptor)
        if self._answer_sockets is not None:
            self._answer_sockets.close()

    def reap(self, worker: WorkerProcess) -> None:
        """Free what the pool keeps for a process that has exited and whose messages have been read."""
        worker.channel.close()
        heapq.heappush(self._free_metrics_file_ids, worker.metrics_file_id)

    def _run_worker(self, metrics_file_id: int, end: socket.socket, snapshot: SnapshotHandle) -> None:
        """Be a worker, in the forked child."""
        worker_settings = WorkerSettings(
            metrics_file_id=metrics_file_id,
            memory=self.memories[metrics_file_id],
            flow_memory=self.flow_memories.get(metrics_file_id),
            denied_flows_only=self._settings.flows is FlowsMode.DENIED,
            fail_open=self._settings.fail_open,
            mark_mask=self._settings.mark_mask,
            hints=self._settings.hints,
            waiting_queue=self._settings.waiting_queue,
            held_table=self.held_table,
            hold_timeout_s=self._settings.hold_timeout_s,
            unknown_peers=self._unknown_peers,
            logging=self.logging,
            snapshot_version=snapshot.version,
            snapshot_descriptor=snapshot.descriptor,
            answer_sockets=self._answer_sockets,
        )
        standby = StandbyWorker(worker_settings, self.queues, Channel(end))
        self.sandbox.apply()
        self._worker = standby.wait()
        if self._worker is not None:
            self._worker.run()


def _answer_sockets() -> AnswerSockets | None:
    """The sockets for answers to denied packets; None without CAP_NET_RAW. Annotations may want answers at any time."""
    try:
        return open_answer_sockets()
    except OSError as error:
        log.debug("no answers to denied packets: cannot open a raw socket: %s", error.strerror)
        return None
