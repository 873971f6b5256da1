"""Metrics merged over workers, from real memory written by real processes."""

import os
import subprocess
import sys

from collections.abc import Iterator
from itertools import pairwise

import pytest

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from netpolq.buckets import BOUNDS_NS, HISTOGRAM_BOUNDS_US
from netpolq.dataplane.bridge_guard import TAGGED
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import CACHE_ACCEPTS, CACHE_LOOKUPS, CACHE_MISSES, UNJUDGED, CacheCounts
from netpolq.ipc import counter_memory
from netpolq.netlink.queue_table import QueueStats
from netpolq.supervisor.host_monitor import HostMonitor
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.metrics.deprecated_names import FORMER_NAMES
from netpolq.supervisor.metrics.exposition import WINDOW_S, QueueCollector, WorkerCollector, expose, quantile_us
from netpolq.supervisor.metrics.state import Reading, StateCollector, ruleset_readings, verdict_cache_readings
from tests.support.progress import progress_of
from tests.unit.dataplane.test_ruleset import CONFIG

WORKER = """
import sys
from netpolq.enums import Verdict
from netpolq_worker.worker.metrics import WorkerMetrics
from netpolq_worker.worker.packet import series_of
memory, file_id, accepted, dropped, duration_ns = map(int, sys.argv[1:])
metrics = WorkerMetrics(file_id, memory)
metrics.count_evaluated(series_of(6, 4) << 1 | Verdict.ACCEPT, accepted, duration_ns)
metrics.count_evaluated(series_of(17, 16) << 1 | Verdict.DROP, dropped, duration_ns)
metrics.flush(misses=1)
"""


Memories = dict[int, int]


@pytest.fixture
def memories() -> Iterator[Memories]:
    """Counter memories of two workers, by metrics file id."""
    found = {file_id: counter_memory.make() for file_id in range(2)}
    yield found
    for descriptor in found.values():
        os.close(descriptor)


def work(memories: Memories, file_id: int, *, accepted: int, dropped: int, duration_ns: int) -> None:
    """Let a process of its own count packets as a worker does."""
    memory = memories[file_id]
    subprocess.run(
        [sys.executable, "-c", WORKER, *map(str, (memory, file_id, accepted, dropped, duration_ns))],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": "/nonexistent"},
        pass_fds=[memory],
        check=True,
    )


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scrape reads, by name and labels."""
    return {
        # The parser appends `_total` to the name of every counter.
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(expose(registry).decode())
        for sample in family.samples
    }


@pytest.fixture
def registry(memories: Memories) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: memories))
    return registry


TCP4 = (("family", "IPv4"), ("protocol", "TCP"))
UDP6 = (("family", "IPv6"), ("protocol", "UDP"))


def test_workers_are_summed_and_a_successor_goes_on_counting(registry: CollectorRegistry, memories: Memories) -> None:
    work(memories, 0, accepted=5, dropped=1, duration_ns=3_000)
    work(memories, 1, accepted=7, dropped=0, duration_ns=30_000)
    work(memories, 0, accepted=1, dropped=0, duration_ns=3_000)
    read = samples(registry)
    assert read["packet_count_total", (*TCP4, ("verdict", "accept"))] == 13
    assert read["packet_count_total", (*UDP6, ("verdict", "drop"))] == 1
    assert read["packet_process_duration_microseconds_count", ()] == 14
    assert read["packet_process_duration_microseconds_sum", ()] == pytest.approx(7 * 3 + 7 * 30)
    assert read["netpolq_flow_cache_misses_total", ()] == 3
    assert b'\npacket_count{family="IPv4",protocol="TCP",verdict="accept"} 13.0\n' in expose(registry)


def test_histogram_is_exact_at_its_bounds(registry: CollectorRegistry, memories: Memories) -> None:
    work(memories, 0, accepted=4, dropped=0, duration_ns=10_000)
    work(memories, 0, accepted=2, dropped=0, duration_ns=10_001)
    read = samples(registry)

    def bucket(bound: str) -> float:
        return read["packet_process_time_bucket", (("family", "IPv4"), ("le", bound), ("protocol", "TCP"))]

    assert bucket("5.0") == 0
    assert bucket("10.0") == 4
    assert bucket("20.0") == 6
    assert bucket("+Inf") == read["packet_process_time_count", TCP4] == 6


def test_summary_has_the_quantiles_of_all_workers(registry: CollectorRegistry, memories: Memories) -> None:
    work(memories, 0, accepted=90, dropped=0, duration_ns=4_000)
    work(memories, 1, accepted=10, dropped=0, duration_ns=400_000)
    read = samples(registry)
    quantiles = {labels[0][1]: value for (name, labels), value in read.items() if labels and labels[0][0] == "quantile"}
    assert quantiles["0.5"] == pytest.approx(4, rel=0.09)
    assert quantiles["0.9"] == pytest.approx(4, rel=0.09)
    assert quantiles["0.99"] == pytest.approx(400, rel=0.09)


def test_quantiles_forget_what_is_older_than_the_window(memories: Memories) -> None:
    now = [0.0]
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: memories, clock=lambda: now[0]))
    median = "packet_process_duration_microseconds", (("quantile", "0.5"),)
    work(memories, 0, accepted=100, dropped=0, duration_ns=4_000)
    assert samples(registry)[median] == pytest.approx(4, rel=0.09)
    now[0] = WINDOW_S / 2
    samples(registry)
    now[0] = WINDOW_S + 1
    work(memories, 0, accepted=3, dropped=0, duration_ns=400_000)
    assert samples(registry)[median] == pytest.approx(400, rel=0.09)


def test_scale_is_fine_enough_for_quantiles() -> None:
    assert all(high / low < 1.09 for low, high in pairwise(BOUNDS_NS) if low >= 1000)
    assert {bound * 1000 for bound in HISTOGRAM_BOUNDS_US} <= set(BOUNDS_NS)


def test_quantile_of_nothing_is_not_a_number() -> None:
    assert quantile_us({}, 0.5) != quantile_us({}, 0.5)


def test_a_table_of_queues_that_cannot_be_read_costs_its_series_alone_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def read() -> tuple[QueueStats, ...]:
        raise PermissionError(13, "Permission denied", "/proc/net/netfilter/nfnetlink_queue")

    registry = CollectorRegistry()
    registry.register(QueueCollector(read, range(100, 102)))
    Gauge("netpolq_other", "Another series", registry=registry).set(7)
    for _ in range(3):
        assert samples(registry) == {("netpolq_other", ()): 7}
    (line,) = caplog.messages
    assert "nfnetlink_queue: Permission denied" in line


def test_only_our_queues_are_shown() -> None:
    rows = [QueueStats(100, 1, 2, 2, 128, 3, 4, 5), QueueStats(200, 1, 9, 2, 128, 9, 9, 9)]
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: rows, range(100, 102)))
    assert samples(registry) == {
        ("nfqueue_queue_total", (("queue", "100"),)): 2,
        ("nfqueue_queue_dropped", (("queue", "100"),)): 3,
        ("nfqueue_user_dropped", (("queue", "100"),)): 4,
        ("nfqueue_packet_id", (("queue", "100"),)): 5,
    }


def test_former_names_of_metrics_are_kept_with_the_same_values_and_marked_deprecated(
    registry: CollectorRegistry, memories: Memories
) -> None:
    """For one version, in which rules and dashboards are changed. HELP names the metric to use."""
    registry.register(StateCollector(lambda: [Reading("netpolq_kernel_verdict_cache_entries", "Decisions", (), (((), 7.0),))]))
    work(memories, 0, accepted=5, dropped=1, duration_ns=3_000)
    read, text = samples(registry), expose(registry).decode()
    for name, former in (
        ("netpolq_flow_cache_hits_total", "netpolq_verdict_cache_hits_total"),
        ("netpolq_flow_cache_misses_total", "netpolq_verdict_cache_misses_total"),
        ("netpolq_kernel_verdict_cache_entries", "netpolq_kernel_cache_entries"),
    ):
        assert read[former, ()] == read[name, ()] > 0
        assert f"# HELP {former} Deprecated: use {name}. " in text
        assert text.count(f"# TYPE {name} ") == text.count(f"# TYPE {former} ") == 1


def test_every_metric_of_the_kernels_cache_is_named_for_it_and_has_its_former_name() -> None:
    cache = VerdictCache(Ruleset(CONFIG), progress_of(), size=100, ttl_s=60)
    names = [reading.name for reading in verdict_cache_readings(cache, CacheCounts(1, 2, 3))]
    assert len(names) == 8
    assert {name.removesuffix("_total") for name in names} == {
        name for name in FORMER_NAMES if name.startswith("netpolq_kernel_verdict_cache_")
    }


def test_connections_are_counted_by_verdict_over_workers_and_the_kernels_cache(memories: Memories) -> None:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(lambda: memories, kernel_counts=lambda: CacheCounts(accepts=100, drops=50, misses=9)))
    work(memories, 0, accepted=5, dropped=1, duration_ns=3_000)
    work(memories, 1, accepted=7, dropped=2, duration_ns=3_000)
    assert connections(registry) == {
        ("accept", "worker"): 12,
        ("drop", "worker"): 3,
        ("accept", "kernel"): 100,
        ("drop", "kernel"): 50,
    }


def test_without_the_kernels_cache_only_workers_answer_and_there_are_series_from_the_start(registry: CollectorRegistry) -> None:
    """A rate needs a first value before the first connection."""
    assert connections(registry) == {("accept", "worker"): 0, ("drop", "worker"): 0}


def connections(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """By verdict and by what answered."""
    return {
        (dict(labels)["verdict"], dict(labels)["answered_by"]): value
        for (name, labels), value in samples(registry).items()
        if name == "netpolq_connections_total"
    }


def test_a_counter_of_the_kernel_is_not_shown_as_zero_before_it_was_read() -> None:
    """The table outlives agents: back from 0, the counter of packets without a verdict would raise a false alert."""
    assert ruleset_readings(HostMonitor(120).counters) == []
    assert HostMonitor(120).cache_counts is None
    host_monitor = HostMonitor(120)
    host_monitor.count({UNJUDGED: 7, CACHE_LOOKUPS: 6, CACHE_ACCEPTS: 1, CACHE_MISSES: 2})
    unjudged, spoofed = ruleset_readings(host_monitor.counters)
    assert [value for _labels, value in unjudged.values] == [7]
    assert spoofed.name == "netpolq_spoofed_packets_total"
    host_monitor.count({**host_monitor.counters, TAGGED: 3})
    (tagged,) = ruleset_readings(host_monitor.counters)[2:]
    assert (tagged.name, [value for _labels, value in tagged.values]) == ("netpolq_tagged_frames_total", [3])
    assert host_monitor.cache_counts == CacheCounts(accepts=1, drops=3, misses=2)


def test_drops_in_the_kernel_never_seem_to_become_fewer() -> None:
    """They are a difference of counters that are read one after the other; a counter that falls seems to have begun again."""
    host_monitor = HostMonitor(120)
    seen = []
    for lookups, accepts, misses in ((100, 40, 10), (180, 125, 15), (220, 140, 20)):
        host_monitor.count({CACHE_LOOKUPS: lookups, CACHE_ACCEPTS: accepts, CACHE_MISSES: misses})
        assert host_monitor.cache_counts is not None
        seen.append(host_monitor.cache_counts.drops)
    assert seen == [50, 50, 60]


def test_drops_in_the_kernel_begin_again_with_a_new_table() -> None:
    host_monitor = HostMonitor(120)
    host_monitor.count({CACHE_LOOKUPS: 100, CACHE_ACCEPTS: 40, CACHE_MISSES: 10})
    host_monitor.count({CACHE_LOOKUPS: 3, CACHE_ACCEPTS: 1, CACHE_MISSES: 1})
    assert host_monitor.cache_counts == CacheCounts(accepts=1, drops=1, misses=1)
