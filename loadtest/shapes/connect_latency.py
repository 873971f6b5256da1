"""What the first packet's way through a worker costs a TCP connect, when nothing else goes on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from loadtest.clusters import PORT, PolicyCluster
from loadtest.connects import connect, server
from loadtest.ipset_chain import IpsetChain
from loadtest.lab import Lab, lab
from loadtest.measure import Sample, Target, Variant
from loadtest.parameters import Parameters
from loadtest.processes import FamilyWatch
from loadtest.subjects import Accepting, ExternalAgent, Netpolq, Nothing, Subject
from loadtest.verdict import OTHERS_SHARE
from tests.support.manifests import Body

_POLICIES = (1, 100, 1_000)
_COUNT = 4_000
_QUICK_COUNT = 100
_RATE_PER_S = 2_000


class ConnectLatency:
    """Real sockets, one connection at a time, no verdict cache in the kernel."""

    name = "connect-latency"
    title = "TCP connect with no other load"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def variants(self) -> Sequence[Variant]:
        quick = self._parameters.quick
        count = _QUICK_COUNT if quick else _COUNT
        clusters = [
            PolicyCluster(on_pod=number, policies=number, pods=max(8, number), protocols=("TCP",)) for number in _POLICIES
        ]
        subjects: list[tuple[str, PolicyCluster, Subject]] = [
            ("no agent", clusters[0], Nothing()),
            ("accept-one", clusters[0], Accepting()),
            *((_with_policies("netpolq", cluster.on_pod), cluster, Netpolq()) for cluster in clusters),
            *(
                (_with_policies("ipset chain", cluster.on_pod), cluster, IpsetChain(bodies=cluster.bodies))
                for cluster in clusters
            ),
            *((external.name, clusters[0], ExternalAgent(external=external)) for external in self._parameters.externals),
        ]
        return [
            ConnectVariant(name=name, bodies=cluster.bodies, client=cluster.senders()[0], subject=subject, count=count)
            for name, cluster, subject in subjects
        ]

    def targets(self) -> Sequence[Target]:
        one, *_, most = (_with_policies("netpolq", number) for number in _POLICIES)
        return [
            Target(value="connect_p50_us", subject=one, reference="no agent", at_most=3.3),
            Target(value="connect_p99_us", subject=one, reference="no agent", at_most=4.0),
            Target(value="connect_p50_us", subject=most, reference="no agent", at_most=3.3),
            Target(value="connect_p99_us", subject=most, reference="no agent", at_most=4.0),
            Target(value="connect_p50_us", subject=most, reference=one, at_most=1.1),
        ]


def _with_policies(subject: str, policies: int) -> str:
    return f"{subject}, {policies:,} {'policy' if policies == 1 else 'policies'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectVariant:
    """A subject, and a client that is admitted."""

    name: str
    bodies: Callable[[], Iterable[Body]]
    client: str
    subject: Subject
    count: int

    def open(self) -> AbstractContextManager["ConnectRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["ConnectRun"]:
        with lab(self.bodies(), self.subject, clients=(self.client,)) as opened, server(opened, PORT):
            yield ConnectRun(self, opened)


class ConnectRun:
    """An open variant."""

    def __init__(self, variant: ConnectVariant, opened: Lab) -> None:
        self._variant = variant
        self._lab = opened

    def measure(self, round_number: int) -> Sample:
        """Some connects, of which the first tenth warms up. Raises `RuntimeError` if the agent was not asked about each of them."""
        del round_number
        self._lab.forget_connections()
        count, agent = self._variant.count, self._lab.started.agent
        queued = agent.packets_queued() if agent is not None else 0
        watch = FamilyWatch(self._lab.started.workers)
        made = connect(self._lab, self._variant.client, PORT, count=count + count // 10, rate_per_s=_RATE_PER_S)
        others_share = watch.others_share()
        opened = len(made.took_us)
        if agent is not None and (asked := agent.packets_queued() - queued) < opened:
            raise RuntimeError(f"only {asked:,} of {opened:,} connections were asked of a worker")
        made = replace(made, took_us=made.took_us[count // 10 :])
        return Sample(
            values={**made.values(), OTHERS_SHARE: others_share}, distribution=made.distribution_us(), notes=made.notes()
        )
