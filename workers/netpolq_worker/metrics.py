"""What a worker counts. Plain integers on the packet path, written to the multiprocess directory a few times a second.

The files are keyed by slot, not by process id, so a successor goes on counting where its predecessor stopped. They must be opened after
the fork, so `WorkerMetrics` is made in the worker.
"""

from bisect import bisect_left

from prometheus_client import CollectorRegistry, Counter, values

from netpolq.buckets import BOUNDS_NS, PACKET_TIME_COUNT, PACKET_TIME_SUM
from netpolq.enums import Verdict
from netpolq_worker.packet import PROTOCOL_NAMES

_OTHER = "other"


class _Series:
    """Counts of one protocol and family since the last flush."""

    __slots__ = ("accepted", "buckets", "dropped", "sum_ns")

    def __init__(self) -> None:
        self.accepted = 0
        self.dropped = 0
        self.sum_ns = 0
        self.buckets: dict[int, int] = {}


class WorkerMetrics:
    """Counters of one worker slot."""

    def __init__(self, slot: int) -> None:
        values.ValueClass = values.MultiProcessValue(lambda: slot)
        registry = CollectorRegistry()
        labels = ("protocol", "family")
        self._packet_count = Counter("packet_count", "Number of packets", (*labels, "verdict"), registry=registry)
        self._time_count = Counter(PACKET_TIME_COUNT, "Packets by processing time", (*labels, "bucket"), registry=registry)
        self._time_sum = Counter(PACKET_TIME_SUM, "Processing time", labels, registry=registry)
        self._malformed = Counter(
            "netpolq_malformed_packets", "Packets dropped because they could not be read", registry=registry
        )
        self._failed = Counter(
            "netpolq_failed_packets",
            "Packets answered as the failure mode says, without a decision",
            ("cause",),
            registry=registry,
        )
        self._hits = Counter("netpolq_verdict_cache_hits", "Verdicts found in a worker's cache", registry=registry)
        self._misses = Counter("netpolq_verdict_cache_misses", "Verdicts made from the snapshot", registry=registry)
        self._series: dict[tuple[int, int], _Series] = {}
        self.packets = 0
        self.malformed = 0
        self.failed: dict[str, int] = {}
        self._flushed_packets = 0
        self._flushed_misses = 0

    def judged(self, protocol: int, address_bytes: int, verdict: Verdict, duration_ns: int) -> None:
        """Count a judged packet. `address_bytes`: 4 or 16; `duration_ns`: from its arrival in the process to its verdict."""
        key = protocol, address_bytes
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series()
        if verdict:
            series.accepted += 1
        else:
            series.dropped += 1
        series.sum_ns += duration_ns
        bucket = bisect_left(BOUNDS_NS, duration_ns)
        series.buckets[bucket] = series.buckets.get(bucket, 0) + 1
        self.packets += 1

    def failed_packets(self, cause: str, count: int = 1) -> None:
        """Count packets that were answered without a decision. `cause` is one of few words."""
        self.failed[cause] = self.failed.get(cause, 0) + count

    def flush(self, misses: int) -> None:
        """Write what came since the last time. `misses`: verdicts made from the snapshot since the worker started."""
        for (protocol, address_bytes), series in self._series.items():
            labels = PROTOCOL_NAMES.get(protocol, _OTHER), "IPv4" if address_bytes == 4 else "IPv6"
            if series.accepted:
                self._packet_count.labels(*labels, "accept").inc(series.accepted)
            if series.dropped:
                self._packet_count.labels(*labels, "drop").inc(series.dropped)
            for bucket, count in series.buckets.items():
                self._time_count.labels(*labels, str(bucket)).inc(count)
            self._time_sum.labels(*labels).inc(series.sum_ns)
        self._series.clear()
        if self.malformed:
            self._malformed.inc(self.malformed)
            self.malformed = 0
        for cause, count in self.failed.items():
            self._failed.labels(cause).inc(count)
        self.failed.clear()
        made = misses - self._flushed_misses
        self._misses.inc(made)
        self._hits.inc(max(self.packets - self._flushed_packets - made, 0))
        self._flushed_packets, self._flushed_misses = self.packets, misses
