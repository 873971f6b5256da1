"""The list of flows, newest first, as the page and the CSV file show it. Pure."""

import csv
import heapq
import io

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from netpolq.decision import decision_fields
from netpolq.flow_view.cells import end as end_text
from netpolq.flows.record import FlowEnd, time_text
from netpolq.ui.state.filters import Filters, matching
from netpolq.ui.state.history import History, KeptFlow
from netpolq.ui.state.workloads import Workload

DEFAULT_LIMIT = 500
MAX_LIMIT = 2000
MAX_CSV_LINES = 100_000
_CSV_LINES_AT_ONCE = 500

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet takes for a formula. Source: OWASP, CSV injection."""

_NEWEST = attrgetter("last_seen_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowList:
    """Flows that match. `flows`: the newest ones as JSON fields. `total`: how many match. `connections`: of all."""

    flows: list[dict[str, object]]
    total: int
    connections: int


def flow_list(history: History, filters: Filters, now_s: float, limit: int = DEFAULT_LIMIT) -> FlowList:
    """The newest flows that match filters."""
    found, connections = _found(history, filters, now_s)
    minute = filters.first_minute(now_s)
    shown = [_fields(kept, minute) for kept in heapq.nlargest(limit, found, key=_NEWEST)]
    return FlowList(flows=shown, total=len(found), connections=connections)


def _found(history: History, filters: Filters, now_s: float) -> tuple[list[KeptFlow], int]:
    from_s = now_s - filters.since_s
    found: list[KeptFlow] = []
    connections = 0
    for match in matching(history, filters, now_s):
        found += match.flows if match.flows is not None else [kept for kept in match.link.flows if kept.last_seen_s >= from_s]
        connections += match.connections
    return found, connections


def _fields(kept: KeptFlow, minute: int) -> dict[str, object]:
    flow, key, sums = kept.flow, kept.link.key, kept.since(minute)
    audit = None
    if flow.verdict.is_changed_by_audit:
        audit = {"egress": decision_fields(flow.audit_egress), "ingress": decision_fields(flow.audit_ingress)}
    return {
        "id": kept.id,
        "first_seen": time_text(max(kept.first_seen_s, minute * 60.0)),
        "last_seen": time_text(kept.last_seen_s),
        "node": kept.node,
        "verdict": flow.verdict.value,
        "source": _end(flow.source, key.source),
        "destination": _end(flow.destination, key.destination),
        "protocol": flow.protocol,
        "port": flow.port,
        "connections": sums.connections,
        "packets": sums.packets,
        "bytes": sums.octets,
        "reason": kept.link.reason,
        "egress": decision_fields(flow.egress),
        "ingress": decision_fields(flow.ingress),
        "audit": audit,
    }


def _end(end: FlowEnd, workload: Workload) -> dict[str, object]:
    return {
        "address": end.address,
        "namespace": end.namespace or None,
        "pod": end.pod or None,
        "workload": workload.id,
        "names": list(end.names),
        "labels": dict(end.labels),
    }


_COLUMNS = (
    *("first_seen", "last_seen", "node", "verdict", "source", "source_address", "source_workload"),
    *(
        "destination",
        "destination_address",
        "destination_workload",
        "protocol",
        "port",
        "connections",
        "packets",
        "bytes",
        "reason",
    ),
)


def csv_portions(history: History, filters: Filters, now_s: float) -> Iterator[str]:
    """The flows that match as CSV with a line of titles, in portions. The history may change between portions."""
    found, _connections = _found(history, filters, now_s)
    found.sort(key=_NEWEST, reverse=True)
    minute = filters.first_minute(now_s)
    yield _csv([_COLUMNS])
    del found[MAX_CSV_LINES:]
    for start in range(0, len(found), _CSV_LINES_AT_ONCE):
        yield _csv([_row(kept, minute) for kept in found[start : start + _CSV_LINES_AT_ONCE]])


def _row(kept: KeptFlow, minute: int) -> tuple[object, ...]:
    flow, key, sums = kept.flow, kept.link.key, kept.since(minute)
    return (
        *(time_text(max(kept.first_seen_s, minute * 60.0)), time_text(kept.last_seen_s), kept.node, flow.verdict.value),
        *(end_text(flow.source), flow.source.address, key.source.id),
        *(end_text(flow.destination), flow.destination.address, key.destination.id),
        *(flow.protocol, flow.port, sums.connections, sums.packets, sums.octets, kept.link.reason),
    )


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: object) -> object:
    """A cell that no spreadsheet evaluates."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
