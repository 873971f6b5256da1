"""Metrics of the supervisor's own state, read when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from netpolq.dataplane.ruleset import CACHE_ACCEPTS, CACHE_LOOKUPS, CACHE_MISSES
from netpolq.supervisor.verdict_cache import VerdictCache


class Reading(NamedTuple):
    """Values of one metric: (labels, value) pairs, all with the same label names in the same order."""

    name: str
    documentation: str
    label_names: tuple[str, ...]
    values: tuple[tuple[tuple[str, ...], float], ...]

    @classmethod
    def single(cls, name: str, documentation: str, value: float) -> "Reading":
        """A metric without labels."""
        return cls(name, documentation, (), (((), value),))


class CacheCounts(NamedTuple):
    """What became of the packets that were looked up in the kernel's verdict cache."""

    accepts: int
    drops: int
    misses: int

    @classmethod
    def of(cls, counters: Mapping[str, int]) -> "CacheCounts":
        """From the ruleset's counters. These are read one after the other: packets in between must not make a number negative."""
        accepts, misses = counters.get(CACHE_ACCEPTS, 0), counters.get(CACHE_MISSES, 0)
        return cls(accepts, max(counters.get(CACHE_LOOKUPS, 0) - accepts - misses, 0), misses)

    @property
    def hits(self) -> int:
        """Packets that needed no worker."""
        return self.accepts + self.drops


def verdict_cache_readings(cache: VerdictCache, counters: Mapping[str, int]) -> list[Reading]:
    """Metrics of the verdict cache in the kernel."""
    counts = CacheCounts.of(counters)
    single = Reading.single
    return [
        single("netpolq_kernel_cache_entries", "Decisions the kernel holds", cache.entries),
        single("netpolq_kernel_cache_size", "Decisions the kernel may hold", cache.size),
        Reading(
            "netpolq_kernel_cache_hits_total",
            "First packets that were answered by a decision in the kernel",
            ("verdict",),
            ((("accept",), counts.accepts), (("drop",), counts.drops)),
        ),
        single("netpolq_kernel_cache_misses_total", "First packets that the kernel had to ask a worker about", counts.misses),
        single("netpolq_kernel_cache_remembered_total", "Decisions put into the kernel", cache.remembered),
        single("netpolq_kernel_cache_forgotten_total", "Decisions taken out one by one because of a change", cache.forgotten),
        single("netpolq_kernel_cache_flushes_total", "Times that all decisions were taken out", cache.flushes),
        Reading(
            "netpolq_kernel_cache_refused_hints_total",
            "Decisions that workers wanted kept and that were not",
            ("reason",),
            tuple(((reason,), count) for reason, count in sorted(cache.refused.items())),
        ),
    ]


class StateCollector(Collector):
    """Exposes readings; names that end in `_total` are counters, all others gauges."""

    def __init__(self, read: Callable[[], list[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """One family for each reading."""
        for name, documentation, label_names, values in self._read():
            family: CounterMetricFamily | GaugeMetricFamily
            if name.endswith("_total"):
                family = CounterMetricFamily(name, documentation, labels=label_names)
            else:
                family = GaugeMetricFamily(name, documentation, labels=label_names)
            for labels, value in values:
                family.add_metric(labels, value)
            yield family
