"""The histogram buckets of packet processing times, shared by the workers that count and the supervisor that exposes.

One scale serves both metrics: its bounds contain those of the histogram, so the histogram is exact, and they are close enough together
(at most 8 %) for the quantiles of the summary. Counts of several workers are merged by addition.
"""

HISTOGRAM_BOUNDS_US = (1, 2, 5, 10, 20, 50, 100, 200, 500, 750, 1000, 2000, 5000, 10000, 100000)
"""Upper bounds of the histogram's buckets, in microseconds: those of the kube-network-policies agent, and finer ones between."""

_PER_DOUBLING = 9
_LOWEST_NS = 500
_DOUBLINGS = 18  # 500 ns to 131 ms

BOUNDS_NS = tuple(
    sorted(
        {round(_LOWEST_NS * 2 ** (step / _PER_DOUBLING)) for step in range(_DOUBLINGS * _PER_DOUBLING)}
        | {bound * 1000 for bound in HISTOGRAM_BOUNDS_US}
    )
)
"""Inclusive upper bounds in nanoseconds; bucket `len(BOUNDS_NS)` holds everything above the last."""

PACKET_TIME_COUNT = "netpolq_packet_time_count"
"""Internal counter of packets by protocol, family and number of the bucket; turned into histogram and summary before exposition."""

PACKET_TIME_SUM = "netpolq_packet_time_sum_ns"
"""Internal counter of nanoseconds by protocol and family."""
