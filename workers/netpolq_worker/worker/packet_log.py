"""The packet log: a line for each packet, with the flow, the pods at both ends, the verdict, and the policy that decided.

It is written at `--v=2` and above, up to a rate; `netpolq_worker.worker.denied_log` writes that of `--log-denied`. An answer of the flow
cache has no rule, so the log evaluates the flow a second time. The verdict in the line is the one that the packet got.
"""

import logging
import socket
import time

from collections.abc import Callable
from typing import NamedTuple

from netpolq.addresses import address_key
from netpolq.enums import Direction, Verdict
from netpolq.logs import PACKET_LOG, TokenBucket
from netpolq.snapshot.reader import NO_RULE, SnapshotReader
from netpolq_worker.worker.packet import PROTOCOL_NAMES, WITH_PORTS, parse

LINES_PER_S = 100
BURST_LINES = 200

log = logging.getLogger(PACKET_LOG)


class LoggedDecision(NamedTuple):
    """Why a packet got its verdict. `reason`: a label of `netpolq.enums.Reason`, or `malformed`, `no-snapshot`, `error`.

    `direction`, `policy`: of the rule that decided last, or of the first policy that isolates; None if no policy applies.
    """

    reason: str
    direction: str | None = None
    policy: str | None = None


class End(NamedTuple):
    """One end of a flow. `pod`: ns/name, None if the address is not a pod's; `port`: None if the protocol has none."""

    ip: str
    port: int | None
    pod: str | None

    def __str__(self) -> str:
        address = self.ip if self.port is None else f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"
        return address if self.pod is None else f"{address} ({self.pod})"


class LogLine(NamedTuple):
    """A log line without its verdict. The ends are those of the connection in its original direction, None if unreadable.

    `reply`: the packet itself goes the other way. `snapshot`: version that was evaluated, 0 for none.
    """

    decision: LoggedDecision
    protocol: str | None
    source: End | None
    destination: End | None
    reply: bool
    snapshot: int


class PacketLog:
    """Logs the packets of one queue. `clock`: seconds, monotonic."""

    def __init__(self, queue_num: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue_num = queue_num
        self._bucket = TokenBucket(LINES_PER_S, BURST_LINES, clock)

    def prepare(self, payload: Callable[[], bytes], view: SnapshotReader | None, *, is_reply: bool) -> LogLine | None:
        """A line for a packet before its verdict; None above the rate limit. Never raises: the packet still waits.

        `payload` returns the packet, and may raise.
        """
        if not self._bucket.take():
            return None
        try:
            return describe(payload(), view, is_reply=is_reply)
        except Exception:  # a log line must not cost a packet
            log.exception("cannot describe a packet on queue %d", self._queue_num)
            return None

    def write(self, line: LogLine, verdict: Verdict | None, fail_verdict: Verdict, duration_ns: int) -> None:
        """Write a line; see `write_line`."""
        write_line(self._queue_num, line, verdict, fail_verdict, duration_ns)

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


def write_line(queue_num: int, line: LogLine, verdict: Verdict | None, fail_verdict: Verdict, duration_ns: int) -> None:
    """Write the line of a packet. `verdict` None: there was no decision, and the packet got `fail_verdict`."""
    decision = line.decision
    if verdict is None and line.snapshot:
        decision = LoggedDecision("error")
    given = (fail_verdict if verdict is None else verdict).name.lower()
    processing_us = round(duration_ns / 1000, 1)
    flow = f" {line.protocol} {line.source} -> {line.destination}" if line.protocol else ""
    policy = f" by {decision.direction} policy {decision.policy}" if decision.policy else ""
    reply = " (a reply)" if line.reply else ""
    fields = {
        "queue": queue_num,
        "verdict": given,
        "reason": decision.reason,
        "direction": decision.direction,
        "policy": decision.policy,
        "protocol": line.protocol,
        **_end_fields("source", line.source),
        **_end_fields("destination", line.destination),
        "reply": line.reply,
        "snapshot": line.snapshot,
        "processing_us": processing_us,
    }
    log.info("%s%s%s: %s%s, %.1f us", given, flow, reply, decision.reason, policy, processing_us, extra={"fields": fields})


def describe(payload: bytes, view: SnapshotReader | None, *, is_reply: bool) -> LogLine:
    """The log line of a packet, from its bytes and the snapshot. `payload`: from the IP header on."""
    version = 0 if view is None else view.version
    flow = parse(payload)
    if flow is None:
        return LogLine(LoggedDecision("malformed"), None, None, None, is_reply, version)
    source, destination, protocol, source_port, destination_port = flow
    if is_reply:
        source, destination, source_port, destination_port = destination, source, destination_port, source_port
    return LogLine(
        _decision(view, address_key(source), address_key(destination), protocol, destination_port),
        PROTOCOL_NAMES.get(protocol, str(protocol)),
        _end(view, source, protocol, source_port),
        _end(view, destination, protocol, destination_port),
        is_reply,
        version,
    )


def _end(view: SnapshotReader | None, address: bytes, protocol: int, port: int) -> End:
    return End(
        socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address),
        port if protocol in WITH_PORTS else None,
        None if view is None else view.pod_name(address_key(address)),
    )


def _decision(view: SnapshotReader | None, source: bytes, destination: bytes, protocol: int, port: int) -> LoggedDecision:
    if view is None:
        return LoggedDecision("no-snapshot")
    decision = view.evaluate(source, destination, protocol, port)
    reason = decision.reason.label
    if decision.rule != NO_RULE:
        rule = view.rule(decision.rule)
        return LoggedDecision(reason, rule.direction.name.lower(), rule.policy)
    if decision.direction is None:
        return LoggedDecision(reason)
    isolated = source if decision.direction is Direction.EGRESS else destination
    first, *_others = view.isolated_by(view.programs(isolated)[decision.direction])
    return LoggedDecision(reason, decision.direction.name.lower(), first)


def _end_fields(name: str, end: End | None) -> dict[str, object]:
    ip, port, pod = end if end is not None else (None, None, None)
    return {f"{name}_ip": ip, f"{name}_port": port, f"{name}_pod": pod}
