"""The metrics of a worker: plain integers on the packet path, written to its memory (`netpolq.ipc.counter_memory`) a few times a second.

**Processing times.** Verdicts are sent in batches, so a packet's time is that of its batch: from the moment the worker receives the first
packet of the batch until it has sent the message with the verdicts. A packet that comes alone is a batch of one, and the time is its own.
Under load no packet of a batch waited longer than the time counted for it; the last ones waited less. Two readings of the clock serve a
whole batch. The time does not include the wait in the queue and in the socket, before the worker.

The memory belongs to a metrics file id, not to a process, so a new worker continues the counters of its predecessor. It must be mapped
after the fork, so `WorkerMetrics` is made in the worker.
"""

from bisect import bisect_left
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, values

from netpolq.buckets import BOUNDS_NS, PACKET_TIME_COUNT, PACKET_TIME_SUM
from netpolq.enums import PROTOCOL_NAMES, Tier
from netpolq.ipc.counter_memory import count_in
from netpolq_worker.worker.flow_cache import ANSWER_EGRESS_SHIFT, ANSWER_INGRESS_SHIFT, ANSWER_SERIES_SHIFT
from netpolq_worker.worker.packet import SERIES

_OTHER = "other"
_VERDICTS = ("drop", "accept")
_ACTIONS = ("deny", "accept")
_SERIES = (1 << ANSWER_INGRESS_SHIFT) - 1
_DIRECTIONS = (("egress", ANSWER_EGRESS_SHIFT), ("ingress", ANSWER_INGRESS_SHIFT))
_TIERS = tuple(tier.label for tier in Tier)


class RejectOutcome(StrEnum):
    """What became of the answer to a denied packet. LIMITED: the rate was exceeded. UNSUITABLE: no host must answer such a packet."""

    SENT = "sent"
    LIMITED = "limited"
    FAILED = "failed"
    UNSUITABLE = "unsuitable"


class WorkerMetrics:
    """Counters of one metrics file id. `memory`: a descriptor of `netpolq.ipc.counter_memory`; this object owns it from now on.

    `memory` None: files in prometheus_client's multiprocess directory, for programs that are not workers.
    """

    def __init__(self, metrics_file_id: int, memory: int | None = None) -> None:
        if memory is None:
            values.ValueClass = values.MultiProcessValue(lambda: metrics_file_id)
        else:
            count_in(memory, metrics_file_id)
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
            "Packets that got the failure mode's verdict, without a decision",
            ("cause",),
            registry=registry,
        )
        self._held = Counter(
            "netpolq_held_packets",
            "Packets that waited for an unknown address, by what became of them",
            ("outcome",),
            registry=registry,
        )
        self._hits = Counter("netpolq_flow_cache_hits", "Verdicts found in a worker's flow cache", registry=registry)
        self._misses = Counter("netpolq_flow_cache_misses", "Verdicts made from the snapshot", registry=registry)
        self._decisions = Counter(
            "netpolq_decisions",
            "Decisions on packets that workers evaluated: one for each direction that a policy decided",
            ("direction", "tier", "action"),
            registry=registry,
        )
        self._rejects = Counter(
            "netpolq_rejects",
            "Denied packets whose decision wants an answer, by what became of the answer",
            ("outcome", "protocol"),
            registry=registry,
        )
        self.rejects = {outcome: [0] * len(SERIES) for outcome in RejectOutcome}
        self._counts: dict[int, int] = {}
        self._times: list[dict[int, int]] = [{} for _ in SERIES]
        self._sums_ns = [0] * len(SERIES)
        self.packets = 0
        self.malformed = 0
        self.failed: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self._flushed_packets = 0
        self._flushed_misses = 0

    def count_evaluated(self, counted: int, packets: int, duration_ns: int) -> None:
        """Count packets of one batch. `counted`: their answers modulo `COUNTED_ANSWERS`; `duration_ns`: of the batch."""
        self._counts[counted] = self._counts.get(counted, 0) + packets
        self.packets += packets
        series = (counted & _SERIES) >> ANSWER_SERIES_SHIFT
        self._sums_ns[series] += packets * duration_ns
        times = self._times[series]
        bucket = bisect_left(BOUNDS_NS, duration_ns)
        times[bucket] = times.get(bucket, 0) + packets

    def count_failed(self, cause: str, count: int = 1) -> None:
        """Count packets that got the failure mode's verdict. `cause`: a value of the metric's label."""
        self.failed[cause] = self.failed.get(cause, 0) + count

    def count_held(self, outcome: str) -> None:
        """Count a packet that does not wait any more. `outcome`: a value of the metric's label."""
        self.held[outcome] = self.held.get(outcome, 0) + 1

    def count_reject(self, outcome: RejectOutcome, answer: int) -> None:
        """Count a denied packet whose decision wants an answer. `answer`: of the flow cache."""
        self.rejects[outcome][(answer & _SERIES) >> ANSWER_SERIES_SHIFT] += 1

    def flush(self, misses: int) -> None:
        """Write what was counted since the last call. `misses`: verdicts made from the snapshot since the worker started."""
        for counted, count in self._counts.items():
            verdict = counted & 1
            labels = _series_labels(*SERIES[(counted & _SERIES) >> ANSWER_SERIES_SHIFT])
            self._packet_count.labels(*labels, _VERDICTS[verdict]).inc(count)
            for direction, shift in _DIRECTIONS:
                if tier := counted >> shift & 3:
                    self._decisions.labels(direction, _TIERS[tier - 1], _ACTIONS[verdict]).inc(count)
        self._counts.clear()
        for series, (protocol, address_bytes) in enumerate(SERIES):
            times = self._times[series]
            if not times:
                continue
            labels = _series_labels(protocol, address_bytes)
            for bucket, count in times.items():
                self._time_count.labels(*labels, str(bucket)).inc(count)
            times.clear()
            self._time_sum.labels(*labels).inc(self._sums_ns[series])
            self._sums_ns[series] = 0
        if self.malformed:
            self._malformed.inc(self.malformed)
            self.malformed = 0
        for cause, count in self.failed.items():
            self._failed.labels(cause).inc(count)
        self.failed.clear()
        for outcome, count in self.held.items():
            self._held.labels(outcome).inc(count)
        self.held.clear()
        for outcome, by_series in self.rejects.items():
            for series, count in enumerate(by_series):
                if count:
                    self._rejects.labels(outcome, _series_labels(*SERIES[series])[0]).inc(count)
                    by_series[series] = 0
        made = misses - self._flushed_misses
        self._misses.inc(made)
        self._hits.inc(max(self.packets - self._flushed_packets - made, 0))
        self._flushed_packets, self._flushed_misses = self.packets, misses


def _series_labels(protocol: int, address_bytes: int) -> tuple[str, str]:
    return PROTOCOL_NAMES.get(protocol, _OTHER), "IPv4" if address_bytes == 4 else "IPv6"
