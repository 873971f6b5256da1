"""Connections that the kernel's verdict cache has answered, as flows.

Each decision in the kernel has a counter. It is read once in an interval, and what it has risen by is counted with the reasons that the
decision had when it was given to the kernel.
"""

import time

from collections.abc import Iterable, Mapping
from contextlib import closing

from netpolq.addresses import AddressKey
from netpolq.dataplane.verdict_maps import CountedKey
from netpolq.enums import Verdict
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from netpolq.ipc.flow_memory import Flag, FlowCount, Reasons
from netpolq.snapshot import memfd
from netpolq.snapshot.reader import SnapshotReader
from netpolq.supervisor.flow_intake import FlowIntake
from netpolq.supervisor.publisher import Publisher


class KernelFlowCounts:
    """The decisions in the kernel with their reasons and counts. `denied_only`: accepted connections are not recorded."""

    def __init__(self, publisher: Publisher, flows: FlowIntake, *, denied_only: bool) -> None:
        self._publisher = publisher
        self._flows = flows
        self._denied_only = denied_only
        self._reasons: dict[CountedKey, Reasons] = {}
        self._counted: dict[CountedKey, int] = {}
        self._read_s = time.time()

    def remembered(self, entries: Iterable[CachedVerdict]) -> None:
        """Note decisions of the newest published snapshot that the kernel gets now."""
        if self._publisher.newest_descriptor is not None:
            with closing(memfd.map_trusted(self._publisher.newest_descriptor)) as view:
                self._note(entries, view)

    def _note(self, entries: Iterable[CachedVerdict], view: SnapshotReader) -> None:
        known: dict[tuple[Verdict, int, int], Reasons] = {}
        for entry in entries:
            if self._denied_only and entry.verdict is Verdict.ACCEPT:
                continue
            numbers = entry.verdict, entry.egress, entry.ingress
            if numbers not in known:
                is_accept = entry.verdict is Verdict.ACCEPT
                known[numbers] = Reasons(is_accept, view.decision(entry.egress), view.decision(entry.ingress))
            key = _key(entry)
            self._reasons[key] = known[numbers]
            self._counted.pop(key, None)

    def counted(self, counts: Mapping[CountedKey, int]) -> None:
        """Count what the kernel has answered since the last call. `counts`: packets of each decision that is there."""
        now_s = time.time()
        found = []
        for key, packets in counts.items():
            reasons, before = self._reasons.get(key), self._counted.get(key, 0)
            if reasons is None or packets == before:
                continue
            self._counted[key] = packets
            flags = Flag.EVERY_PORT if key.port == EVERY_PORT else Flag(0)
            found.append(FlowCount(*key[:2], key.port, key.protocol, flags, reasons, packets - min(before, packets)))
        self._flows.count(found, self._read_s, now_s)
        self._read_s = now_s

    def forgot(self, entries: Iterable[CachedVerdict] | None) -> None:
        """The kernel no longer has these decisions; None: it has none."""
        if entries is None:
            self._reasons.clear()
            self._counted.clear()
            return
        for key in map(_key, entries):
            self._reasons.pop(key, None)
            self._counted.pop(key, None)


def _key(entry: CachedVerdict) -> CountedKey:
    return CountedKey(AddressKey(entry.source), AddressKey(entry.destination), entry.protocol, entry.port)
