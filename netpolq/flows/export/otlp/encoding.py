"""Flow records as OTLP logs.

What many records have in common (an end, a decision, a window) is encoded once and kept, by the generated classes of opentelemetry-proto.
A message is then the concatenation of encoded parts, which protobuf reads as their merge. Source:
https://protobuf.dev/programming-guides/encoding/#last-one-wins. This is eight times as fast as objects for each record.

Attributes have the names of the semantic conventions where these have one; with `source.` and `destination.` before those of pods, because
a record has two. All others begin with `netpolq.`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO, SEVERITY_NUMBER_WARN, LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from netpolq.decision import Decision, Isolation, decision_text, denies, tier_of
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowRecord, FlowVerdict
from netpolq.logs import one_line

EVENT_NAME = "netpolq.flow"
SCOPE = "netpolq.flows"

_KEPT_PARTS = 8192
"""Encoded parts of each kind: a few hundred bytes each."""

Value = str | int | float | Sequence[str]


def encode_request(
    records: Sequence[FlowRecord], uids: Sequence[str], *, resource: Mapping[str, str], version: str, observed_s: float
) -> bytes:
    """An `ExportLogsServiceRequest`. `uids`: of the records, the same in each attempt. `observed_s`: when the window was closed."""
    observed_ns = _ns(observed_s)
    scope = ScopeLogs(scope=InstrumentationScope(name=SCOPE, version=version)).SerializeToString()
    logs = [_field(_LOG_RECORDS, _log_record(record, uid, observed_ns)) for record, uid in zip(records, uids, strict=True)]
    origin = ResourceLogs(resource=Resource(attributes=_key_values(resource.items()))).SerializeToString()
    return _field(_RESOURCE_LOGS, origin + _field(_SCOPE_LOGS, scope + b"".join(logs)))


_RESOURCE_LOGS = ExportLogsServiceRequest.DESCRIPTOR.fields_by_name["resource_logs"].number
_SCOPE_LOGS = ResourceLogs.DESCRIPTOR.fields_by_name["scope_logs"].number
_LOG_RECORDS = ScopeLogs.DESCRIPTOR.fields_by_name["log_records"].number


def _log_record(record: FlowRecord, uid: str, observed_ns: int) -> bytes:
    flow = record.flow
    is_denied = not flow.verdict.is_enforced_accept
    own = LogRecord(
        time_unix_nano=_ns(record.last_seen_s),
        observed_time_unix_nano=observed_ns,
        severity_number=SEVERITY_NUMBER_WARN if is_denied else SEVERITY_NUMBER_INFO,
        severity_text="WARN" if is_denied else "INFO",
        event_name=EVENT_NAME,
        body=AnyValue(string_value=body(record)),
        attributes=_key_values(_own_attributes(record, uid)),
    )
    parts = [
        own.SerializeToString(),
        _window(record.window_start_s, record.window_s),
        _kind(flow.protocol, flow.port, flow.verdict),
        _end("source", flow.source),
        _end("destination", flow.destination),
    ]
    decisions = (
        ("netpolq.egress", flow.egress),
        ("netpolq.ingress", flow.ingress),
        ("netpolq.audit.egress", flow.audit_egress),
        ("netpolq.audit.ingress", flow.audit_ingress),
    )
    parts += [_decision(prefix, decision) for prefix, decision in decisions if decision is not None]
    return b"".join(parts)


def body(record: FlowRecord) -> str:
    """One readable line."""
    flow = record.flow
    port = "" if flow.port is None else f" port {flow.port}"
    reasons = ", ".join(decision_text(decision) for decision in (flow.egress, flow.ingress) if decision is not None)
    audit = ", ".join(decision_text(decision) for decision in (flow.audit_egress, flow.audit_ingress) if decision is not None)
    return one_line(
        f"{flow.verdict} {flow.protocol} {_named(flow.source)} -> {_named(flow.destination)}{port}, "
        f"{record.connections} {'connection' if record.connections == 1 else 'connections'}: {reasons or 'no policy'}"
        + (f"; in audit: {audit}" if audit else "")
    )


def _named(end: FlowEnd) -> str:
    name = end.pod_name or (end.names[0] if end.names else "")
    return f"{name} ({end.address})" if name else end.address


def _own_attributes(record: FlowRecord, uid: str) -> Iterator[tuple[str, Value]]:
    yield "log.record.uid", uid
    yield "netpolq.connections", record.connections
    if record.packets is not None:
        yield "netpolq.packets", record.packets
    if record.octets is not None:
        yield "netpolq.bytes", record.octets
    yield "netpolq.first_seen_unix_nano", _ns(record.first_seen_s)


@lru_cache(maxsize=16)
def _window(start_s: float, length_s: float) -> bytes:
    return _attributes([("netpolq.window.start_unix_nano", _ns(start_s)), ("netpolq.window.seconds", length_s)])


@lru_cache(maxsize=_KEPT_PARTS)
def _kind(protocol: str, port: int | None, verdict: FlowVerdict) -> bytes:
    found: list[tuple[str, Value]] = [("network.transport", protocol.lower()), ("netpolq.verdict", verdict.value)]
    if port is not None:
        found.append(("destination.port", port))
    return _attributes(found)


@lru_cache(maxsize=_KEPT_PARTS)
def _end(side: str, end: FlowEnd) -> bytes:
    found: list[tuple[str, Value]] = [(f"{side}.address", end.address)]
    if side == "destination" and end.address != OTHER_ADDRESSES:
        found.append(("network.type", "ipv6" if ":" in end.address else "ipv4"))
    if end.pod:
        found += [(f"{side}.k8s.namespace.name", end.namespace), (f"{side}.k8s.pod.name", end.pod)]
        found += [(f"{side}.k8s.pod.label.{key}", text) for key, text in end.labels.items()]
    if end.names:
        found.append((f"netpolq.{side}.names", end.names))
    return _attributes(found)


@lru_cache(maxsize=_KEPT_PARTS)
def _decision(prefix: str, decision: Decision) -> bytes:
    found: list[tuple[str, Value]] = [
        (f"{prefix}.decision", decision_text(decision)),
        (f"{prefix}.action", "deny" if denies(decision) else "accept"),
        (f"{prefix}.tier", tier_of(decision).label),
    ]
    if isinstance(decision, Isolation):
        found.append((f"{prefix}.policies", decision.policies))
    else:
        found += [(f"{prefix}.policies", (decision.policy,)), (f"{prefix}.rule", decision.position)]
        if decision.name:
            found.append((f"{prefix}.rule_name", decision.name))
    return _attributes(found)


def _attributes(pairs: Sequence[tuple[str, Value]]) -> bytes:
    """A log record that has nothing but these attributes."""
    return LogRecord(attributes=_key_values(pairs)).SerializeToString()


def _key_values(pairs: Iterable[tuple[str, Value]]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in pairs]


def _any_value(value: Value) -> AnyValue:
    match value:
        case str():
            return AnyValue(string_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=text) for text in value]))


def _ns(time_s: float) -> int:
    """A time to the microsecond, which is what a float holds of it."""
    return round(time_s * 1_000_000) * 1000


def _field(number: int, message: bytes) -> bytes:
    """A field of a message type: its number with wire type 2, its length, its bytes."""
    return _varint(number << 3 | 2) + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
