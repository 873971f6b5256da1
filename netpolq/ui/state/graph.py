"""The graph of workloads and of the connections between them, as the page's map shows it. Pure."""

from dataclasses import dataclass, field

from netpolq.flows.record import FlowVerdict, time_text
from netpolq.ui.state.filters import Filters, Matching, matching
from netpolq.ui.state.history import History
from netpolq.ui.state.workloads import Workload

MAX_WORKLOADS = 400
MAX_EDGES = 1500
"""More cannot be drawn so that it can be read. Those with most connections are shown, denied ones first."""

MAX_PORTS = 8
MAX_REASONS = 3


@dataclass(slots=True)
class _Edge:
    source: Workload
    destination: Workload
    verdict: FlowVerdict
    first_seen_s: float
    connections: int = 0
    last_seen_s: float = 0.0
    ports: dict[tuple[str, int | None], int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, found: Matching) -> None:
        link = found.link
        port = link.key.protocol, link.key.port
        self.connections += found.connections
        self.first_seen_s = min(self.first_seen_s, link.first_seen_s)
        self.last_seen_s = max(self.last_seen_s, found.last_seen_s)
        self.ports[port] = self.ports.get(port, 0) + found.connections
        self.reasons[link.reason] = self.reasons.get(link.reason, 0) + found.connections

    @property
    def rank(self) -> tuple[bool, int, str, str]:
        return self.verdict is FlowVerdict.ACCEPT, -self.connections, self.source.id, self.destination.id

    def fields(self, from_s: float) -> dict[str, object]:
        ports = sorted(self.ports.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or 0))
        reasons = sorted(self.reasons, key=lambda reason: (-self.reasons[reason], reason))
        return {
            "id": f"{self.source.id}|{self.destination.id}|{self.verdict.value}",
            "source": self.source.id,
            "destination": self.destination.id,
            "verdict": self.verdict.value,
            "connections": self.connections,
            "first_seen": time_text(max(self.first_seen_s, from_s)),
            "last_seen": time_text(self.last_seen_s),
            "ports": [
                {"protocol": protocol, "port": port, "connections": connections}
                for (protocol, port), connections in ports[:MAX_PORTS]
            ],
            "more_ports": max(len(ports) - MAX_PORTS, 0),
            "reasons": reasons[:MAX_REASONS],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The shown workloads and edges as JSON fields. `connections`: of all edges. `left_out`: connections that no shown edge has."""

    nodes: list[dict[str, object]]
    edges: list[dict[str, object]]
    connections: int
    left_out: int


def graph(history: History, filters: Filters, now_s: float) -> Graph:
    """The graph of what matches filters."""
    edges: dict[tuple[Workload, Workload, FlowVerdict], _Edge] = {}
    for found in matching(history, filters, now_s):
        key = found.link.key
        edge = edges.get(key[:3])
        if edge is None:
            edge = edges[key[:3]] = _Edge(*key[:3], found.link.first_seen_s)
        edge.add(found)
    shown: list[_Edge] = []
    workloads: dict[Workload, None] = {}
    for edge in sorted(edges.values(), key=lambda edge: edge.rank):
        ends = {edge.source, edge.destination}
        if len(shown) < MAX_EDGES and len(workloads.keys() | ends) <= MAX_WORKLOADS:
            shown.append(edge)
            workloads.update(dict.fromkeys((edge.source, edge.destination)))
    connections = sum(edge.connections for edge in edges.values())
    unkept = history.left_out.since(filters.first_minute(now_s))
    from_minute_s = filters.first_minute(now_s) * 60.0
    return Graph(
        nodes=[workload.fields() for workload in workloads],
        edges=[edge.fields(from_minute_s) for edge in shown],
        connections=connections,
        left_out=connections - sum(edge.connections for edge in shown) + unkept,
    )
