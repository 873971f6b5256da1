"""New flows of tuples that are known: what a worker takes when the decision itself is remembered."""

from collections.abc import Sequence

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


class NewFlows:
    """One worker, no verdict cache in the kernel, every packet a new source port of a few pods."""

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
        return [
            PacketVariant(
                name=name, bodies=cluster.bodies, subject=subject, traffic=traffic, cpus=WORKER_CPUS, inline=name == NONE
            )
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [Target(value="delivered_per_s", subject=NETPOLQ, reference=ACCEPT_ONE, at_least=1.25)]
