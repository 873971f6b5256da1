"""The load of `new-flows` with increasing numbers of policies and pods: their cost for a packet. There should be none."""

from collections.abc import Sequence
from dataclasses import replace

from loadtest.cluster_policy_bodies import POLICIES, RULES, with_cluster_policies
from loadtest.clusters import PolicyCluster
from loadtest.ipset_chain import IpsetChain
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.plots import Plot
from loadtest.subjects import Netpolq
from loadtest.traffic import WORKER_CPUS, known_tuples

_SIZES = (PolicyCluster(), PolicyCluster(on_pod=100, policies=100, pods=1_000))
_LARGEST = PolicyCluster(on_pod=1_000, policies=10_000, pods=100_000)
_QUICK_SIZES = (PolicyCluster(), PolicyCluster(on_pod=10, policies=10, pods=100))
_QUICK_LARGEST = PolicyCluster(on_pod=50, policies=500, pods=2_000)
_CHAIN_PART = 10
"""A chain of a thousand rules takes so long that it would delay the rounds of the others."""

_VALUE = "delivered_per_s"


class PolicyScale:
    """One worker on half a core, no verdict cache in the kernel; beside it the same policies as a chain with ipset matches.

    The most NetworkPolicies are measured once more with cluster-wide policies beside them, which are evaluated and decide nothing.

    Half a core, because a generator on one core is slower than a worker with a core of its own: all variants would take the whole load, and
    their ratio would have no meaning. The chain works on the core of the sender instead, so the report shows the two beside each other
    without a comparison: only the slope of each counts.
    """

    name = "policy-scale"
    title = "New flows with 1, 100 and 1,000 policies on the pod, one worker on half a core"

    def __init__(self, parameters: Parameters) -> None:
        self._packets = parameters.packets
        self._clusters = (*_QUICK_SIZES, _QUICK_LARGEST) if parameters.quick else (*_SIZES, _LARGEST)

    def variants(self) -> Sequence[Variant]:
        found: list[Variant] = []
        for cluster in self._clusters:
            # Of the largest cluster the chain gets only the policies of the pod, like the chain that kube-router writes.
            near = replace(cluster, policies=cluster.on_pod, pods=min(cluster.pods, cluster.near))
            found.append(
                PacketVariant(
                    name=_name("ipset chain", cluster),
                    subject=IpsetChain(bodies=near.bodies),
                    traffic=known_tuples(cluster, max(1, self._packets // _CHAIN_PART)),
                    inline=True,
                )
            )
        found += [
            PacketVariant(
                name=_name("netpolq", cluster),
                bodies=cluster.bodies,
                subject=Netpolq(),
                traffic=known_tuples(cluster, self._packets),
                cpus=WORKER_CPUS[:1],
                half_a_core=True,
            )
            for cluster in self._clusters
        ]
        found.append(
            PacketVariant(
                name=_with_cluster_policies(self._clusters[-1]),
                bodies=with_cluster_policies(self._clusters[-1].bodies),
                subject=Netpolq(),
                traffic=known_tuples(self._clusters[-1], self._packets),
                cpus=WORKER_CPUS[:1],
                half_a_core=True,
            )
        )
        return found

    def targets(self) -> Sequence[Target]:
        one, *more = (_name("netpolq", cluster) for cluster in self._clusters)
        more.append(_with_cluster_policies(self._clusters[-1]))
        return [Target(value=_VALUE, subject=subject, reference=one, at_least=0.95) for subject in more]

    def plots(self) -> Sequence[Plot]:
        lines = {
            line: [(float(cluster.on_pod), _name(subject, cluster)) for cluster in self._clusters]
            for line, subject in (("ipset chain, core of the sender", "ipset chain"), ("netpolq, half a core", "netpolq"))
        }
        return [
            Plot(title="Throughput by number of policies on the pod", x_label="policies on the pod", value=_VALUE, lines=lines)
        ]


def _name(subject: str, cluster: PolicyCluster) -> str:
    size = "1 policy" if cluster.on_pod == 1 else f"{cluster.on_pod:,} policies"
    if subject != "netpolq":
        return f"{subject}, {size}"
    return (
        f"{subject}, {size}"
        + (f" of {cluster.policies:,}" if cluster.policies > cluster.on_pod else "")
        + f", {cluster.pods:,} pods"
    )


def _with_cluster_policies(cluster: PolicyCluster) -> str:
    return f"{_name('netpolq', cluster)}, {POLICIES} cluster-wide policies of {RULES} rules"
