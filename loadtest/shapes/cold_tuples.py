"""Packets from changing addresses to changing ports: no decision is cached, every packet is evaluated in full."""

from collections.abc import Sequence

from loadtest.cluster_policy_bodies import POLICIES, RULES, with_cluster_policies
from loadtest.clusters import MixedCluster
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.subjects import Accepting, ExternalAgent, Netpolq, Nothing, Subject
from loadtest.traffic import WORKER_CPUS, Traffic

_PODS = 100_000
_QUICK_PODS = 2_000
_WITH_CLUSTER_POLICIES = f"netpolq, {POLICIES} cluster-wide policies of {RULES} rules"


class ColdTuples:
    """One worker; half of the packets come from random pods, half from random addresses outside the cluster, all to random ports.

    The value is the number of evaluated packets, because the policies deny a part of them. netpolq is measured once more with
    cluster-wide policies, which are evaluated and decide nothing.
    """

    name = "cold-tuples"
    title = "Every packet from a random pod or outsider to a random port, one worker"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._cluster = MixedCluster(pods=_QUICK_PODS if parameters.quick else _PODS)

    def variants(self) -> Sequence[Variant]:
        traffic = Traffic(
            sources=self._cluster.sources(),
            packets=self._parameters.packets,
            destination_ports="1024-65535",
            order="random",
        )
        references: dict[str, Subject] = {"no agent": Nothing(), "accept-one": Accepting(), "accept-batch": Accepting(batch=True)}
        subjects: dict[str, Subject] = {
            "netpolq": Netpolq(),
            **{external.name: ExternalAgent(external=external) for external in self._parameters.externals},
        }
        return [
            *(
                PacketVariant(name=name, subject=subject, traffic=traffic, cpus=WORKER_CPUS, inline=isinstance(subject, Nothing))
                for name, subject in references.items()
            ),
            *(
                PacketVariant(name=name, bodies=self._cluster.bodies, subject=subject, traffic=traffic, cpus=WORKER_CPUS)
                for name, subject in subjects.items()
            ),
            PacketVariant(
                name=_WITH_CLUSTER_POLICIES,
                bodies=with_cluster_policies(self._cluster.bodies),
                subject=Netpolq(),
                traffic=traffic,
                cpus=WORKER_CPUS,
            ),
        ]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value="judged_per_s", subject="netpolq", reference="accept-one", at_least=0.7),
            Target(value="judged_per_s", subject=_WITH_CLUSTER_POLICIES, reference="netpolq", at_least=0.9),
        ]
