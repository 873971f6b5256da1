"""What was seen, by workload: which end connected to which at which port, with the evidence; and each connection for the replay.

The result depends on the set of the records and not on their order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey, format_address, is_ipv4, parse_address
from netpolq.enums import Protocol
from netpolq.explain.flow import has_ports, parse_protocol, protocol_name
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowRecord
from netpolq.recommendation.workloads import Instance, KnownPods, Workload


class OutsideEnd(NamedTuple):
    """An end that is no known pod. `address` None: one of those that the agent did not record one by one. `version`: of IP."""

    version: int
    address: AddressKey | None


End = Workload | OutsideEnd


class SeenPort(NamedTuple):
    """A destination port of a protocol that NetworkPolicies can name."""

    protocol: Protocol
    number: int


class Evidence(NamedTuple):
    """What shows that something was wanted. `example`: the last seen connection in words."""

    connections: int = 0
    flows: int = 0
    last_seen_s: float = 0.0
    example: str = ""

    def plus(self, other: "Evidence") -> "Evidence":
        """Combine two, in any order."""
        last = self if self[2:] > other[2:] else other
        return Evidence(self.connections + other.connections, self.flows + other.flows, last.last_seen_s, last.example)


class Seen(NamedTuple):
    """One connection of workloads. `protocol`: IANA number. `port` None: the protocol has none, or it is not known."""

    source: End
    destination: End
    protocol: int
    port: int | None


class ConcreteEnd(NamedTuple):
    """One end of a connection with its address. `instance` None: no known pod. `text`: in words."""

    end: End
    instance: Instance | None
    text: str = ""


class Concrete(NamedTuple):
    """A connection with its addresses, for the replay. `text`: for an error."""

    source: ConcreteEnd
    destination: ConcreteEnd
    port: SeenPort
    text: str


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Wanted connections. `unwanted`: records that were left out because the connections were denied. `resolved`: ends that the records
    have as no pod, at an address that belongs to a known one. `names`: domain names of addresses.
    """

    seen: dict[Seen, Evidence] = field(default_factory=dict)
    concrete: set[Concrete] = field(default_factory=set)
    records: int = 0
    connections: int = 0
    first_seen_s: float = 0.0
    last_seen_s: float = 0.0
    nodes: set[str] = field(default_factory=set)
    unwanted: int = 0
    elsewhere: int = 0
    resolved: set[AddressKey] = field(default_factory=set)
    names: dict[AddressKey, set[str]] = field(default_factory=dict)


def known_pods(records: Iterable[FlowRecord]) -> KnownPods:
    """Return the pods in all records, also in those that are not wanted."""
    pods = KnownPods()
    noted = set()
    for record in records:
        for end in (record.flow.source, record.flow.destination):
            if end.pod and (found := (end.namespace, end.pod, end.labels, end.address)) not in noted:
                noted.add(found)
                pods.add(end.namespace, end.pod, end.labels, (parse_address(end.address),))
    return pods


def recent(records: Sequence[FlowRecord], since_s: float | None) -> list[FlowRecord]:
    """Return the records that were last seen in the `since_s` seconds before the newest one; None: all of them."""
    if since_s is None or not records:
        return list(records)
    start_s = max(record.last_seen_s for record in records) - since_s
    return [record for record in records if record.last_seen_s >= start_s]


def traffic_of(records: Iterable[FlowRecord], pods: KnownPods, *, namespace: str, include_denied: bool) -> Traffic:
    """Return the wanted connections. `namespace`: of one end at least; empty: any."""
    traffic = Traffic()
    reader = _Reader(pods)
    for record in records:
        flow = record.flow
        if not (include_denied or flow.verdict.is_enforced_accept):
            traffic.unwanted += 1
            continue
        source, destination = reader.end(flow.source, flow.destination), reader.end(flow.destination, flow.source)
        if not (_is_wanted(source.end, namespace) or _is_wanted(destination.end, namespace)):
            traffic.elsewhere += 1
            continue
        if flow.source.address == flow.destination.address:
            continue  # a pod always reaches its own address
        _note(traffic, record, source, destination)
    traffic.resolved = reader.resolved
    return traffic


def _is_wanted(end: End, namespace: str) -> bool:
    return isinstance(end, Workload) and namespace in {"", end.namespace}


def _note(traffic: Traffic, record: FlowRecord, source: ConcreteEnd, destination: ConcreteEnd) -> None:
    flow = record.flow
    protocol = parse_protocol(flow.protocol)
    port = flow.port if has_ports(protocol) else None
    text = (
        f"{_end_text(flow.source)} -> {_end_text(flow.destination)} {protocol_name(protocol)}{'' if port is None else f' {port}'}"
    )
    evidence = Evidence(record.connections, 1, record.last_seen_s, text)
    key = Seen(source.end, destination.end, protocol, port)
    before = traffic.seen.get(key)
    traffic.seen[key] = evidence if before is None else before.plus(evidence)
    if port is not None:
        traffic.concrete.add(Concrete(source, destination, SeenPort(Protocol(protocol), port), text))
    traffic.first_seen_s = min(traffic.first_seen_s, record.first_seen_s) if traffic.records else record.first_seen_s
    traffic.last_seen_s = max(traffic.last_seen_s, record.last_seen_s)
    traffic.records += 1
    traffic.connections += record.connections
    traffic.nodes.add(record.node)
    for names, other in ((flow.source.names, source.end), (flow.destination.names, destination.end)):
        if names and isinstance(other, OutsideEnd) and other.address is not None:
            traffic.names.setdefault(other.address, set()).update(names)


class _Reader:
    """Reads ends of records, each end once."""

    def __init__(self, pods: KnownPods) -> None:
        self._pods = pods
        self._ends: dict[FlowEnd, ConcreteEnd] = {}
        self.resolved: set[AddressKey] = set()

    def end(self, end: FlowEnd, other: FlowEnd) -> ConcreteEnd:
        """Return an end. `other`: the one whose IP version an unrecorded address has."""
        if end.address == OTHER_ADDRESSES:
            return ConcreteEnd(OutsideEnd(6 if ":" in other.address else 4, None), None, _end_text(end))
        found = self._ends.get(end)
        if found is None:
            found = self._ends[end] = ConcreteEnd(*self._owner(end), _end_text(end))
        return found

    def _owner(self, end: FlowEnd) -> tuple[End, Instance | None]:
        address = parse_address(end.address)
        if end.pod:
            return self._pods.workload(end.namespace, end.labels), Instance(end.labels, address)
        workload = self._pods.owner(address)
        if workload is None:
            return OutsideEnd(4 if is_ipv4(address) else 6, address), None
        self.resolved.add(address)
        owned = (one for one in self._pods.members[workload].instances if one.address == address)
        return workload, min(owned, key=lambda one: sorted(one.labels.items()))


def _end_text(end: FlowEnd) -> str:
    if end.address == OTHER_ADDRESSES:
        return "an address outside"
    return f"{end.pod_name} ({end.address})" if end.pod else end.address


def outside_text(end: OutsideEnd) -> str:
    """Return an end outside in words."""
    return "other addresses" if end.address is None else format_address(end.address)
