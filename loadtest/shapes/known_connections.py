"""Packets of connections that an isolated pod has accepted: the cost of the rules for each packet behind the first."""

from collections.abc import Sequence
from dataclasses import replace

from loadtest.clusters import PolicyCluster
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.subjects import Netpolq, Nothing, Subject
from loadtest.traffic import WORKER_CPUS, known_tuples

_NONE = "no agent"
_NETPOLQ = "netpolq"
_SOURCE_PORTS = "20000-20007"
_VALUE = "delivered_per_s"


class KnownConnections:
    """UDP packets of a few connections, all sent on one CPU, which also forwards them. Only the first of each reaches a worker.

    The throughput of iperf3 (`established`) contains the work of both ends and of the scheduler, and varies much more than the rules cost.
    Here a packet costs nothing but its way through the node, so a hundred short rounds show differences of one per cent.
    """

    name = "known-connections"
    title = "Packets of accepted connections through an isolated pod"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def variants(self) -> Sequence[Variant]:
        cluster = PolicyCluster()
        traffic = replace(known_tuples(cluster, 1), packets=self._parameters.packets, source_ports=_SOURCE_PORTS)
        subjects: dict[str, Subject] = {_NONE: Nothing(), _NETPOLQ: Netpolq(verdict_cache=True)}
        return [
            PacketVariant(name=name, bodies=cluster.bodies, subject=subject, traffic=traffic, cpus=WORKER_CPUS, all_inline=True)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [Target(value=_VALUE, subject=_NETPOLQ, reference=_NONE, at_least=0.85)]
