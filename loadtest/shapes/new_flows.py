"""New flows of known tuples: the rate of a worker whose cache has the decisions."""

from collections.abc import Sequence
from dataclasses import replace

from loadtest.clusters import PolicyCluster
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.subjects import Accepting, ExternalAgent, Netpolq, Nothing, Subject
from loadtest.traffic import WORKER_CPUS, known_tuples

NONE = "no agent"
ACCEPT_ONE = "accept-one"
ACCEPT_BATCH = "accept-batch"
NETPOLQ = "netpolq"
_VALUE = "delivered_per_s"


class NewFlows:
    """One worker, no verdict cache in the kernel, every packet a new source port of a few pods.

    Once with a core for the worker, where a generator on a single core is the bottleneck; and once with half a core, where it is not, but
    where the worker is interrupted every few milliseconds and continues with cold caches.
    """

    name = "new-flows"
    title = "New flows of known tuples, one worker"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def variants(self) -> Sequence[Variant]:
        cluster = PolicyCluster()
        traffic = known_tuples(cluster, self._parameters.packets)
        subjects: dict[str, Subject] = {
            NONE: Nothing(),
            ACCEPT_ONE: Accepting(),
            ACCEPT_BATCH: Accepting(batch=True),
            NETPOLQ: Netpolq(),
            **{external.name: ExternalAgent(external=external) for external in self._parameters.externals},
        }
        whole = [
            PacketVariant(
                name=name, bodies=cluster.bodies, subject=subject, traffic=traffic, cpus=WORKER_CPUS, inline=name == NONE
            )
            for name, subject in subjects.items()
        ]
        half = [
            replace(variant, name=half_a_core(variant.name), cpus=WORKER_CPUS[:1], half_a_core=True)
            for variant in whole
            if variant.name in {ACCEPT_ONE, NETPOLQ}
        ]
        return [*whole, *half]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value=_VALUE, subject=NETPOLQ, reference=ACCEPT_ONE, at_least=1.25),
            Target(value=_VALUE, subject=half_a_core(NETPOLQ), reference=half_a_core(ACCEPT_ONE), at_least=1.25),
        ]


def half_a_core(name: str) -> str:
    """Name of the same variant with half a core."""
    return f"{name}, half a core"
