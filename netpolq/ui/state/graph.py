"""The graph of workloads and of the connections between them, as the page's map shows it. Pure."""

from dataclasses import dataclass, field

from netpolq.flows.record import FlowVerdict, time_text
from netpolq.ui.state.filters import Filters, Matching, matching
from netpolq.ui.state.history import History
from netpolq.ui.state.minutes import MINUTE_S
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


_Key = tuple[Workload, Workload, FlowVerdict]


def graph(history: History, filters: Filters, now_s: float) -> Graph:
    """The graph of what matches filters. Ports and reasons are looked up only for the edges that are shown."""
    links: dict[_Key, list[Matching]] = {}
    for found in matching(history, filters, now_s):
        links.setdefault(found.link.key[:3], []).append(found)
    sums = {key: sum(found.connections for found in of_edge) for key, of_edge in links.items()}
    shown: list[_Key] = []
    workloads: dict[Workload, None] = {}
    for key in sorted(sums, key=lambda key: (key[2] is FlowVerdict.ACCEPT, -sums[key])):
        new = [end for end in dict.fromkeys(key[:2]) if end not in workloads]
        if len(workloads) + len(new) <= MAX_WORKLOADS:
            shown.append(key)
            workloads.update(dict.fromkeys(new))
            if len(shown) == MAX_EDGES:
                break
    connections = sum(sums.values())
    first_minute = filters.first_minute(now_s)
    return Graph(
        nodes=[workload.fields() for workload in workloads],
        edges=[_edge(key, links[key]).fields(first_minute * float(MINUTE_S)) for key in shown],
        connections=connections,
        left_out=connections - sum(sums[key] for key in shown) + history.left_out.since(first_minute),
    )


def _edge(key: _Key, links: list[Matching]) -> _Edge:
    edge = _Edge(*key, links[0].link.first_seen_s)
    for found in links:
        edge.add(found)
    return edge
