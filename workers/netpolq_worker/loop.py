"""The worker: waits for packets and messages, and does what is to be done between packets. Judging itself is in `netpolq_worker.judge`."""

import logging
import os
import select

from dataclasses import dataclass

from netpolq.channel import MAX_HINTS, Channel, Drain, Publish, Refusal, Report, pack_hints
from netpolq.enums import Verdict
from netpolq.errors import SnapshotError
from netpolq.snapshot.region import open_validated
from netpolq_worker.decide import Decider
from netpolq_worker.metrics import WorkerMetrics
from netpolq_worker.nfqueue import Queue
from netpolq_worker.packet_log import PacketLog

_FLUSH_INTERVAL_NS = 250_000_000
"""How often counters are written and the pool is told; what a killed worker had counted since is lost."""

_HINT_INTERVAL_NS = 20_000_000
_HINT_WINDOW_NS = 1_000_000_000
"""A decision is hinted at no more than once in this time."""

log = logging.getLogger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told. `inherited_packets`: judged in this slot by its predecessors.

    `snapshot_version` 0: there is no snapshot yet; otherwise `snapshot_descriptor` holds it, inherited, so that the very first packet
    can be judged. `hints`: tell which decisions are asked for again. `suspect_orphans`: the predecessor may have died of what it had read.
    """

    slot: int
    fail_open: bool
    mark_mask: int
    inherited_packets: int
    snapshot_version: int
    snapshot_descriptor: int
    hints: bool
    suspect_orphans: bool


class Worker:
    """Serves one queue until it is told to drain or the pool is gone. Its public fields are what `netpolq_worker.judge.Bench` asks for."""

    def __init__(self, settings: WorkerSettings, queue: Queue, channel: Channel, packet_log: PacketLog | None = None) -> None:
        self._settings = settings
        self._channel = channel
        self._packet_log = packet_log
        self.queue = queue
        queue.open_statistics()
        self.decider = Decider(with_hints=settings.hints)
        self.metrics = WorkerMetrics(settings.slot)
        self.mark_mask = settings.mark_mask
        self.fail_verdict = Verdict.ACCEPT if settings.fail_open else Verdict.DROP
        self.message_waits = False
        self._orphans_possible = True
        self._stopping = False
        self._refused = False
        self._next_flush_ns = 0
        self._next_hints_ns = 0
        self._next_window_ns = 0

    def run(self) -> None:
        """Work until drained, or until the pool has gone."""
        if self._settings.snapshot_version:
            self._adopt(self._settings.snapshot_version, None, self._settings.snapshot_descriptor)
        self._dispose_of_silent_orphans()
        poller = select.poll()
        poller.register(self.queue.fileno(), select.POLLIN)
        poller.register(self._channel.fileno(), select.POLLIN)
        self._report()
        while not self._stopping:
            interval_ns = _HINT_INTERVAL_NS if self.decider.has_hints else _FLUSH_INTERVAL_NS
            for descriptor, _events in poller.poll(interval_ns // 1_000_000):
                self.message_waits |= descriptor == self._channel.fileno()
            self.queue.receive()
        self.queue.receive()
        self.metrics.flush(self.decider.misses)

    # --- what was read before and not answered: by a dead predecessor, or while the queue was bound -------------------------------

    def _dispose_of_silent_orphans(self) -> None:
        """Without a new packet, `dispose_of_orphans` would never run: if nothing waits to be read, all that was queued are orphans."""
        last_id = self.queue.last_id()
        if last_id and not self.queue.has_waiting():
            self.dispose_of_orphans(last_id)

    def dispose_of_orphans(self, last_id: int) -> None:
        """Answer everything up to an id as the failure mode says: ids rise in order of delivery, so all of it was read by others.

        If the predecessor may have died of it, it is dropped in either mode: a packet that kills workers must not pass because it does.
        Nothing the second time.
        """
        if self._orphans_possible:
            self._orphans_possible = False
            if last_id > 0:
                suspect = self._settings.suspect_orphans
                orphans = self.queue.dispose_up_to(last_id, Verdict.DROP if suspect else self.fail_verdict)
                if orphans:
                    self.metrics.failed_packets("suspect" if suspect else "orphaned", orphans)
                    log.warning(
                        "worker %d: %d packets that its predecessor had read were %s",
                        self._settings.slot,
                        orphans,
                        "dropped" if suspect or not self._settings.fail_open else "let through",
                    )

    # --- messages -----------------------------------------------------------------------------------------------------------------

    def housekeeping(self, now_ns: int) -> None:
        """What is to be done between packets, when none is remembered. `now_ns`: monotonic."""
        self.message_waits = False
        try:
            while (received := self._channel.receive()) is not None:
                message, descriptor = received
                match message:
                    case Publish(version, changed) if descriptor is not None:
                        self._adopt(version, changed, descriptor)
                    case Drain():
                        self._stopping = True
                    case _:
                        log.error("worker %d: unexpected message %r", self._settings.slot, message)
        except EOFError:
            self._stopping = True
        except ValueError as error:
            log.error("worker %d: message ignored: %s", self._settings.slot, error)
        if now_ns >= self._next_hints_ns and self.decider.has_hints:
            self._next_hints_ns = now_ns + _HINT_INTERVAL_NS
            self._hint()
        if now_ns >= self._next_flush_ns:
            self._next_flush_ns = now_ns + _FLUSH_INTERVAL_NS
            self.metrics.flush(self.decider.misses)
            self._report()
            if now_ns >= self._next_window_ns:
                self._next_window_ns = now_ns + _HINT_WINDOW_NS
                self.decider.begin_window()
            if self._packet_log is not None:
                self._packet_log.tell_suppressed()

    def _hint(self) -> None:
        view = self.decider.view
        if view is not None:
            # If it cannot be sent, these decisions are hinted at again in the next window.
            self._channel.send(pack_hints(view.version, self.decider.take_hints(MAX_HINTS)))

    def _adopt(self, version: int, changed: tuple[bytes, ...] | None, descriptor: int) -> None:
        try:
            view = open_validated(descriptor)
            if view.version != version:
                raise SnapshotError(f"version {view.version} came as version {version}")
            # After a refusal, what the refused version changed is not known here.
            self.decider.adopt(view, None if self._refused else changed)
        except (SnapshotError, OSError) as error:
            self._refused = True
            self._channel.send(Refusal(self._settings.slot, version, str(error)))
            return
        finally:
            os.close(descriptor)
        self._refused = False
        self._report()

    def _report(self) -> None:
        view = self.decider.view
        self._channel.send(
            Report(
                slot=self._settings.slot,
                pid=os.getpid(),
                queue_num=self.queue.queue_num,
                acked_version=view.version if view is not None else 0,
                packets=self._settings.inherited_packets + self.metrics.packets,
                restarts=0,
            )
        )
