"""The flow table of an agent: records of the last hour, in windows. Pure; the caller passes the time.

Bounds. The table has at most `max_records` records in all windows, and a quarter of them in one. When all are in use, the oldest window is
dropped. Addresses outside the cluster are what an outsider can invent: of the flows that differ only in such an address, a window has
`MAX_OUTSIDE_ADDRESSES`, and the others become one record with `OTHER_ADDRESSES`. What has no record in a window all the same is counted.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from netpolq.flows.record import OTHER_ADDRESSES, OTHER_END, Flow, FlowEnd, FlowRecord

WINDOW_S = 15
"""Length of a window, whose start is a multiple of it since 1970."""

HISTORY_S = 3600
"""How long windows are kept."""

MAX_OUTSIDE_ADDRESSES = 256

MAX_INCREMENTS = 20_000
"""What was counted last, for readers that follow. They read every second or so."""

_CHANGING_WINDOWS = 2
"""The newest windows: the present one, and the one before it, whose counts may be late."""

_SETTLE_S = 2.0
"""A window is closed so long after its end: workers write four times a second, and are read every second."""

_FIRST, _LAST, _CONNECTIONS, _PACKETS, _OCTETS = range(5)
_Counts = list[float | None]


@dataclass(slots=True)
class _Window:
    start_s: float
    counts: dict[Flow, _Counts] = field(default_factory=dict)
    outside: dict[Flow, int] = field(default_factory=dict)
    unrecorded: int = 0


class Increment(NamedTuple):
    """Connections and traffic of one interval, numbered in the order in which they were counted."""

    number: int
    flow: Flow
    first_s: float
    last_s: float
    connections: int
    packets: int | None
    octets: int | None


class FlowTable:
    """Flows by window. `node`: the name of this node. `started_s`: now, Unix time. `unrecorded`: connections that are in no record.
    `dropped_early`: records that were dropped before their hour was over. `last_number`: of the newest increment.
    """

    def __init__(self, node: str, max_records: int, started_s: float) -> None:
        self.node = node
        self.max_records = max_records
        self.started_s = started_s
        self._windows: deque[_Window] = deque()
        self._keys: dict[Flow, Flow] = {}  # one object for equal flows in several windows
        self._closed_before_s = 0.0
        self._increments: deque[Increment] = deque(maxlen=MAX_INCREMENTS)
        self.last_number = 0
        self.records = 0
        self.unrecorded = 0
        self.dropped_early = 0

    def add(
        self,
        flow: Flow,
        first_s: float,
        last_s: float,
        connections: int,
        *,
        packets: int | None = None,
        octets: int | None = None,
    ) -> None:
        """Count connections of an interval that ended at `last_s` (Unix time), in whose window they are counted.

        `packets`, `octets`: traffic that was read then, None if none was; it may be of connections that were counted before.
        """
        window = self._window(last_s)
        counts = window.counts.get(flow)
        if counts is None:
            flow = self._summarized(window, flow)
            counts = window.counts.get(flow)
        flow = self._keys.get(flow, flow)
        if counts is None:
            if len(window.counts) >= self.max_records // 4:
                window.unrecorded += connections
                self.unrecorded += connections
                return
            counts = window.counts[self._keys.setdefault(flow, flow)] = [first_s, last_s, 0, None, None]
            self.records += 1
            while self.records > self.max_records and len(self._windows) > 1:
                self.dropped_early += self._drop_oldest()
        counts[_FIRST] = min(counts[_FIRST] or first_s, first_s)
        counts[_LAST] = max(counts[_LAST] or last_s, last_s)
        counts[_CONNECTIONS] = (counts[_CONNECTIONS] or 0) + connections
        if packets is not None and octets is not None:
            counts[_PACKETS] = (counts[_PACKETS] or 0) + packets
            counts[_OCTETS] = (counts[_OCTETS] or 0) + octets
        self.last_number += 1
        self._increments.append(Increment(self.last_number, flow, first_s, last_s, connections, packets, octets))

    def _window(self, time_s: float) -> _Window:
        start_s = time_s // WINDOW_S * WINDOW_S
        if not self._windows or self._windows[-1].start_s < start_s:
            self._windows.append(_Window(start_s))
        elif self._windows[-1].start_s > start_s:  # late counts, or the clock was set back
            for window in self._windows:
                if window.start_s == start_s and start_s >= self._closed_before_s:
                    return window
        return self._windows[-1]

    def expire(self, now_s: float) -> None:
        """Drop the windows whose hour is over."""
        while self._windows and self._windows[0].start_s < now_s - HISTORY_S:
            self._drop_oldest()

    def _drop_oldest(self) -> int:
        window = self._windows.popleft()
        self.records -= len(window.counts)
        if len(self._keys) > 2 * self.records + 1000:
            self._keys = {flow: flow for kept in self._windows for flow in kept.counts}
        return len(window.counts)

    def close_windows(self, now_s: float) -> list[FlowRecord]:
        """The records of the windows that have ended since the last call."""
        end_s = (now_s - _SETTLE_S) // WINDOW_S * WINDOW_S
        closed = [window for window in self._windows if self._closed_before_s <= window.start_s < end_s]
        self._closed_before_s = max(end_s, self._closed_before_s)
        return [record for window in closed for record in self._records(window)]

    def since(self, time_s: float) -> Iterator[FlowRecord]:
        """The records that were last seen at a time or after it, in order of their windows. The table may change meanwhile: what is
        counted after the call is in no record, so that a reader can go on with `after` and the present `last_number`.
        """
        wanted = [window for window in self._windows if window.start_s + WINDOW_S > time_s]
        old, newest = wanted[:-_CHANGING_WINDOWS], wanted[-_CHANGING_WINDOWS:]
        # Others do not change: only these are copied, which takes some milliseconds for 10,000 records.
        copies = [_Window(window.start_s, {flow: counts.copy() for flow, counts in window.counts.items()}) for window in newest]
        return (record for window in chain(old, copies) for record in self._records(window) if record.last_seen_s >= time_s)

    def after(self, number: int) -> tuple[int, Iterator[FlowRecord]]:
        """How many increments after a number are lost, and a record for each that is not."""
        found = [increment for increment in self._increments if increment.number > number]
        return max(self.last_number - number - len(found), 0), (
            FlowRecord(
                flow=increment.flow,
                node=self.node,
                window_start_s=increment.first_s,
                window_s=round(increment.last_s - increment.first_s, 3),
                first_seen_s=increment.first_s,
                last_seen_s=increment.last_s,
                connections=increment.connections,
                packets=increment.packets,
                octets=increment.octets,
            )
            for increment in found
        )

    def _summarized(self, window: _Window, flow: Flow) -> Flow:
        """The flow, or if there are too many that differ only in an address outside the cluster, the one that stands for them."""
        if _is_outside(flow.source):
            flow = self._limited(window, flow, flow._replace(source=OTHER_END))
        if _is_outside(flow.destination):
            flow = self._limited(window, flow, flow._replace(destination=OTHER_END))
        return flow

    def _limited(self, window: _Window, flow: Flow, summary: Flow) -> Flow:
        number = window.outside.get(summary, 0)
        # A scan of ports makes as many summaries: without the second limit they would outgrow the records.
        if number >= MAX_OUTSIDE_ADDRESSES or (not number and len(window.outside) >= self.max_records // 4):
            return summary
        window.outside[summary] = number + 1
        return flow

    def _records(self, window: _Window) -> Iterator[FlowRecord]:
        for flow, (first_s, last_s, connections, packets, octets) in list(window.counts.items()):
            yield FlowRecord(
                flow=flow,
                node=self.node,
                window_start_s=window.start_s,
                window_s=WINDOW_S,
                first_seen_s=first_s or 0.0,
                last_seen_s=last_s or 0.0,
                connections=int(connections or 0),
                packets=None if packets is None else int(packets),
                octets=None if octets is None else int(octets),
            )


def _is_outside(end: FlowEnd) -> bool:
    return not end.pod and not end.names and end.address != OTHER_ADDRESSES
