"""Metrics of the supervisor's own state, read when they are asked for."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


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
