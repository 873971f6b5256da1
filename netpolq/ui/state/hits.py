"""How often rules and isolation decided connections in the last hour, from the decisions of flows. Pure."""

from dataclasses import dataclass, field

from netpolq.decision import Decision, Isolation
from netpolq.enums import Direction
from netpolq.ui.state.history import History
from netpolq.ui.state.minutes import KEPT_MINUTES, minute_of


@dataclass(slots=True)
class Hits:
    """Connections that something decided, and when last (Unix time), None: never."""

    connections: int = 0
    last_s: float | None = None

    def add(self, connections: int, last_s: float) -> None:
        """Count further connections."""
        self.connections += connections
        self.last_s = max(self.last_s or 0.0, last_s)


@dataclass(slots=True)
class PolicyHits:
    """What a policy decided. `rules`: by direction and position. `isolated`: connections that its isolation denied, by direction."""

    total: Hits = field(default_factory=Hits)
    rules: dict[tuple[Direction, int], Hits] = field(default_factory=dict)
    isolated: dict[Direction, Hits] = field(default_factory=dict)


def hits(history: History, now_s: float) -> dict[str, PolicyHits]:
    """The hits of each policy by its name in decisions. What a policy in audit would have decided counts for it, too."""
    first = minute_of(now_s) - KEPT_MINUTES + 1
    found: dict[str, PolicyHits] = {}
    for link in history.links.values():
        key = link.key
        decisions = [decision for decision in (key.egress, key.ingress) if decision is not None]
        audits = (key.audit_egress, key.audit_ingress)
        decisions += [audit for audit in audits if audit is not None and audit not in decisions]
        if decisions:
            connections = link.counts.since(first)
            for decision in decisions:
                _count(found, decision, connections, link.last_seen_s)
    return found


def _count(found: dict[str, PolicyHits], decision: Decision, connections: int, last_s: float) -> None:
    match decision:
        case Isolation(direction, policies):
            for name in policies:
                of_policy = found.setdefault(name, PolicyHits())
                of_policy.total.add(connections, last_s)
                of_policy.isolated.setdefault(direction, Hits()).add(connections, last_s)
        case _:
            of_policy = found.setdefault(decision.policy, PolicyHits())
            of_policy.total.add(connections, last_s)
            of_policy.rules.setdefault((decision.direction, decision.position), Hits()).add(connections, last_s)
