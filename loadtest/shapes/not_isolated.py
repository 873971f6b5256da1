"""New flows to a pod that no policy isolates: the cost of the rules for packets that no worker sees."""

from collections.abc import Iterator, Sequence

from loadtest.clusters import PolicyCluster
from loadtest.measure import Target, Variant
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Parameters
from loadtest.subjects import Netpolq, Nothing, Subject
from loadtest.testbed.manifests import Body
from loadtest.traffic import WORKER_CPUS, known_tuples

_NONE = "no agent"
_OFF = "netpolq, unknown addresses pass"
_ON = "netpolq, unknown addresses wait"
_VALUE = "delivered_per_s"
_POD_RANGES = "10.200.1.0/24,fd00:200:1::/64"


class NotIsolated:
    """No queue: the kernel passes every packet, on the CPU of the generator. Every packet is a new source port of a few pods.

    With and without `--hold-unknown`, for which the kernel looks the pod's address up in the set of those it knows.
    """

    name = "not-isolated"
    title = "New flows to a pod that no policy isolates"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._cluster = PolicyCluster()

    def _bodies(self) -> Iterator[Body]:
        return (body for body in self._cluster.bodies() if body["kind"] != "NetworkPolicy")

    def variants(self) -> Sequence[Variant]:
        traffic = known_tuples(self._cluster, self._parameters.packets)
        subjects: dict[str, Subject] = {
            _NONE: Nothing(),
            _OFF: Netpolq(flags=("--hold-unknown=off",)),
            _ON: Netpolq(flags=("--hold-unknown=on", f"--pod-cidrs={_POD_RANGES}")),
        }
        return [
            PacketVariant(name=name, bodies=self._bodies, subject=subject, traffic=traffic, cpus=WORKER_CPUS, all_inline=True)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [Target(value=_VALUE, subject=_ON, reference=_OFF, at_least=0.98)]
