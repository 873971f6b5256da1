"""The rejecter of a worker: answers denied packets whose decision says so, up to a rate, through raw sockets.

It is called after the packet was dropped, and must not cost a packet: it neither raises nor waits. A flood gets a bounded number of
answers. From the first refusal on, its decisions may be cached in the kernel, as other denials are.
Not covered: packets in reply direction, whose sender has opened no connection.
"""

import logging
import socket

from collections.abc import Callable

from netpolq.netlink.nftables import open_socket
from netpolq.netlink.original_destinations import original_destination
from netpolq_worker.worker.answer_limit import AnswerLimit
from netpolq_worker.worker.answer_sockets import AnswerSockets
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.metrics import RejectOutcome, WorkerMetrics
from netpolq_worker.worker.packet import WITH_PORTS, parse
from netpolq_worker.worker.reject import Denied, Destination, answer_to, answerable

TABLE = "netpolq"
"""The table of `netpolq.dataplane`, which has the maps of original destinations."""

Reject = Callable[[bytes, int, int], None]

log = logging.getLogger("worker")


class Rejecter:
    """Answers denied packets. `sockets` None: nothing is answered. Opens a netlink socket, so it must be made outside the sandbox."""

    def __init__(
        self,
        sockets: AnswerSockets | None,
        flow_cache: FlowCache,
        metrics: WorkerMetrics,
    ) -> None:
        self._sockets = {} if sockets is None else sockets.sockets
        self._flow_cache = flow_cache
        self._metrics = metrics
        self._limit = AnswerLimit()
        self._netlink: socket.socket | None = open_socket() if self._sockets else None

    @property
    def reject_if_needed(self) -> Reject | None:
        """The callback for each packet that was dropped, with its answer of the flow cache; None: no decision is answered."""
        return self.reject if self._sockets and self._is_wanted else None

    @property
    def lacks_sockets(self) -> bool:
        """Whether decisions want answers that this process cannot send."""
        return not self._sockets and self._is_wanted

    @property
    def _is_wanted(self) -> bool:
        view = self._flow_cache.view
        return view is not None and view.has_rejections

    def close(self) -> None:
        """Close the netlink socket."""
        if self._netlink is not None:
            self._netlink.close()

    def reject(self, packet: bytes, answer: int, now_ns: int) -> None:
        """Answer a denied packet in original direction. `packet`: from the IP header on; `answer`: of the flow cache, `ANSWER_REJECTED`."""
        try:
            client = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
            if self._limit.take(client, now_ns):
                outcome = self._send(packet, client)
            else:
                outcome = RejectOutcome.LIMITED
                if self._flow_cache.with_hints:
                    self._hint(packet, answer)
        except Exception:
            outcome = RejectOutcome.FAILED
            log.exception("cannot answer a denied packet")
        self._metrics.count_reject(outcome, answer)

    def _hint(self, packet: bytes, answer: int) -> None:
        flow = parse(packet)
        if flow is not None:
            source, destination, protocol, _source_port, destination_port = flow
            self._flow_cache.hint_denial((source, destination, protocol, destination_port), answer)

    def _send(self, packet: bytes, client: bytes) -> RejectOutcome:
        denied = answerable(packet)
        if denied is None:
            return RejectOutcome.UNSUITABLE
        try:
            built = answer_to(denied, self._asked(denied))
            if built is None:
                return RejectOutcome.UNSUITABLE
            to = socket.inet_ntop(socket.AF_INET if len(client) == 4 else socket.AF_INET6, client)
            self._sockets[len(client)].sendto(built, (to, 0))
        except (OSError, KeyError):
            return RejectOutcome.FAILED
        return RejectOutcome.SENT

    def _asked(self, denied: Denied) -> Destination:
        """The destination that the sender has asked for."""
        if self._netlink is None or denied.protocol not in WITH_PORTS:
            return denied.destination
        source = denied.source, denied.source_port
        noted = original_destination(self._netlink, TABLE, denied.protocol, source, denied.destination)
        return denied.destination if noted is None else Destination(*noted)
