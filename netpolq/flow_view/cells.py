"""The cells of a flow's line: plain text, in which no character controls a terminal. Pure.

Names come from outside: a pod may have been named to mislead, and DNS answers have any bytes.
"""

import time

from collections.abc import Callable, Mapping
from typing import NamedTuple

from netpolq.decision import Decision, decision_text
from netpolq.enums import Protocol
from netpolq.flow_view.merge import MergedFlow
from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd
from netpolq.logs import one_line

_WITH_PORTS = frozenset(protocol.name for protocol in Protocol)


class Column(NamedTuple):
    """A column of the table. `is_number`: aligned to the right."""

    title: str
    is_number: bool = False


TIME, VERDICT, SOURCE, DESTINATION, PORT = map(Column, ("LAST SEEN", "VERDICT", "SOURCE", "DESTINATION", "PORT"))
CONNECTIONS, REASON, NODE = Column("CONNECTIONS", is_number=True), Column("REASON"), Column("NODE")
FIRST, SOURCE_ADDRESS, DESTINATION_ADDRESS = Column("FIRST SEEN"), Column("SOURCE ADDRESS"), Column("DESTINATION ADDRESS")
PACKETS, OCTETS = Column("PACKETS", is_number=True), Column("BYTES", is_number=True)


def columns(*, is_wide: bool, is_cluster: bool) -> tuple[Column, ...]:
    """The columns of a table. `is_cluster`: several nodes report."""
    if is_wide:
        ends = SOURCE, SOURCE_ADDRESS, DESTINATION, DESTINATION_ADDRESS, PORT
        return FIRST, TIME, NODE, VERDICT, *ends, CONNECTIONS, PACKETS, OCTETS, REASON
    return TIME, *((NODE,) if is_cluster else ()), VERDICT, SOURCE, DESTINATION, PORT, CONNECTIONS, REASON


def cell(column: Column, merged: MergedFlow, now_s: float) -> str:
    """The text of a cell. `now_s`: Unix time; moments of another day have their date."""
    return one_line(_CELLS[column](merged, now_s))


def moment(time_s: float, now_s: float) -> str:
    """A moment in local time, with the date if it is another day's."""
    try:
        local, today = time.localtime(time_s), time.localtime(now_s)
    except (OverflowError, ValueError, OSError):
        return "?"
    return time.strftime("%H:%M:%S" if local[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", local)


def end(found: FlowEnd) -> str:
    """The pod, or else the learned name, or the address."""
    if found.pod:
        return found.pod_name
    if found.names:
        return found.names[0] if len(found.names) == 1 else f"{found.names[0]} (and {len(found.names) - 1} more names)"
    return "(other addresses)" if found.address == OTHER_ADDRESSES else found.address


def port(flow: Flow) -> str:
    """PORT/PROTOCOL, `*/TCP` for a denial of every port, or the protocol alone."""
    if flow.port is not None:
        return f"{flow.port}/{flow.protocol}"
    return f"*/{flow.protocol}" if flow.protocol in _WITH_PORTS else flow.protocol


def reason(flow: Flow) -> str:
    """What decided in each direction, and what policies in audit would have decided."""
    decided = _decisions(flow.egress, flow.ingress)
    if not flow.verdict.is_changed_by_audit:
        return decided
    return f"{decided}; audit: {_decisions(flow.audit_egress, flow.audit_ingress)}"


def _decisions(*decisions: Decision | None) -> str:
    return "; ".join(decision_text(decision) for decision in decisions if decision is not None) or "no policy decides"


_CELLS: Mapping[Column, Callable[[MergedFlow, float], str]] = {
    TIME: lambda merged, now_s: moment(merged.last_seen_s, now_s),
    FIRST: lambda merged, now_s: moment(merged.first_seen_s, now_s),
    NODE: lambda merged, _now_s: merged.node,
    VERDICT: lambda merged, _now_s: merged.flow.verdict.value,
    SOURCE: lambda merged, _now_s: end(merged.flow.source),
    SOURCE_ADDRESS: lambda merged, _now_s: merged.flow.source.address,
    DESTINATION: lambda merged, _now_s: f"→ {end(merged.flow.destination)}",
    DESTINATION_ADDRESS: lambda merged, _now_s: merged.flow.destination.address,
    PORT: lambda merged, _now_s: port(merged.flow),
    CONNECTIONS: lambda merged, _now_s: str(merged.connections),
    PACKETS: lambda merged, _now_s: "-" if merged.packets is None else str(merged.packets),
    OCTETS: lambda merged, _now_s: "-" if merged.octets is None else str(merged.octets),
    REASON: lambda merged, _now_s: reason(merged.flow),
}
