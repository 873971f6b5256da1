"""The connections of the demonstration, as agents would record them: the verdict of each comes from the compiled evaluator. Pure."""

import math
import random

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, parse_address
from netpolq.enums import Protocol, Verdict
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.explain.known import Known
from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.model import Labels, Pod
from netpolq.policy.evaluator import Side

NAMES: Mapping[str, tuple[str, ...]] = {
    "203.0.113.20": ("api.bank.example",),
    "203.0.113.31": ("eu.cards.example",),
    "198.51.100.7": ("deb.debian.org",),
}
"""Names that the agents of the demonstration have learned."""


class Line(NamedTuple):
    """Connections of a kind. Ends: NAMESPACE/NAME of a workload, or an address. `per_minute`: how many there are on average."""

    source: str
    destination: str
    protocol: Protocol
    port: int
    per_minute: float


_TCP, _UDP = Protocol.TCP, Protocol.UDP
LINES = (
    Line("198.51.100.23", "shop/web", _TCP, 8080, 40),
    Line("203.0.113.77", "shop/web", _TCP, 8080, 25),
    Line("198.51.100.99", "shop/api", _TCP, 8080, 0.7),
    Line("shop/web", "shop/api", _TCP, 8080, 90),
    Line("shop/web", "shop/db", _TCP, 5432, 0.5),
    Line("shop/api", "shop/cart", _TCP, 8080, 45),
    Line("shop/api", "shop/catalog", _TCP, 8080, 60),
    Line("shop/api", "shop/cache", _TCP, 6379, 30),
    Line("shop/api", "shop/db", _TCP, 5432, 1.5),
    Line("shop/api", "payments/gateway", _TCP, 8443, 12),
    Line("shop/cart", "shop/db", _TCP, 5432, 20),
    Line("shop/cart", "shop/cache", _TCP, 6379, 15),
    Line("shop/catalog", "shop/db", _TCP, 5432, 30),
    Line("shop/db", "shop/db", _TCP, 5432, 4),
    Line("shop/web", "kube-system/coredns", _UDP, 53, 50),
    Line("shop/api", "kube-system/coredns", _UDP, 53, 60),
    Line("shop/catalog", "169.254.169.254", _TCP, 80, 0.4),
    Line("payments/gateway", "payments/ledger", _TCP, 9090, 12),
    Line("payments/gateway", "203.0.113.20", _TCP, 443, 6),
    Line("payments/gateway", "203.0.113.31", _TCP, 443, 3),
    Line("payments/ledger", "payments/db", _TCP, 5432, 10),
    Line("payments/ledger", "kube-system/coredns", _UDP, 53, 8),
    Line("batch/report", "shop/db", _TCP, 5432, 3),
    Line("batch/importer", "shop/db", _TCP, 5432, 1.2),
    Line("batch/importer", "198.51.100.7", _TCP, 443, 2),
    Line("batch/cleanup", "payments/ledger", _TCP, 9090, 0.6),
    Line("batch/cleanup", "169.254.169.254", _TCP, 80, 0.2),
    Line("monitoring/prometheus", "shop/api", _TCP, 8080, 4),
    Line("monitoring/prometheus", "payments/ledger", _TCP, 9090, 4),
    Line("monitoring/prometheus", "monitoring/probe", _TCP, 9100, 12),
    Line("192.0.2.50", "monitoring/grafana", _TCP, 3000, 2),
    Line("monitoring/probe", "payments/gateway", _TCP, 22, 0.5),
)


@dataclass(frozen=True, slots=True)
class _End:
    """An end of a connection: a pod on a node, or an address outside."""

    address: AddressKey
    of_flow: FlowEnd
    node: str


class Seen(NamedTuple):
    """A flow as an agent records it."""

    node: str
    flow: Flow
    octets: int


class Traffic:
    """Makes connections with a random generator, whose seed makes them repeatable."""

    def __init__(self, known: Known, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # nothing secret
        self._workloads = _workloads(known)
        self._evaluator = CompiledEvaluator(known.store, enforcement=known.enforcement)
        self._with_audit = CompiledEvaluator(known.store, enforcement=known.enforcement, with_audit=True)
        self._seen: dict[tuple[_End, _End, Protocol, int], tuple[Seen, ...]] = {}

    def records(self, from_s: float, to_s: float) -> Iterator[FlowRecord]:
        """Records of the connections between two times (Unix time)."""
        for line in LINES:
            count = self._count(line.per_minute * (to_s - from_s) / 60.0)
            pairs: dict[tuple[_End, _End], int] = {}
            for _ in range(count):
                pair = self._random.choice(self._ends(line.source)), self._random.choice(self._ends(line.destination))
                if pair[0] is not pair[1]:
                    pairs[pair] = pairs.get(pair, 0) + 1
            for (source, destination), connections in pairs.items():
                for seen in self._of(source, destination, line):
                    yield _record(seen, from_s, to_s, connections)

    def _count(self, mean: float) -> int:
        """A number with the Poisson distribution."""
        limit, product, count = math.exp(-min(mean, 500.0)), self._random.random(), 0
        while product > limit:
            product *= self._random.random()
            count += 1
        return count

    def _ends(self, name: str) -> Sequence[_End]:
        found = self._workloads.get(name)
        if found is None:
            end = FlowEnd(name, names=NAMES.get(name, ()))
            found = self._workloads[name] = (_End(parse_address(name), end, ""),)
        return found

    def _of(self, source: _End, destination: _End, line: Line) -> tuple[Seen, ...]:
        """What agents record: that of the client's node for egress, that of the server's for ingress, unless the client's denies it."""
        key = source, destination, line.protocol, line.port
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = tuple(self._evaluated(source, destination, line))
        return found

    def _evaluated(self, source: _End, destination: _End, line: Line) -> Iterator[Seen]:
        question = source.address, destination.address, line.protocol.value, line.port
        enforced, audited = self._evaluator.explain(*question), self._with_audit.explain(*question)
        none = Side()
        for node in dict.fromkeys(filter(None, (source.node, destination.node))):
            sides = [
                (one.egress if node == source.node else none, one.ingress if node == destination.node else none)
                for one in (enforced, audited)
            ]
            denied, would_deny = (any(side.denies for side in of_one) for of_one in sides)
            if all(side.decision is None for of_one in sides for side in of_one):
                continue
            if node != source.node and source.node and enforced.egress.denies:
                continue
            verdict = _VERDICTS[denied, would_deny]
            (egress, ingress), (audit_egress, audit_ingress) = sides
            changed = verdict.is_changed_by_audit
            flow = Flow(
                source=source.of_flow,
                destination=destination.of_flow,
                protocol=line.protocol.name,
                port=line.port,
                verdict=verdict,
                egress=egress.decision,
                ingress=ingress.decision,
                audit_egress=audit_egress.decision if changed else None,
                audit_ingress=audit_ingress.decision if changed else None,
            )
            is_accepted = enforced.verdict is Verdict.ACCEPT
            yield Seen(node, flow, self._random.randrange(400, 90_000) if is_accepted else 0)


_VERDICTS = {
    (False, False): FlowVerdict.ACCEPT,
    (True, True): FlowVerdict.DENY,
    (False, True): FlowVerdict.WOULD_DENY,
    (True, False): FlowVerdict.WOULD_ACCEPT,
}


def _record(seen: Seen, from_s: float, to_s: float, connections: int) -> FlowRecord:
    octets = seen.octets * connections if seen.octets else None
    return FlowRecord(
        flow=seen.flow,
        node=seen.node,
        window_start_s=from_s,
        window_s=to_s - from_s,
        first_seen_s=from_s,
        last_seen_s=to_s,
        connections=connections,
        packets=None if octets is None else octets // 700 + 4 * connections,
        octets=octets,
    )


def _workloads(known: Known) -> dict[str, Sequence[_End]]:
    """The pods of each workload: its name is what the names of its pods begin with."""
    found: dict[str, list[_End]] = {}
    names = {name for line in LINES for name in (line.source, line.destination) if "/" in name}
    for pod in known.store.pods.values():
        name = next((name for name in names if f"{pod.namespace}/{pod.name}".startswith(f"{name}-")), "")
        if name:
            found.setdefault(name, []).append(_of_pod(pod))
    return dict(found.items())


def _of_pod(pod: Pod) -> _End:
    address = pod.ips[0]
    return _End(address, FlowEnd(format_address(address), pod.namespace, pod.name, Labels.of(pod.labels)), pod.node_name)
