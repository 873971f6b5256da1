"""The observer of packets in a worker: logs each packet (`--v=2`), the denied ones (`--log-denied`), both or neither.

A failure here must not cost a packet: it ends as a line in the log.
"""

import logging
import time

from collections.abc import Callable
from typing import Protocol

from netpolq.enums import Verdict
from netpolq.ipc.channel import Logging
from netpolq.logs import PACKET_LOG, logs_packets
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.denied_log import DeniedLog
from netpolq_worker.worker.nfqueue import Packet
from netpolq_worker.worker.packet_log import PacketLog

Observe = Callable[[Packet, bool, int | None, int], None]

log = logging.getLogger(PACKET_LOG)


class _HasView(Protocol):
    @property
    def view(self) -> SnapshotReader | None:
        """The snapshot that packets are evaluated with; None: there is none yet."""
        ...


class Observer:
    """Logs the packets of one queue. `fail_verdict`: the verdict of a packet without a decision."""

    def __init__(self, queue_num: int, flow_cache: _HasView, fail_verdict: Verdict, settings: Logging) -> None:
        self._queue_num = queue_num
        self._flow_cache = flow_cache
        self._fail_verdict = fail_verdict
        self._packet_log = PacketLog(queue_num)
        self._denied_log = DeniedLog(queue_num)
        self._settings = settings

    def configure(self, settings: Logging) -> None:
        """Apply log settings from now on."""
        self._settings = settings

    @property
    def observe_if_needed(self) -> Observe | None:
        """The callback for each packet (see `netpolq_worker.worker.packet_loop.WorkerContext`); None: nothing is logged."""
        return self._observe if self._settings.denied or logs_packets(self._settings.verbosity) else None

    def _observe(self, packet: Packet, is_reply: bool, verdict: int | None, started_ns: int) -> None:  # positional for speed
        try:
            decision = None if verdict is None else Verdict(verdict)
            is_dropped = (self._fail_verdict if decision is None else decision) is Verdict.DROP
            view = self._flow_cache.view
            if is_dropped and self._settings.denied:
                duration_ns = time.monotonic_ns() - started_ns
                self._denied_log.record(packet.get_payload(), view, decision, self._fail_verdict, duration_ns, is_reply=is_reply)
            elif logs_packets(self._settings.verbosity):
                line = self._packet_log.prepare(packet.get_payload, view, is_reply=is_reply)
                if line is not None:
                    self._packet_log.write(line, decision, self._fail_verdict, time.monotonic_ns() - started_ns)
        except Exception:  # a log line must not cost a packet
            log.exception("cannot log a packet on queue %d", self._queue_num)

    def log_suppressed(self) -> None:
        """Log how many packets got no line. Call it a few times a second."""
        self._packet_log.log_suppressed()
        self._denied_log.log_suppressed()
