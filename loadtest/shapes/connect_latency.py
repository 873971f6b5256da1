"""The duration of connect() of a real socket, which shows the latency that an agent adds to the first round trip of a connection."""

from collections.abc import Sequence

from loadtest.clusters import PolicyCluster
from loadtest.connect_load import ConnectVariant, client_cluster
from loadtest.ipset_chain import IpsetChain
from loadtest.measure import Target, Variant
from loadtest.parameters import Parameters
from loadtest.plots import Plot
from loadtest.subjects import Accepting, ExternalAgent, Netpolq, Nothing, Subject

NONE = "no agent"
_SAMPLES = 10_000
_QUICK_SAMPLES = 200
_SIZES = (1, 100, 1_000)
_QUICK_SIZES = (1, 10, 50)
_CHAIN = "ipset chain"
_NETPOLQ = "netpolq"


class ConnectLatency:
    """One client opens one TCP connection after the other to another pod of its node; the time of connect() alone is taken.

    The server has a long backlog, accepts and closes; the client closes with a reset and takes a new source port each time. There is no
    other load, one worker, no verdict cache in the kernel, and everything runs where the scheduler puts it. Targets concern IPv4; the ipset
    chain has no IPv6. With many policies on the pod, the middle one admits the client.
    """

    name = "connect-latency"
    title = "Latency of a TCP connect from pod to pod, without other load"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._samples = _QUICK_SAMPLES if parameters.quick else _SAMPLES
        self._sizes = _QUICK_SIZES if parameters.quick else _SIZES

    def variants(self) -> Sequence[Variant]:
        one = client_cluster()
        subjects: dict[str, Subject] = {
            NONE: Nothing(),
            "accept-one": Accepting(),
            **{external.name: ExternalAgent(external=external) for external in self._parameters.externals},
        }
        found: list[Variant] = [self._variant(name, subject, one) for name, subject in subjects.items()]
        for size in self._sizes[:: len(self._sizes) - 1]:
            cluster = client_cluster(size)
            found.append(self._variant(_sized(_CHAIN, size), IpsetChain(bodies=cluster.bodies), cluster, families=(4,)))
        found += [self._variant(_sized(_NETPOLQ, size), Netpolq(), client_cluster(size)) for size in self._sizes]
        return found

    def _variant(
        self, name: str, subject: Subject, cluster: PolicyCluster, families: tuple[int, ...] = (4, 6)
    ) -> "ConnectVariant":
        return ConnectVariant(name=name, subject=subject, bodies=cluster.bodies, samples=self._samples, families=families)

    def targets(self) -> Sequence[Target]:
        one, *_, most = (_sized(_NETPOLQ, size) for size in self._sizes)
        return [
            Target(value="connect_p50_us", subject=one, reference=NONE, at_most=2.5),
            Target(value="connect_p99_us", subject=one, reference=NONE, at_most=3.5),
            Target(value="connect_p50_us", subject=most, reference=one, at_most=1.1),
        ]

    def plots(self) -> Sequence[Plot]:
        lines = {
            _NETPOLQ: [(float(size), _sized(_NETPOLQ, size)) for size in self._sizes],
            _CHAIN: [(float(size), _sized(_CHAIN, size)) for size in self._sizes[:: len(self._sizes) - 1]],
        }
        return [
            Plot(
                title="Connect by number of policies on the pod",
                x_label="policies on the pod",
                value="connect_p50_us",
                lines=lines,
            )
        ]


def _sized(subject: str, policies: int) -> str:
    return f"{subject}, 1 policy" if policies == 1 else f"{subject}, {policies:,} policies"
