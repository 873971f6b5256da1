"""Flows of the last hour, by minute. Pure.

A record is counted at two levels. A *kept flow* is a flow as one node reports it. A *link* is what kept flows have in common at the level
of workloads: both workloads, verdict, protocol, port and decisions. There are few links even where there are many flows, so what is shown
of workloads and policies is computed from links for each answer, and depends on the present counts alone.

Bounds. At most `MAX_FLOWS` flows are kept, and `MAX_FLOW_MINUTES` counts of them. What has no room is counted in `left_out`.
"""

import hashlib

from array import array
from typing import NamedTuple

from netpolq.decision import Decision
from netpolq.flow_view.cells import reason
from netpolq.flow_view.merge import MAX_FLOWS
from netpolq.flows.filter import policies_of
from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.model import Labels
from netpolq.ui.state.minutes import KEPT_MINUTES, MINUTE_S, MinuteCounts, minute_of
from netpolq.ui.state.workloads import Workload, Workloads

MAX_FLOW_MINUTES = 4_000_000
"""Counts of a flow in a minute, 32 bytes each."""

_FIELDS = 4
_NONE = (1 << 64) - 1
"""In place of packets and bytes that were not counted."""


class LinkKey(NamedTuple):
    """What a link is: the ends and decisions that its flows have in common."""

    source: Workload
    destination: Workload
    verdict: FlowVerdict
    protocol: str
    port: int | None
    egress: Decision | None
    ingress: Decision | None
    audit_egress: Decision | None
    audit_ingress: Decision | None


class Link:
    """Connections between two workloads. `reason`: in words. `policies`: that decided, or would have. `flows`: the kept flows."""

    __slots__ = ("counts", "first_seen_s", "flows", "key", "last_seen_s", "policies", "reason")

    def __init__(self, key: LinkKey, flow: Flow, first_seen_s: float) -> None:
        self.key = key
        self.reason = reason(flow)
        self.policies = policies_of(flow)
        self.counts = MinuteCounts()
        self.flows: set[KeptFlow] = set()
        self.first_seen_s = first_seen_s
        self.last_seen_s = 0.0


class Sums(NamedTuple):
    """Counters of a flow over some minutes. `packets`, `octets`: None if they were not counted."""

    connections: int
    packets: int | None
    octets: int | None


class KeptFlow:
    """A flow of one node. Times: seconds since 1970."""

    __slots__ = ("_id", "counts", "first_seen_s", "flow", "last_seen_s", "link", "node")

    def __init__(self, node: str, flow: Flow, link: Link, first_seen_s: float) -> None:
        self._id = ""
        self.node = node
        self.flow = flow
        self.link = link
        self.first_seen_s = first_seen_s
        self.last_seen_s = 0.0
        self.counts = array("Q")
        """Minute, connections, packets and bytes of each minute in which it was seen, the newest minute last."""

    @property
    def id(self) -> str:
        """A short name that the flow keeps."""
        if not self._id:
            self._id = hashlib.blake2b(repr((self.node, self.flow)).encode(), digest_size=9).hexdigest()
        return self._id

    def since(self, minute: int) -> Sums:
        """The sums of a minute and of those after it."""
        connections, packets, octets = 0, None, None
        counts = self.counts
        for place in range(len(counts) - _FIELDS, -1, -_FIELDS):
            if counts[place] < minute:
                break
            connections += counts[place + 1]
            if counts[place + 2] != _NONE:
                packets, octets = (packets or 0) + counts[place + 2], (octets or 0) + counts[place + 3]
        return Sums(connections, packets, octets)


class History:
    """Kept flows and links. `version` changes with every change. `left_out`: connections for which there was no room, by minute.
    `ends`: those of kept flows, and perhaps some more until `expire`. `connections`: of each node since the start, for rates.
    """

    def __init__(self, max_flows: int = MAX_FLOWS, max_flow_minutes: int = MAX_FLOW_MINUTES) -> None:
        self._max_flows = max_flows
        self._max_flow_minutes = max_flow_minutes
        self._flow_minutes = 0
        self.ends: dict[FlowEnd, FlowEnd] = {}  # one object for equal ends: labels are most of a flow
        self.flows: dict[tuple[str, Flow], KeptFlow] = {}
        self.links: dict[LinkKey, Link] = {}
        self.workloads = Workloads()
        self.left_out = MinuteCounts()
        self.connections: dict[str, int] = {}
        self.version = 0

    def add(self, record: FlowRecord, now_s: float) -> None:
        """Count a record: a window, or an increment. One that is older than the history is ignored; a time to come counts as now."""
        last_s = min(record.last_seen_s, now_s)
        minute = minute_of(last_s)
        if minute <= minute_of(now_s) - KEPT_MINUTES:
            return
        self.version += 1
        self.connections[record.node] = self.connections.get(record.node, 0) + record.connections
        first_s = min(record.first_seen_s, last_s)
        kept = self.flows.get((record.node, record.flow))
        if kept is None:
            if len(self.flows) >= self._max_flows or self._flow_minutes >= self._max_flow_minutes:
                self.left_out.add(minute, record.connections)
                return
            kept = self._new(record, first_s, minute)
        elif not self._has_room(kept, minute):
            self.left_out.add(minute, record.connections)
            return
        link = kept.link
        kept.first_seen_s = min(kept.first_seen_s, first_s)
        kept.last_seen_s = max(kept.last_seen_s, last_s)
        link.first_seen_s = min(link.first_seen_s, first_s)
        link.last_seen_s = max(link.last_seen_s, last_s)
        self._count(kept, minute, record)
        link.counts.add(minute, record.connections)
        for workload, end in ((link.key.source, kept.flow.source), (link.key.destination, kept.flow.destination)):
            self.workloads.see(workload, end.pod, minute)

    def _has_room(self, kept: KeptFlow, minute: int) -> bool:
        return self._flow_minutes < self._max_flow_minutes or (bool(kept.counts) and kept.counts[-_FIELDS] >= minute)

    def _new(self, record: FlowRecord, first_s: float, minute: int) -> KeptFlow:
        source, destination = (self._interned(end) for end in (record.flow.source, record.flow.destination))
        flow = record.flow._replace(source=source, destination=destination)
        key = LinkKey(
            self.workloads.of(source, minute), self.workloads.of(destination, minute), flow.verdict, *flow[2:4], *flow[5:]
        )
        link = self.links.get(key)
        if link is None:
            link = self.links[key] = Link(key, flow, first_s)
        kept = self.flows[record.node, flow] = KeptFlow(record.node, flow, link, first_s)
        link.flows.add(kept)
        return kept

    def _interned(self, end: FlowEnd) -> FlowEnd:
        known = self.ends.get(end)
        if known is None:
            known = self.ends[end] = end._replace(labels=Labels.of(end.labels))
        return known

    def _count(self, kept: KeptFlow, minute: int, record: FlowRecord) -> None:
        """Add to the counts of a flow, which are in order of their minutes."""
        counts = kept.counts
        place = len(counts)
        while place and counts[place - _FIELDS] > minute:
            place -= _FIELDS
        if not place or counts[place - _FIELDS] != minute:
            counts[place:place] = array("Q", (minute, 0, _NONE, _NONE))
            self._flow_minutes += 1
        else:
            place -= _FIELDS
        counts[place + 1] = min(counts[place + 1] + record.connections, _NONE - 1)
        for offset, count in ((2, record.packets), (3, record.octets)):
            if count is not None:
                before = counts[place + offset]
                counts[place + offset] = min(count + (0 if before == _NONE else before), _NONE - 1)

    def forget_node(self, node: str) -> None:
        """Forget what a node has reported, before it reports all of it again."""
        gone = [kept for kept in self.flows.values() if kept.node == node]
        for kept in gone:
            for place in range(0, len(kept.counts), _FIELDS):
                kept.link.counts.add(kept.counts[place], -kept.counts[place + 1])
        self._drop(gone)

    def expire(self, now_s: float) -> None:
        """Forget what was seen last more than an hour ago. Call it once a minute."""
        first = minute_of(now_s) - KEPT_MINUTES + 1
        gone = []
        for kept in self.flows.values():
            counts = kept.counts
            old = 0
            while old < len(counts) and counts[old] < first:
                old += _FIELDS
            if old == len(counts):
                gone.append(kept)
            elif old:
                del counts[:old]
                self._flow_minutes -= old // _FIELDS
                kept.first_seen_s = max(kept.first_seen_s, counts[0] * float(MINUTE_S))
        self._drop(gone)
        self.ends = {end: end for kept in self.flows.values() for end in (kept.flow.source, kept.flow.destination)}
        self.workloads.forget_before(first, {end for key in self.links for end in (key.source, key.destination)})

    def _drop(self, gone: list[KeptFlow]) -> None:
        for kept in gone:
            self._flow_minutes -= len(kept.counts) // _FIELDS
            del self.flows[kept.node, kept.flow]
            kept.link.flows.discard(kept)
        for link in dict.fromkeys(kept.link for kept in gone):
            if link.flows:
                link.last_seen_s = max(kept.last_seen_s for kept in link.flows)
                link.first_seen_s = min(kept.first_seen_s for kept in link.flows)
            else:
                del self.links[link.key]
        self.version += 1
