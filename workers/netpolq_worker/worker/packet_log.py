"""The packet log: a line for each packet, with the flow, the pods at both ends, the verdict, and the decision of each direction.

It is written at `--v=2` and above, up to a rate; `netpolq_worker.worker.denied_log` writes that of `--log-denied`. The decisions are those
that the packet got its verdict by; nothing is evaluated a second time.
"""

import logging
import socket
import time

from collections.abc import Callable
from typing import NamedTuple

from netpolq.addresses import address_key
from netpolq.decision import Decision, Isolation, decision_fields, decision_text
from netpolq.enums import PROTOCOL_NAMES, Reason, Verdict
from netpolq.logs import PACKET_LOG, TokenBucket
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from netpolq_worker.worker.packet import WITH_PORTS, parse

LINES_PER_S = 100
BURST_LINES = 200

log = logging.getLogger(PACKET_LOG)


class Outcome(NamedTuple):
    """The verdict of a packet. `evaluation` None: there was no decision. `view`: the snapshot in use, None: there is none yet.

    `is_unknown`: there was no decision because an address was unknown.
    """

    verdict: Verdict
    evaluation: Evaluation | None
    view: SnapshotReader | None
    is_unknown: bool = False

    @property
    def is_denial(self) -> bool:
        """Whether the packet is denied, or would be if the policies in audit were enforced."""
        return self.verdict is Verdict.DROP or (self.evaluation is not None and self.evaluation.shadow is not None)


class End(NamedTuple):
    """One end of a flow. `pod`: ns/name, None if the address is not a pod's; `port`: None if the protocol has none."""

    ip: str
    port: int | None
    pod: str | None

    def __str__(self) -> str:
        address = self.ip if self.port is None else f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"
        return address if self.pod is None else f"{address} ({self.pod})"


class _Flow(NamedTuple):
    """The flow of a packet, in the original direction of its connection."""

    protocol: str
    source: End
    destination: End


class PacketLog:
    """Logs the packets of one queue. `clock`: seconds, monotonic."""

    def __init__(self, queue_num: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue_num = queue_num
        self._bucket = TokenBucket(LINES_PER_S, BURST_LINES, clock)

    def record(self, payload: bytes, outcome: Outcome, duration_ns: int, *, is_reply: bool) -> None:
        """Write the line of a packet, unless the rate is exceeded. `payload`: from the IP header on."""
        if self._bucket.take():
            write_line(self._queue_num, payload, outcome, duration_ns, is_reply=is_reply)

    def log_suppressed(self) -> None:
        """Log how many packets got no line since the last call, if any. Call it a few times a second."""
        if suppressed := self._bucket.refused:
            fields = {"queue": self._queue_num, "suppressed": suppressed}
            log.info(
                "%d more packets not logged: the limit is %d a second",
                suppressed,
                LINES_PER_S,
                extra={"fields": fields},
            )
            self._bucket.refused = 0


def write_line(queue_num: int, payload: bytes, outcome: Outcome, duration_ns: int, *, is_reply: bool) -> None:
    """Write the line of a packet. `payload`: from the IP header on. `is_reply`: the packet itself goes the other way."""
    flow = _flow(payload, outcome.view, is_reply=is_reply)
    reason = _reason(flow, outcome)
    egress, ingress = _decisions(outcome)
    # A denial comes first and ends the evaluation; an accepted packet was decided by its egress before its ingress.
    last = ingress or egress
    verdict = outcome.verdict.name.lower()
    processing_us = round(duration_ns / 1000, 1)
    fields = {
        "queue": queue_num,
        "verdict": verdict,
        "reason": reason,
        "direction": None if last is None else last.direction.name.lower(),
        "policy": None if last is None or isinstance(last, Isolation) else last.policy,
        "egress": decision_fields(egress),
        "ingress": decision_fields(ingress),
        "audit": _audit_fields(outcome),
        "protocol": None if flow is None else flow.protocol,
        **_end_fields("source", None if flow is None else flow.source),
        **_end_fields("destination", None if flow is None else flow.destination),
        "reply": is_reply,
        "snapshot": 0 if outcome.view is None else outcome.view.version,
        "processing_us": processing_us,
    }
    subject = "" if flow is None else f" {flow.protocol} {flow.source} -> {flow.destination}"
    why = ", ".join(
        [reason, *(decision_text(decision) for decision in (egress, ingress) if decision is not None), *_audit(outcome)]
    )
    reply = " (a reply)" if is_reply else ""
    log.info("%s%s%s: %s, %.1f us", verdict, subject, reply, why, processing_us, extra={"fields": fields})


def _flow(payload: bytes, view: SnapshotReader | None, *, is_reply: bool) -> _Flow | None:
    """The flow of a packet; None if it is malformed."""
    parsed = parse(payload)
    if parsed is None:
        return None
    source, destination, protocol, source_port, destination_port = parsed
    ends = _end(view, source, protocol, source_port), _end(view, destination, protocol, destination_port)
    first, second = reversed(ends) if is_reply else ends
    return _Flow(PROTOCOL_NAMES.get(protocol, str(protocol)), first, second)


def _end(view: SnapshotReader | None, address: bytes, protocol: int, port: int) -> End:
    return End(
        socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address),
        port if protocol in WITH_PORTS else None,
        None if view is None else view.pod_name(address_key(address)),
    )


def _reason(flow: _Flow | None, outcome: Outcome) -> str:
    """A label of `netpolq.enums.Reason`, or `malformed`, `unknown-address`, `no-snapshot`, `error`."""
    if flow is None:
        return "malformed"
    if outcome.is_unknown:
        return "unknown-address"
    if outcome.evaluation is None:
        return "no-snapshot" if outcome.view is None else "error"
    reason = outcome.evaluation.reason
    if flow.source.ip == flow.destination.ip and reason is Reason.NOT_ISOLATED:
        return Reason.SAME_ADDRESS.label
    return reason.label


def _decisions(outcome: Outcome) -> tuple[Decision | None, Decision | None]:
    evaluation, view = outcome.evaluation, outcome.view
    if evaluation is None or view is None:
        return None, None
    return view.decision(evaluation.egress), view.decision(evaluation.ingress)


def _audit(outcome: Outcome) -> list[str]:
    """What would become of the packet if the policies in audit were enforced, in words; empty: the same."""
    shadow = None if outcome.evaluation is None else outcome.evaluation.shadow
    if shadow is None or outcome.view is None:
        return []
    decisions = (outcome.view.decision(number) for number in (shadow.egress, shadow.ingress))
    why = ", ".join(decision_text(decision) for decision in decisions if decision is not None)
    return [f"{shadow.label}: {why or 'not isolated'}"]


def _audit_fields(outcome: Outcome) -> dict[str, object] | None:
    shadow = None if outcome.evaluation is None else outcome.evaluation.shadow
    if shadow is None or outcome.view is None:
        return None
    egress, ingress = map(outcome.view.decision, (shadow.egress, shadow.ingress))
    return {"verdict": shadow.label, "egress": decision_fields(egress), "ingress": decision_fields(ingress)}


def _end_fields(name: str, end: End | None) -> dict[str, object]:
    ip, port, pod = end if end is not None else (None, None, None)
    return {f"{name}_ip": ip, f"{name}_port": port, f"{name}_pod": pod}
