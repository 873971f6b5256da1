"""Established connections through an isolated pod: the cost of the rules for packets that need no evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from loadtest import iperf
from loadtest.clusters import CLIENTS, PolicyCluster
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.plots import Medians
from loadtest.pods import PodLab, pod_lab
from loadtest.processes import Watch, others_notes
from loadtest.subjects import ExternalAgent, Netpolq, Nothing, Subject
from loadtest.testbed.manifests import Body
from loadtest.verdict import OTHERS_SHARE

NONE = "no agent"
NETPOLQ = "netpolq"
_FAMILIES = (4, 6)
_MAX_S = 3.0
_UDP_SHARE = 0.8


class Established:
    """One TCP connection as fast as possible, and one stream of UDP datagrams of 1,400 bytes at a fixed rate, each in IPv4 and in IPv6.

    From a pod to an isolated pod of the same node, by iperf3, at most three seconds each, its two ends on different CPUs. The values are
    those of the receiver. The rate of UDP is 0.8 of the maximum that arrived without an agent, measured once in each family, and the same
    for all.
    """

    name = "established"
    title = "Throughput of established connections through an isolated pod"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def variants(self) -> Sequence[Variant]:
        cluster = PolicyCluster(pods=1, sender_count=1, ports=(("TCP", iperf.PORT), ("UDP", iperf.PORT)), clients=CLIENTS)
        pace = _Pace()
        subjects: dict[str, Subject] = {
            NONE: Nothing(),
            NETPOLQ: Netpolq(verdict_cache=True),
            **{external.name: ExternalAgent(external=external) for external in self._parameters.externals},
        }
        seconds = min(_MAX_S, self._parameters.duration_s)
        return [
            EstablishedVariant(name=name, subject=subject, bodies=cluster.bodies, seconds=seconds, pace=pace)
            for name, subject in subjects.items()
        ]

    def targets(self) -> Sequence[Target]:
        return [
            Target(value=_rate(protocol, family), subject=NETPOLQ, reference=NONE, at_least=0.97)
            for protocol in ("tcp", "udp")
            for family in _FAMILIES
        ]

    def remarks(self, medians: Medians) -> Sequence[str]:
        """The rate of UDP."""
        offered = [medians[NONE].get(f"udp_ipv{family}_offered_mbit_per_s", 0.0) for family in _FAMILIES]
        return [f"Of UDP {offered[0]:,.0f} Mbit/s were offered in IPv4 and {offered[1]:,.0f} Mbit/s in IPv6."]


def _rate(protocol: str, family: int) -> str:
    return f"{protocol}_ipv{family}_mbit_per_s"


@dataclass(slots=True)
class _Pace:
    """The rate of UDP by family. The first variant, which has no agent, determines it for all."""

    bits_per_s: dict[int, float] = field(default_factory=dict)

    def of(self, opened: PodLab, family: int) -> float:
        if family not in self.bits_per_s:
            self.bits_per_s[family] = _UDP_SHARE * iperf.udp(opened, family, 1, 0).received_bits_per_s
        return self.bits_per_s[family]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstablishedVariant:
    """A subject between a client and a server of iperf3."""

    name: str
    subject: Subject
    bodies: Callable[[], Iterable[Body]]
    seconds: float
    pace: _Pace

    def open(self) -> AbstractContextManager["EstablishedRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["EstablishedRun"]:
        with pod_lab(self.bodies(), self.subject) as opened, iperf.serving(opened):
            yield EstablishedRun(self, opened)


class EstablishedRun:
    """An open variant."""

    def __init__(self, variant: EstablishedVariant, opened: PodLab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Run one transfer of each kind, one after the other."""
        del round_number
        self._lab.forget_connections()
        for family in _FAMILIES:
            self._variant.pace.of(self._lab, family)
        watch, ours_s = Watch(self._lab.started.workers), 0.0
        values: dict[str, float] = {}
        for family in _FAMILIES:
            found = iperf.tcp(self._lab, family, self._variant.seconds)
            values[_rate("tcp", family)] = found.received_bits_per_s / 1e6
            values[f"tcp_ipv{family}_retransmits"] = float(found.retransmits)
            ours_s += found.cpu_s
        for family in _FAMILIES:
            bits_per_s = self._variant.pace.of(self._lab, family)
            found = iperf.udp(self._lab, family, self._variant.seconds, bits_per_s)
            values[_rate("udp", family)] = found.received_bits_per_s / 1e6
            values[f"udp_ipv{family}_lost_share"] = found.lost_share
            values[f"udp_ipv{family}_offered_mbit_per_s"] = bits_per_s / 1e6
            ours_s += found.cpu_s
        others_share = watch.usage(ours_s).others_share
        return Sample(
            values={**values, OTHERS_SHARE: others_share}, notes=tuple(others_notes(others_share, self._variant.seconds))
        )
