"""Variants under a load of sequential real connections, and the values of their latency."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from loadtest import processes
from loadtest.clusters import CLIENTS, PORT, PolicyCluster
from loadtest.connects import Clients, Connects, Load, serving
from loadtest.measure import Sample
from loadtest.pods import PodLab, pod_lab
from loadtest.processes import Watch, others_notes
from loadtest.subjects import Subject
from loadtest.testbed.manifests import Body
from loadtest.verdict import OTHERS_SHARE

_WARM_UP = 500
_CLIENT = CLIENTS[:1]


def client_cluster(policies: int = 1) -> PolicyCluster:
    """A cluster with this number of policies on the server, in which the clients may connect to it."""
    return PolicyCluster(
        on_pod=policies,
        policies=policies,
        pods=policies,
        sender_count=1,
        ports=(("TCP", PORT),),
        clients=CLIENTS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectVariant:
    """A subject between two pods.

    `samples`: connections of a round in each of the `families`. `prepare`: called before each round, after the first connections, with the
    lab and the clients.
    """

    name: str
    subject: Subject
    bodies: Callable[[], Iterable[Body]]
    samples: int
    families: tuple[int, ...] = (4, 6)
    prepare: Callable[[PodLab, Clients], None] = lambda _lab, _clients: None

    def open(self) -> AbstractContextManager["ConnectRun"]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator["ConnectRun"]:
        with pod_lab(self.bodies(), self.subject) as opened, serving(opened) as servers:
            yield ConnectRun(self, opened, servers)


class ConnectRun:
    """An open connect variant."""

    def __init__(self, variant: ConnectVariant, opened: PodLab, servers: Sequence[int]) -> None:
        self._variant = variant
        self._lab = opened
        self._servers = servers
        self._clients = {family: Clients(opened, _CLIENT, family) for family in variant.families}

    def measure(self, round_number: int) -> Sample:
        """Open connections in each family, after some that do not count."""
        del round_number
        self._lab.forget_connections()
        for clients in self._clients.values():
            clients.run(Load(count=min(_WARM_UP, self._variant.samples)))
            self._variant.prepare(self._lab, clients)
        watch, before = Watch(self._lab.started.workers), processes.cpu_times(self._servers)
        found = {family: clients.run(Load(count=self._variant.samples)) for family, clients in self._clients.items()}
        served = processes.used(before, processes.cpu_times(self._servers))
        ours_s = sum(connects.cpu_s for connects in found.values()) + sum(time.running_ns for time in served) / 1e9
        others_share = watch.usage(ours_s).others_share
        values = {name: value for family, connects in found.items() for name, value in _values(family, connects).items()}
        return Sample(
            values={**values, OTHERS_SHARE: others_share},
            distribution=found[4].distribution_us(),
            notes=tuple(_notes(found, others_share)),
        )


def _values(family: int, connects: Connects) -> dict[str, float]:
    prefix = "" if family == 4 else "ipv6_"
    return {
        f"{prefix}connect_{name}_us": connects.quantile_us(quantile)
        for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
    }


def _notes(found: dict[int, Connects], others_share: float) -> Iterator[str]:
    for family, connects in found.items():
        if connects.failed:
            yield f"IPv{family}: {connects.failed:,} connections failed, {connects.connected:,} were made"
    yield from others_notes(others_share, sum(connects.seconds for connects in found.values()))
