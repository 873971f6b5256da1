"""Packets and bytes of flows, from readings of connections. Pure.

A reading of a connection has the sums since it began. What it has more than the reading before counts for its flow: the newest accepted
one between the same ends. The readings of connections that live are kept to be compared with the next one; a connection that nothing is
kept of counts in whole when it ends. Whatever the order in which a connection is seen alive and ends, each byte counts once.

Bounds. At most `MAX_FLOWS` accepted flows and the readings of `MAX_LIVING` connections are kept, 350 and 200 bytes each. Of more flows,
those that were accepted the longest ago count nothing; of more connections, those that are not kept count when they end.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.dataplane.conntrack import Connection
from netpolq.flows.conntrack_counters import Reading
from netpolq.flows.record import Flow

MAX_FLOWS = 32_768

MAX_LIVING = 32_768


class Increase(NamedTuple):
    """What a flow has more."""

    flow: Flow
    packets: int
    octets: int


@dataclass(slots=True)
class _Tally:
    flow: Flow
    packets: int = 0
    octets: int = 0


@dataclass(slots=True)
class _Kept:
    """What was counted of a connection that lives. `tour`: the last one in which it was seen."""

    packets: int
    octets: int
    tour: int


class Traffic:
    """Counts while `is_on`. A tour: one reading of all connections that live."""

    def __init__(self, max_flows: int = MAX_FLOWS, max_living: int = MAX_LIVING) -> None:
        self._max_flows = max_flows
        self._max_living = max_living
        self._tallies: dict[Connection, _Tally] = {}
        self._risen: deque[_Tally] = deque()
        self._kept: dict[int, _Kept] = {}
        self._tour = 0
        self._ended_in_tour: set[int] | None = None
        self.is_on = False

    def clear(self) -> None:
        """Forget everything but what has risen."""
        self._tallies.clear()
        self._kept.clear()
        self._ended_in_tour = None

    def accepted(self, connection: Connection, flow: Flow) -> None:
        """Note the newest flow of connections that are accepted."""
        tally = self._tallies.pop(connection, None)
        if tally is None:
            tally = _Tally(flow)
            if len(self._tallies) >= self._max_flows:
                del self._tallies[next(iter(self._tallies))]
        elif tally.packets and tally.flow != flow:
            tally = _Tally(flow)  # the former one keeps what it has risen by
        else:
            tally.flow = flow
        self._tallies[connection] = tally

    def ended(self, reading: Reading) -> None:
        """Count a connection that has ended."""
        kept = self._kept.pop(reading.number, None)
        tally = self._tallies.get(reading.connection)
        if tally is None:
            return
        if self._ended_in_tour is not None:
            self._ended_in_tour.add(reading.number)
        self._count(tally, reading, kept)

    def begin_tour(self) -> None:
        """All connections that live are read now."""
        self._tour += 1
        self._ended_in_tour = set()

    def living(self, reading: Reading) -> None:
        """Count a connection that lived when the kernel wrote this. It may have ended meanwhile."""
        if self._ended_in_tour is not None and reading.number in self._ended_in_tour:
            return
        tally = self._tallies.get(reading.connection)
        if tally is None:
            return
        kept = self._kept.get(reading.number)
        if kept is None:
            if len(self._kept) >= self._max_living:
                return
            self._kept[reading.number] = _Kept(reading.packets, reading.octets, self._tour)
        self._count(tally, reading, kept)
        if kept is not None:
            kept.packets, kept.octets, kept.tour = reading.packets, reading.octets, self._tour

    def end_tour(self) -> None:
        """All have been read. What was not seen in two tours has ended unnoticed."""
        self._ended_in_tour = None
        self._kept = {number: kept for number, kept in self._kept.items() if kept.tour >= self._tour - 1}

    def _count(self, tally: _Tally, reading: Reading, kept: _Kept | None) -> None:
        packets, octets = reading.packets, reading.octets
        if kept is not None and kept.packets <= packets and kept.octets <= octets:  # else another connection has the number now
            packets, octets = packets - kept.packets, octets - kept.octets
        if not packets:
            return
        if not tally.packets:
            self._risen.append(tally)
        tally.packets += packets
        tally.octets += octets

    def take(self, most: int) -> list[Increase]:
        """What has risen since it was taken last, of so many flows at most."""
        found: list[Increase] = []
        while self._risen and len(found) < most:
            tally = self._risen.popleft()
            found.append(Increase(tally.flow, tally.packets, tally.octets))
            tally.packets = tally.octets = 0
        return found
