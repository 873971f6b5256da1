"""Merged flows: the windows of one flow, reported by one node, as one line. Pure."""

from collections.abc import Iterable

from netpolq.flows.record import Flow, FlowEnd, FlowRecord

MAX_FLOWS = 200_000
"""Merged flows that are kept, about a kilobyte each. Of more, those that were seen last the longest ago are left out."""


class MergedFlow:
    """A flow of one node over all windows that were read. Times: seconds since 1970. Counters are sums; None: in no record."""

    __slots__ = ("connections", "first_seen_s", "flow", "last_seen_s", "node", "octets", "packets")

    def __init__(self, record: FlowRecord, flow: Flow) -> None:
        self.flow = flow
        self.node = record.node
        self.first_seen_s = record.first_seen_s
        self.last_seen_s = record.last_seen_s
        self.connections = record.connections
        self.packets = record.packets
        self.octets = record.octets

    def add(self, record: FlowRecord) -> None:
        """Add another window."""
        self.first_seen_s = min(self.first_seen_s, record.first_seen_s)
        self.last_seen_s = max(self.last_seen_s, record.last_seen_s)
        self.connections += record.connections
        self.packets = _sum(self.packets, record.packets)
        self.octets = _sum(self.octets, record.octets)

    def as_record(self) -> FlowRecord:
        """All windows as one."""
        return FlowRecord(
            flow=self.flow,
            node=self.node,
            window_start_s=self.first_seen_s,
            window_s=self.last_seen_s - self.first_seen_s,
            first_seen_s=self.first_seen_s,
            last_seen_s=self.last_seen_s,
            connections=self.connections,
            packets=self.packets,
            octets=self.octets,
        )


class MergedFlows:
    """Merges records by flow and node. `left_out`: flows that were dropped because there were more than `max_flows`."""

    def __init__(self, max_flows: int = MAX_FLOWS) -> None:
        self._max_flows = max_flows
        self._flows: dict[tuple[str, Flow], MergedFlow] = {}
        self._ends: dict[FlowEnd, FlowEnd] = {}  # one object for equal ends: labels are most of a record
        self.left_out = 0

    def add(self, record: FlowRecord) -> None:
        """Add a record to the line of its flow."""
        key = record.node, record.flow
        known = self._flows.get(key)
        if known is not None:
            known.add(record)
            return
        flow = record.flow._replace(
            source=self._ends.setdefault(record.flow.source, record.flow.source),
            destination=self._ends.setdefault(record.flow.destination, record.flow.destination),
        )
        self._flows[record.node, flow] = MergedFlow(record, flow)
        if len(self._flows) > self._max_flows:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Drop a tenth, so that this is rare."""
        newest = self.newest_last()[max(self._max_flows // 10, 1) :]
        self.left_out += len(self._flows) - len(newest)
        self._flows = {(merged.node, merged.flow): merged for merged in newest}
        self._ends = {end: end for merged in newest for end in (merged.flow.source, merged.flow.destination)}

    def newest_last(self) -> list[MergedFlow]:
        """All lines, in the order in which they were seen last."""
        return sorted(self._flows.values(), key=lambda merged: merged.last_seen_s)

    def __len__(self) -> int:
        return len(self._flows)


def total(flows: Iterable[MergedFlow]) -> int:
    """The sum of their connections."""
    return sum(merged.connections for merged in flows)


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other
