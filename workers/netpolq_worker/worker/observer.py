"""What a worker logs of its packets: each of them (`--v=2`), those that are denied (`--log-denied`), both or neither.

Nothing of this may cost a packet: whatever fails here ends as a line in the log.
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


class _Judges(Protocol):
    @property
    def view(self) -> SnapshotReader | None:
        """The snapshot that packets are judged by; None: there is none yet."""
        ...


class Observer:
    """Logs the packets of one queue. `fail_verdict`: what a packet is answered with when there is no decision."""

    def __init__(self, queue_num: int, flow_cache: _Judges, fail_verdict: Verdict, settings: Logging) -> None:
        self._queue_num = queue_num
        self._flow_cache = flow_cache
        self._fail_verdict = fail_verdict
        self._packet_log = PacketLog(queue_num)
        self._denied_log = DeniedLog(queue_num)
        self._settings = settings

    def configure(self, settings: Logging) -> None:
        """Log this from now on."""
        self._settings = settings

    @property
    def observe_if_needed(self) -> Observe | None:
        """What is to be told of each packet (see `netpolq_worker.worker.packet_loop.WorkerContext.observe`); None: nothing is logged."""
        return self._observe if self._settings.denied or logs_packets(self._settings.verbosity) else None

    def _observe(self, packet: Packet, is_reply: bool, verdict: int | None, started_ns: int) -> None:  # positional for speed
        try:
            decision = None if verdict is None else Verdict(verdict)
            is_dropped = (self._fail_verdict if decision is None else decision) is Verdict.DROP
            view = self._flow_cache.view
            if is_dropped and self._settings.denied:
                duration_ns = time.monotonic_ns() - started_ns
                self._denied_log.note(packet.get_payload(), view, decision, self._fail_verdict, duration_ns, is_reply=is_reply)
            elif logs_packets(self._settings.verbosity):
                draft = self._packet_log.draft(packet.get_payload, view, is_reply=is_reply)
                if draft is not None:
                    self._packet_log.write(draft, decision, self._fail_verdict, time.monotonic_ns() - started_ns)
        except Exception:  # a line in the log is not worth a packet
            log.exception("a packet on queue %d could not be logged", self._queue_num)

    def tell_suppressed(self) -> None:
        """Say how many packets got no line. To be called a few times a second."""
        self._packet_log.tell_suppressed()
        self._denied_log.tell_suppressed()
