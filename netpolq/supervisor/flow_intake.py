"""The intake of flows: reads the workers' flow memories, names the ends, and keeps the records.

Ends get the names of the pods that own the addresses when the counts are read, at most a second after the connection. Nothing here can
hold up a verdict: the workers write whether or not the memories are read.
"""

import asyncio
import logging
import os
import time

from collections.abc import Iterable

from netpolq.addresses import AddressKey, format_address
from netpolq.dataplane.conntrack import Connection
from netpolq.enums import PROTOCOL_NAMES, Protocol
from netpolq.events.part import DenialEvents
from netpolq.flows.export.part import FlowExport
from netpolq.flows.policy_counters import PolicyCounters
from netpolq.flows.record import OTHER_END, Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.flows.table import WINDOW_S, FlowTable
from netpolq.flows.traffic import Traffic
from netpolq.ipc.flow_memory import Chunk, Flag, FlowCount, FlowMemoryError, FlowReader, Reasons
from netpolq.model import Labels, Pod
from netpolq.store import Store

_READ_S = 1.0
_MAX_ENDS = 100_000
"""Ends that are kept to be shared among records."""

_FLOWS_PER_TURN = 200
"""Flows whose traffic is counted at once, in some 4 ms. When all connections have been read, tens of thousands may have risen."""

_BETWEEN_TURNS_S = 0.02

_WITH_PORTS = frozenset(Protocol)

log = logging.getLogger("flows")


class FlowIntake:
    """Reads all flow memories. `node`: of this agent. `traffic`: packets and bytes of flows, None if they are not counted.

    `damaged`: reads that failed. `lost`: connections that workers could not record.
    """

    def __init__(
        self,
        store: Store,
        policy_counters: PolicyCounters,
        export: FlowExport | None,
        events: DenialEvents | None,
        traffic: Traffic | None = None,
        *,
        node: str,
        max_records: int,
    ) -> None:
        self._store = store
        self._export = export
        self._events = events
        self._traffic = traffic
        self._policy_counters = policy_counters
        self._readers: dict[int, FlowReader] = {}
        self._ends: dict[AddressKey, tuple[Pod | None, frozenset[str], FlowEnd]] = {}
        self.table = FlowTable(node, max_records, time.time())
        self.damaged = 0

    def add_memory(self, metrics_file_id: int, descriptor: int) -> None:
        """Read a memory from now on. Closes the descriptor."""
        try:
            self._readers[metrics_file_id] = FlowReader(descriptor)
        except (FlowMemoryError, OSError) as error:
            self._note_damage(metrics_file_id, error)
        finally:
            os.close(descriptor)

    @property
    def lost(self) -> int:
        """Connections that the workers had no room for in their memories."""
        return sum(reader.lost for reader in self._readers.values())

    async def run(self) -> None:
        """Read, and export the records of each window at its end, until cancelled; then those of the present window, too."""
        try:
            while True:
                await asyncio.sleep(_READ_S)
                self.read()
                while self.read_traffic():  # noqa: ASYNC110  # the event loop has other work in between
                    await asyncio.sleep(_BETWEEN_TURNS_S)
                self._offer(self.table.close_windows(time.time()))
        finally:
            self.read()
            while self.read_traffic():
                continue
            self._offer(self.table.close_windows(time.time() + 2 * WINDOW_S))

    def _offer(self, records: list[FlowRecord]) -> None:
        if self._export is not None and records:
            self._export.offer(records)

    def read(self) -> None:
        """Read what the workers have written."""
        for metrics_file_id, reader in self._readers.items():
            try:
                for chunk in reader.read():
                    self._take(chunk)
            except FlowMemoryError as error:
                self._note_damage(metrics_file_id, error)
        self.read_traffic()
        self.table.expire(time.time())

    def read_traffic(self) -> bool:
        """Count packets and bytes of as many flows as a turn of the event loop has time for. Returns whether there may be more."""
        now_s = time.time()
        risen = [] if self._traffic is None else self._traffic.take(_FLOWS_PER_TURN)
        for flow, packets, octets in risen:
            self.table.add(flow, now_s, now_s, 0, packets=packets, octets=octets)
        return len(risen) == _FLOWS_PER_TURN

    def _note_damage(self, metrics_file_id: int, error: Exception) -> None:
        self.damaged += 1
        log.error("flow memory %d cannot be read: %s", metrics_file_id, error)

    def _take(self, chunk: Chunk) -> None:
        # The clock of the host may be wrong, and a worker's moments are not believed: they only order what is within a minute.
        now_s = time.time()
        last_s = min(max(chunk.end_ns / 1e9, now_s - 60), now_s)
        first_s = min(max(chunk.start_ns / 1e9, last_s - 60), last_s)
        self.count(chunk.counts, first_s, last_s)

    def count(self, counts: Iterable[FlowCount], first_s: float, last_s: float) -> None:
        """Count connections of an interval, Unix time."""
        # By object: the counts of a chunk share their reasons, which take long to compare.
        totals: dict[int, tuple[Reasons, int]] = {}
        for count in counts:
            flow = self._flow(count)
            self.table.add(flow, first_s, last_s, count.connections)
            total = totals.get(id(count.reasons), (count.reasons, 0))[1]
            totals[id(count.reasons)] = count.reasons, total + count.connections
            if (
                self._traffic is not None
                and self._traffic.is_on
                and count.reasons.is_accept
                and Flag.ANONYMOUS not in count.flags
            ):
                self._traffic.accepted(_connection(count), flow)
            if self._events is not None:
                self._events.offer(flow, first_s, last_s, count.connections)
        for reasons, connections in totals.values():
            self._policy_counters.add(reasons, connections)

    def _flow(self, count: FlowCount) -> Flow:
        reasons = count.reasons
        anonymous = Flag.ANONYMOUS in count.flags
        has_port = count.protocol in _WITH_PORTS and Flag.EVERY_PORT not in count.flags
        return Flow(
            source=OTHER_END if anonymous else self._end(AddressKey(count.source)),
            destination=OTHER_END if anonymous else self._end(AddressKey(count.destination)),
            protocol="other" if anonymous else PROTOCOL_NAMES.get(count.protocol, str(count.protocol)),
            port=count.port if has_port and not anonymous else None,
            verdict=_verdict(reasons),
            egress=reasons.egress,
            ingress=reasons.ingress,
            audit_egress=reasons.audit_egress,
            audit_ingress=reasons.audit_ingress,
        )

    def _end(self, address: AddressKey) -> FlowEnd:
        pod, names = self._store.owner(address), self._store.names.get(address, frozenset())
        known = self._ends.get(address)
        if known is not None and known[0] is pod and known[1] == names:
            return known[2]
        text = format_address(address)
        end = FlowEnd(text, names=tuple(sorted(names)))
        if pod is not None:
            end = FlowEnd(text, pod.namespace, pod.name, Labels.of(pod.labels))
        if len(self._ends) >= _MAX_ENDS:
            self._ends.clear()
        self._ends[address] = pod, names, end
        return end


def _connection(count: FlowCount) -> Connection:
    port = count.port if count.protocol in _WITH_PORTS else 0
    return Connection(AddressKey(count.source), AddressKey(count.destination), count.protocol, port)


def _verdict(reasons: Reasons) -> FlowVerdict:
    if reasons.audit_is_accept is None or reasons.audit_is_accept == reasons.is_accept:
        return FlowVerdict.ACCEPT if reasons.is_accept else FlowVerdict.DENY
    return FlowVerdict.WOULD_DENY if reasons.is_accept else FlowVerdict.WOULD_ACCEPT
