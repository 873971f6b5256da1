"""One worker and two: the rate of two in comparison with one, its distribution, and the cost of a packet in a worker."""

from collections.abc import Sequence

from loadtest.clusters import PolicyCluster
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.plots import Medians, Plot
from loadtest.subjects import Netpolq
from loadtest.traffic import ALL_CPUS, known_tuples

_SENDERS = 64
"""More senders than in other shapes: without fanout the kernel chooses the queue by a hash of the addresses, and few addresses cannot be
spread evenly."""

_ONE = "netpolq, 1 worker"
_HASHED = "netpolq, 2 workers, by address"
_FANNED = "netpolq, 2 workers, fanout"
_ESTIMATED_CORES = (4, 8, 16)
_VALUE = "delivered_per_s"
_COST = "worker_cpu_us_per_packet"


class Workers:
    """The same load for all, from a generator on each of two CPUs, since fanout chooses the queue by CPU. Workers may run on any CPU."""

    name = "workers"
    title = "New flows of known tuples: one worker, two by address, two with fanout"

    def __init__(self, parameters: Parameters) -> None:
        self._packets = parameters.packets

    def variants(self) -> Sequence[Variant]:
        cluster = PolicyCluster(pods=_SENDERS, sender_count=_SENDERS)
        traffic = known_tuples(cluster, self._packets, cpus=ALL_CPUS[:2])
        subjects = {
            _ONE: Netpolq(workers=1),
            _HASHED: Netpolq(workers=2),
            _FANNED: Netpolq(workers=2, fanout=True),
        }
        return [
            PacketVariant(name=name, bodies=cluster.bodies, subject=subject, traffic=traffic)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [Target(value=_VALUE, subject=subject, reference=_ONE, at_least=1.0) for subject in (_HASHED, _FANNED)]

    def plots(self) -> Sequence[Plot]:
        lines = {"by address": [(1.0, _ONE), (2.0, _HASHED)], "fanout": [(1.0, _ONE), (2.0, _FANNED)]}
        return [Plot(title="Throughput by number of workers", x_label="workers", value=_VALUE, lines=lines)]

    def remarks(self, medians: Medians) -> Sequence[str]:
        """An estimate for machines with more cores than this one."""
        if not all(_COST in medians[name] for name in (_ONE, _FANNED)):
            return []
        one, two = medians[_ONE][_COST], medians[_FANNED][_COST]
        estimates = ", ".join(f"{cores} cores {_round(cores * 1e6 / two):,.0f}/s" for cores in _ESTIMATED_CORES)
        return [
            f"A packet costs a worker {two:.3g} µs of CPU with two workers and {one:.3g} µs with one, handing it on to the pod included.",
            "Estimate, not measurement: workers share nothing but the read-only snapshot. If a packet goes on costing what it costs with "
            f"two, workers with cores of their own take about {estimates}. What the kernel does before the queue (receiving, "
            "forwarding, connection tracking) comes on top, on the cores that packets arrive on, and its locks and the bandwidth of memory "
            "are shared by all: take it for an upper bound.",
        ]


def _round(rate: float) -> float:
    """To two significant digits: an estimate has no more."""
    return float(f"{rate:.2g}")
