"""The metrics of the DNS reader: plain integers while messages are read, written to its counter memory a few times a second.

The memory outlives the process, so a new reader continues the counters. Source: `netpolq.ipc.counter_memory`.
"""

from prometheus_client import CollectorRegistry, Counter

from netpolq.ipc.counter_memory import count_in
from netpolq_worker.dns.outcomes import Tally

_NS_PER_S = 1_000_000_000


class DnsMetrics:
    """Counters of one metrics file id. `memory`: a descriptor of `netpolq.ipc.counter_memory`; this object owns it from now on."""

    def __init__(self, metrics_file_id: int, memory: int) -> None:
        count_in(memory, metrics_file_id)
        registry = CollectorRegistry()
        self._messages = Counter(
            "netpolq_dns_messages",
            "DNS messages of pods with domain names in their policies, by what became of them",
            ("kind", "outcome"),
            registry=registry,
        )
        self._cut = Counter(
            "netpolq_dns_cut_answers", "DNS responses with more addresses or records than are read", registry=registry
        )
        self._held = Counter(
            "netpolq_dns_held_packets", "Packets with DNS responses that began to wait for their addresses", registry=registry
        )
        self._released = Counter(
            "netpolq_dns_released_packets", "Packets with DNS responses that ended to wait for their addresses", registry=registry
        )
        # What an earlier reader held has been moved on: one less the other is the number of packets that wait now.
        self._released.inc(max(_value(self._held) - _value(self._released), 0.0))
        self._delay = Counter("netpolq_dns_delay_seconds", "How long released packets have waited, in total", registry=registry)

    def flush(self, tally: Tally) -> None:
        """Write what was counted since the last call, and begin at 0."""
        for (kind, outcome), messages in tally.messages.items():
            self._messages.labels(kind, outcome).inc(messages)
        tally.messages.clear()
        self._cut.inc(tally.cut_answers)
        self._held.inc(tally.held)
        self._released.inc(tally.released)
        self._delay.inc(tally.delay_ns / _NS_PER_S)
        tally.cut_answers = tally.held = tally.released = tally.delay_ns = 0


def _value(counter: Counter) -> float:
    return next(sample.value for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total"))
