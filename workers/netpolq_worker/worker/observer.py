"""The observer of packets in a worker: logs each packet (`--v=2`), the denied ones (`--log-denied`), both or neither.

A failure here must not cost a packet: it ends as a line in the log.
"""

import logging
import time

from netpolq.enums import Verdict
from netpolq.ipc.channel import Logging
from netpolq.logs import PACKET_LOG, logs_packets
from netpolq_worker.worker.denied_log import DeniedLog
from netpolq_worker.worker.flow_cache import HOLD, FlowCache
from netpolq_worker.worker.packet_log import Outcome, PacketLog
from netpolq_worker.worker.packet_loop import MALFORMED, MOVED, Observe, ObservedPacket

log = logging.getLogger(PACKET_LOG)


class Observer:
    """Logs the packets of one queue. `fail_verdict`: the verdict of a packet without a decision."""

    def __init__(self, queue_num: int, flow_cache: FlowCache, fail_verdict: Verdict, settings: Logging) -> None:
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
        """The callback for each packet (see `netpolq_worker.worker.packet_loop.WorkerContext`); None: nothing is logged.

        Answer `HOLD`: the packet has waited in vain for an address. A packet that was moved is logged by the process that answers it.
        """
        return self._observe if self._settings.denied or logs_packets(self._settings.verbosity) else None

    def _observe(self, packet: ObservedPacket, is_reply: bool, answer: int, started_ns: int) -> None:  # positional for speed
        if answer == MOVED:
            return
        try:
            outcome = self._outcome(answer)
            if outcome.is_denial and self._settings.denied:
                self._denied_log.record(packet.get_payload(), outcome, time.monotonic_ns() - started_ns, is_reply=is_reply)
            elif logs_packets(self._settings.verbosity):
                self._packet_log.record(packet.get_payload(), outcome, time.monotonic_ns() - started_ns, is_reply=is_reply)
        except Exception:  # a log line must not cost a packet
            log.exception("cannot log a packet on queue %d", self._queue_num)

    def _outcome(self, answer: int) -> Outcome:
        view = self._flow_cache.view
        if answer >= 0:
            evaluation = self._flow_cache.evaluation(answer)
            return Outcome(evaluation.verdict, evaluation, view)
        return Outcome(Verdict.DROP if answer == MALFORMED else self._fail_verdict, None, view, is_unknown=answer == HOLD)

    def log_suppressed(self) -> None:
        """Log how many packets got no line. Call it a few times a second."""
        self._packet_log.log_suppressed()
        self._denied_log.log_suppressed()
