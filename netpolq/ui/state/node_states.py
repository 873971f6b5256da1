"""The state of each agent: whether it answers, its newest status document, and series of readings. Pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.supervisor.flows_report import FlowsHead
from netpolq.supervisor.status import Status

MAX_POINTS = 240
"""Readings that are kept: twenty minutes of readings every five seconds."""


class Point(NamedTuple):
    """A reading. `at_s`: Unix time. Rates are since the reading before; None: unknown."""

    at_s: float
    packets_per_s: float | None
    latency_s: float | None
    connections_per_s: float | None


@dataclass(slots=True)
class NodeState:
    """An agent. `pod`: its name, or empty. `problem`: why it cannot be read, or empty; `is_reachable`: it has answered since the last
    problem. `head`: the newest one of its flows.
    """

    node: str
    pod: str = ""
    problem: str = ""
    is_reachable: bool = False
    status: Status | None = None
    status_problem: str = ""
    head: FlowsHead | None = None
    missed: int = 0
    points: deque[Point] = field(default_factory=lambda: deque(maxlen=MAX_POINTS))
    _packets: int = 0
    _connections: int = 0

    def read(self, status: Status, connections: int, now_s: float) -> None:
        """Take a status document. `connections`: of flows that the node has reported so far."""
        packets = sum(worker.packets for worker in status.workers)
        last_s = self.points[-1].at_s if self.points else now_s
        self.points.append(
            Point(
                now_s,
                _rate(packets - self._packets, now_s - last_s),
                status.programming_latency_s,
                _rate(connections - self._connections, now_s - last_s),
            )
        )
        self._packets, self._connections = packets, connections
        self.status = status
        self.status_problem = ""

    def gap(self, now_s: float) -> None:
        """Note that there is no reading, so that a series shows a gap."""
        if self.points and self.points[-1] != (self.points[-1].at_s, None, None, None):
            self.points.append(Point(now_s, None, None, None))

    def fields(self) -> dict[str, object]:
        """The state as JSON fields."""
        status, problem = self.status, self.problem or self.status_problem
        return {
            "id": self.node,
            "node": self.node,
            "pod": self.pod or None,
            "reachable": self.is_reachable,
            "problem": problem or None,
            **(_of_status(status) if status is not None else _NOTHING),
            "history": {
                "at": [round(point.at_s, 1) for point in self.points],
                "packets_per_s": [point.packets_per_s for point in self.points],
                "latency_s": [point.latency_s for point in self.points],
                "connections_per_s": [point.connections_per_s for point in self.points],
            },
        }


_NOTHING: dict[str, object] = {
    "version": None,
    "ready": False,
    "not_ready_reasons": [],
    "snapshot_version": 0,
    "in_force_version": 0,
    "workers": [],
    "unjudged_packets": 0,
    "isolated": {"ingress": 0, "egress": 0},
    "verdict_cache": {"enabled": False, "entries": 0, "size": 0, "hits": 0},
    "flows": None,
    "programming_latency_s": None,
    "source_problems": [],
}


def _of_status(status: Status) -> dict[str, object]:
    cache, flows = status.verdict_cache, status.flows
    return {
        "version": status.version,
        "ready": status.ready,
        "not_ready_reasons": status.not_ready_reasons,
        "snapshot_version": status.snapshot_version,
        "in_force_version": status.in_force_version,
        "workers": [
            {
                "slot": worker.slot,
                "pid": worker.pid,
                "queue_num": worker.queue_num,
                "acked_version": worker.acked_version,
                "packets": worker.packets,
                "restarts": worker.restarts,
                "rss_bytes": worker.rss_bytes,
            }
            for worker in status.workers
        ],
        "unjudged_packets": status.dataplane.unjudged_packets,
        "isolated": {"ingress": status.dataplane.isolated_ingress, "egress": status.dataplane.isolated_egress},
        "verdict_cache": {"enabled": cache.enabled, "entries": cache.entries, "size": cache.size, "hits": cache.hits},
        "flows": None
        if flows is None
        else {
            "records": flows.records,
            "max_records": flows.max_records,
            "lost": flows.lost,
            "unrecorded": flows.unrecorded,
        },
        "programming_latency_s": status.programming_latency_s,
        "source_problems": status.source.problems,
    }


def _rate(difference: int, seconds: float) -> float | None:
    """None after a restart, when counters begin again, and at the first reading."""
    return round(difference / seconds, 2) if seconds > 0 and difference >= 0 else None
