"""Exposition of all metrics: merged counters of the workers, queue statistics, state of the supervisor.

The seven metrics of the kube-network-policies agent keep their names without suffix. The client library appends `_total` to
counters and has no quantiles. So `expose` renames `packet_count`, and this module computes the summary from buckets of all workers.
"""

import logging
import time

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from netpolq.buckets import BOUNDS_NS, HISTOGRAM_BOUNDS_US, PACKET_TIME_COUNT, PACKET_TIME_SUM
from netpolq.dataplane.ruleset import CacheCounts
from netpolq.flows.policy_counters import PolicyCounters, Series
from netpolq.ipc import counter_memory
from netpolq.netlink.queue_table import QueueStats
from netpolq.supervisor.metrics.deprecated_names import with_former_names

QUANTILES = (0.5, 0.9, 0.99)
WINDOW_S = 600.0
_SLICE_S = 60.0

log = logging.getLogger("metrics")

PACKET_COUNT = "packet_count"
VERDICTS = ("accept", "drop")
_BARE_COUNTERS = (PACKET_COUNT,)

_QUEUE_GAUGES = (
    ("queue_total", "nfqueue_queue_total", "Packets that wait in the queue for a verdict"),
    ("queue_dropped", "nfqueue_queue_dropped", "Packets dropped because the queue was full; not counted when failing open"),
    ("user_dropped", "nfqueue_user_dropped", "Packets dropped because the socket buffer was full; not counted when failing open"),
    ("id_sequence", "nfqueue_packet_id", "Id of the packet that was queued last"),
)


class WorkerCollector(Collector):
    """Merges the workers' counter memories. Quantiles cover the last ten minutes, sums and counts the time since the start.

    `memories`: returns their descriptors by metrics file id (`netpolq.ipc.counter_memory`). `kernel_counts`: returns the counters of the
    verdict cache in the kernel, for the count of all connections; None without the cache.
    """

    def __init__(
        self,
        memories: Callable[[], Mapping[int, int]],
        clock: Callable[[], float] = time.monotonic,
        kernel_counts: Callable[[], CacheCounts | None] = lambda: None,
    ) -> None:
        self._memories = memories
        self._clock = clock
        self._kernel_counts = kernel_counts
        self._slices: deque[tuple[float, dict[int, float]]] = deque()

    def collect(self) -> Iterator[Metric]:
        """All metrics of the workers, and the count of all connections."""
        return with_former_names(self._collect())

    def _collect(self) -> Iterator[Metric]:
        answered = dict.fromkeys(VERDICTS, 0.0)
        counts: dict[tuple[str, str], dict[int, float]] = {}
        sums: dict[tuple[str, str], float] = {}
        for metric in counter_memory.merge(self._memories()):
            if metric.name == PACKET_TIME_COUNT:
                for sample in metric.samples:
                    key = sample.labels["protocol"], sample.labels["family"]
                    counts.setdefault(key, {})[int(sample.labels["bucket"])] = sample.value
            elif metric.name == PACKET_TIME_SUM:
                for sample in metric.samples:
                    sums[sample.labels["protocol"], sample.labels["family"]] = sample.value
            else:
                yield metric
            if metric.name == PACKET_COUNT:
                for sample in metric.samples:
                    answered[sample.labels["verdict"]] += sample.value
        yield _connections(answered, self._kernel_counts())
        yield _histogram(counts, sums)
        yield from self._summary(counts, sums)

    def _summary(self, counts: dict[tuple[str, str], dict[int, float]], sums: dict[tuple[str, str], float]) -> Iterator[Metric]:
        total: dict[int, float] = {}
        for series in counts.values():
            for bucket, count in series.items():
                total[bucket] = total.get(bucket, 0.0) + count
        recent = self._within_window(total)
        name = "packet_process_duration_microseconds"
        family = SummaryMetricFamily(name, "A summary of the packet processing durations in microseconds")
        for quantile in QUANTILES:
            family.add_sample(name, {"quantile": str(quantile)}, quantile_us(recent, quantile))
        family.add_sample(f"{name}_sum", {}, sum(sums.values()) / 1000)
        family.add_sample(f"{name}_count", {}, sum(total.values()))
        yield family

    def _within_window(self, total: dict[int, float]) -> dict[int, float]:
        now = self._clock()
        while len(self._slices) > 1 and now - self._slices[1][0] >= WINDOW_S:
            self._slices.popleft()
        before = self._slices[0][1] if self._slices and now - self._slices[0][0] >= WINDOW_S else {}
        if not self._slices or now - self._slices[-1][0] >= _SLICE_S:
            self._slices.append((now, total))
        return {bucket: count - before.get(bucket, 0.0) for bucket, count in total.items() if count > before.get(bucket, 0.0)}


def quantile_us(counts: dict[int, float], quantile: float) -> float:
    """A quantile in microseconds, from counts by bucket: the upper bound of its bucket. NaN without counts."""
    remaining = quantile * sum(counts.values())
    if not counts:
        return float("nan")
    for bucket in sorted(counts):
        remaining -= counts[bucket]
        if remaining <= 0:
            return BOUNDS_NS[min(bucket, len(BOUNDS_NS) - 1)] / 1000
    return BOUNDS_NS[-1] / 1000


def _connections(by_workers: Mapping[str, float], by_kernel: CacheCounts | None) -> Metric:
    family = CounterMetricFamily(
        "netpolq_connections_total",
        "New connections with a verdict by policies, from a worker or from the verdict cache in the kernel; each attempt of a denied "
        "one counts",
        labels=("verdict", "answered_by"),
    )
    # One series each: worker and kernel counters reset at different times, and Prometheus detects a reset only in separate series.
    for verdict in VERDICTS:
        family.add_metric((verdict, "worker"), by_workers[verdict])
    if by_kernel is not None:
        family.add_metric(("accept", "kernel"), by_kernel.accepts)
        family.add_metric(("drop", "kernel"), by_kernel.drops)
    return family


def _histogram(counts: dict[tuple[str, str], dict[int, float]], sums: dict[tuple[str, str], float]) -> Metric:
    family = HistogramMetricFamily(
        "packet_process_time", "Time it has taken to process each packet (microseconds)", labels=("protocol", "family")
    )
    bounds_ns = [bound * 1000 for bound in HISTOGRAM_BOUNDS_US]
    for key in sorted(counts):
        cumulative = list(accumulate(counts[key].get(bucket, 0.0) for bucket in range(len(BOUNDS_NS) + 1)))
        buckets = [
            (str(float(bound)), cumulative[BOUNDS_NS.index(ns)]) for bound, ns in zip(HISTOGRAM_BOUNDS_US, bounds_ns, strict=True)
        ]
        family.add_metric(key, [*buckets, ("+Inf", cumulative[-1])], sums.get(key, 0.0) / 1000)
    return family


class QueueCollector(Collector):
    """The kernel's statistics of our queues (/proc/net/netfilter/nfnetlink_queue)."""

    def __init__(self, read: Callable[[], Iterable[QueueStats]], queue_nums: range) -> None:
        self._read = read
        self._queue_nums = queue_nums
        self._is_logged = False

    def collect(self) -> Iterator[Metric]:
        """Four gauges for each queue; none if the kernel's table is unreadable: only root may read it, whatever the capabilities."""
        try:
            rows = [row for row in self._read() if row.queue_num in self._queue_nums]
        except OSError as error:
            if not self._is_logged:
                self._is_logged = True
                log.warning("metrics nfqueue_* are left out: %s: %s", error.filename, error.strerror)
            return
        for field, name, documentation in _QUEUE_GAUGES:
            family = GaugeMetricFamily(name, documentation, labels=("queue",))
            for row in rows:
                family.add_metric((str(row.queue_num),), getattr(row, field))
            yield family


class PolicyCollector(Collector):
    """Connections by the policies and rules that decided them."""

    def __init__(self, counters: PolicyCounters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """One counter; no series for what no connection has met."""
        family = CounterMetricFamily(
            "netpolq_policy_connections_total",
            "New connections by the policies that decided them, in each direction; would-deny and would-accept: by policies in audit",
            labels=Series._fields,
        )
        for series, count in list(self._counters.counts.items()):
            family.add_metric(series, count)
        yield family


def expose(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format 0.0.4."""
    text = generate_latest(registry)
    for name in _BARE_COUNTERS:
        text = text.replace(f"{name}_total".encode(), name.encode())
    return text
