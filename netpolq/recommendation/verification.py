"""The verification of a recommendation: its text is read as an agent reads it, compiled, and asked about seen and unseen connections.

- Every wanted connection is replayed with its addresses. All must be accepted.
- Of connections among the workloads and addresses that were seen, but not seen at the level of workloads, a random sample is asked. All
  must be denied, but for those that a summarised block or a domain name allows, which are counted.

Each pair of labels and address is a pod of its own. If an address was that of several pods over time, all but one of them get another.
"""

import random
import tempfile

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from netpolq.addresses import AddressKey, address_key, format_address, is_ipv4, parse_address
from netpolq.enums import Direction, Protocol
from netpolq.errors import NetpolqError
from netpolq.explain.compiled_evaluator import CompiledEvaluator, Pair
from netpolq.explain.manifests import load
from netpolq.model import NamedPort, Pod, Update
from netpolq.policy.evaluator import Explanation
from netpolq.reachability.render_difference import decided_text
from netpolq.recommendation.blocks import contains
from netpolq.recommendation.builder import Recommendation
from netpolq.recommendation.by_name import usable_names
from netpolq.recommendation.policies import Allowed
from netpolq.recommendation.traffic import Concrete, ConcreteEnd, OutsideEnd, Seen, SeenPort, Traffic
from netpolq.recommendation.workloads import Instance, KnownPods, Workload, named_ports
from netpolq.store import Store

SAMPLES = 2000
"""Connections in the sample of unseen ones."""

_SEED = 1
_TRIES = 10
"""Random choices for each connection of the sample; in a small cluster most choices were seen or repeat one."""

_SUBSTITUTES = {True: int(IPv4Address("240.0.0.1")), False: int(IPv6Address("100::1"))}
"""The first substitute address, by whether it is IPv4: reserved, and for discarding. Source: RFC 1112 section 4, RFC 6666."""

_OUTSIDE = {True: parse_address("203.0.113.1"), False: parse_address("3fff::1")}
"""Addresses for those that were not recorded. Source: documentation ranges, RFC 5737 and RFC 9637."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was verified. `allowed`: replayed connections. `denied`: of the sample. `by_summary`: of the sample, allowed by a block or a
    name.
    """

    allowed: int
    denied: int
    by_summary: int


class VerificationError(NetpolqError):
    """The recommendation does not do what it should. It is not printed."""


def verify(text: str, recommendation: Recommendation, traffic: Traffic, pods: KnownPods) -> Verified:
    """Verify the manifests in a text. Raises `VerificationError`, which names the connection."""
    store, addresses = _store(text, traffic, pods)
    questions = _Questions(CompiledEvaluator(store), addresses)
    wanted = _wanted(traffic)
    for concrete in wanted:
        if not questions.accepts(concrete.source, concrete.destination, concrete.port):
            raise _error(f"{concrete.text} was seen", questions.explain(concrete.source, concrete.destination, concrete.port))
    denied, by_summary = _ask_unseen(questions, recommendation, traffic, pods)
    return Verified(allowed=len(wanted), denied=denied, by_summary=by_summary)


class _Question(NamedTuple):
    """A connection to ask about."""

    source: ConcreteEnd
    destination: ConcreteEnd
    port: SeenPort


Addresses = Mapping[tuple[Workload, Instance], AddressKey]


class _Questions:
    """Asks the evaluator, which looks up each pair of addresses once."""

    def __init__(self, evaluator: CompiledEvaluator, addresses: Addresses) -> None:
        self._evaluator = evaluator
        self._addresses = addresses
        self._pairs: dict[tuple[AddressKey, AddressKey], Pair] = {}
        self._accepted: dict[tuple[Pair, SeenPort], bool] = {}

    def accepts(self, source: ConcreteEnd, destination: ConcreteEnd, port: SeenPort) -> bool:
        """Whether a connection is accepted."""
        pair = self._pair(source, destination)
        found = self._accepted.get((pair, port))
        if found is None:
            found = self._accepted[pair, port] = self._evaluator.accepts_pair(pair, port.protocol, port.number)
        return found

    def explain(self, source: ConcreteEnd, destination: ConcreteEnd, port: SeenPort) -> Explanation:
        """Explain a connection."""
        return self._evaluator.explain_pair(self._pair(source, destination), port.protocol, port.number)

    def _pair(self, source: ConcreteEnd, destination: ConcreteEnd) -> Pair:
        ends = self.address(source, destination), self.address(destination, source)
        pair = self._pairs.get(ends)
        if pair is None:
            pair = self._pairs[ends] = self._evaluator.pair(*ends)
        return pair

    def address(self, end: ConcreteEnd, other: ConcreteEnd) -> AddressKey:
        """Return the address of an end in the replay. `other`: whose IP version an unrecorded address has."""
        match end.end:
            case OutsideEnd(version, None):
                return _OUTSIDE[version == 4]
            case OutsideEnd(_version, address) if address is not None:
                return address
            case Workload() if end.instance is not None:
                return self._addresses[end.end, end.instance]
        raise AssertionError(end, other)


def _store(text: str, traffic: Traffic, pods: KnownPods) -> tuple[Store, Addresses]:
    """Return a store with the policies of a text and all known pods, and the address of each pod in it."""
    with tempfile.NamedTemporaryFile("w", prefix="netpolq-recommend-", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        store = load(Path(file.name)).store
    if store.rejections:
        raise VerificationError(f"the recommended policies cannot be read: {store.rejections[0]}; {_REPORT}")
    addresses: dict[tuple[Workload, Instance], AddressKey] = {}
    taken = {end.address for end in _outside(traffic)}
    objects: list[Pod] = []
    for workload in sorted(pods.members):
        members = pods.members[workload]
        ports = tuple(NamedPort(name, *port) for port, name in named_ports(members).items())
        for instance in sorted(members.instances, key=_instance_order):
            address = instance.address if instance.address not in taken else _substitute(instance.address, taken)
            taken.add(address)
            addresses[workload, instance] = address
            name = f"pod-{len(objects)}"
            objects.append(
                Pod(namespace=workload.namespace, name=name, labels=instance.labels, ips=(address,), named_ports=ports)
            )
    store.apply(Update(upserted=tuple(objects), ignored={}, observed_ns=0))
    for outside, names in traffic.names.items():
        store.set_names(outside, frozenset(usable_names(names)))
    return store, addresses


def _outside(traffic: Traffic) -> set[OutsideEnd]:
    """Return the ends outside that connections have."""
    return {end for seen in traffic.seen for end in (seen.source, seen.destination) if isinstance(end, OutsideEnd)}


def _substitute(address: AddressKey, taken: set[AddressKey | None]) -> AddressKey:
    """Return an address of the same family that is not taken."""
    ipv4 = is_ipv4(address)
    number = _SUBSTITUTES[ipv4] + len(taken)
    return address_key((IPv4Address(number) if ipv4 else IPv6Address(number)).packed)


def _wanted(traffic: Traffic) -> list[Concrete]:
    """Return the connections to replay, sorted. Connections that differ only in what no policy sees are all there."""
    return sorted(traffic.concrete, key=lambda concrete: (concrete.text, concrete.port))


def _ask_unseen(questions: _Questions, recommendation: Recommendation, traffic: Traffic, pods: KnownPods) -> tuple[int, int]:
    """Ask the sample. Returns how many are denied, and how many a block or a name allows."""
    counts = [0, 0]
    for question in _unseen(recommendation, traffic, pods):
        if not questions.accepts(*question):
            counts[0] += 1
        elif _is_summarised(question, questions, recommendation.allowed, traffic):
            counts[1] += 1
        else:
            where = (
                f"{_text(question.source)} -> {_text(question.destination)} {question.port.protocol.name} {question.port.number}"
            )
            raise _error(f"{where} was not seen", questions.explain(*question))
    return counts[0], counts[1]


def _unseen(recommendation: Recommendation, traffic: Traffic, pods: KnownPods) -> Iterable[_Question]:
    """Yield different connections, in which a policy decides, and which were not seen. The sample is the same for the same cluster."""
    rng = random.Random(_SEED)  # noqa: S311  # a sample
    ends = _ends(traffic, pods)
    ports = _ports(traffic)
    asked: set[tuple[object, ...]] = set()
    if not ends or not ports:
        return
    for _ in range(SAMPLES * _TRIES):
        if len(asked) == SAMPLES:
            return
        question = _Question(rng.choice(ends), rng.choice(ends), rng.choice(ports))
        source, destination, port = question
        key = source.end, destination.end, port
        if key in asked or not _is_decided(question, recommendation) or _is_seen(question, recommendation.allowed, traffic):
            continue
        asked.add(key)
        yield question


def _ends(traffic: Traffic, pods: KnownPods) -> Sequence[ConcreteEnd]:
    """Return one pod of each workload and IP version, two if it has several, and the addresses outside."""
    found: list[ConcreteEnd] = []
    for workload in sorted(pods.members):
        instances = sorted(pods.members[workload].instances, key=_instance_order)
        found += [ConcreteEnd(workload, instance) for instance in dict.fromkeys((*instances[:1], *instances[-1:]))]
    outside = _outside(traffic)
    outside |= {OutsideEnd(version, None) for version in (4, 6) if OutsideEnd(version, _OUTSIDE[version == 4]) not in outside}
    return [*found, *(ConcreteEnd(end, None) for end in sorted(outside, key=lambda end: (end.version, end.address or b"")))]


def _ports(traffic: Traffic) -> Sequence[SeenPort]:
    """Return the seen ports, and their neighbours with each protocol."""
    seen = {concrete.port for concrete in traffic.concrete}
    near = {
        SeenPort(protocol, number)
        for port in seen
        for protocol in Protocol
        for number in (port.number - 1, port.number, port.number + 1)
        if 0 < number < 65536
    }
    return sorted(seen | near)


def _is_decided(question: _Question, recommendation: Recommendation) -> bool:
    """Whether both ends have addresses of one family, differ, and one of them has a recommended policy for the direction."""
    source, destination, _port = question
    if source == destination or _is_ipv4(source) is not _is_ipv4(destination):
        return False
    return (source.end, Direction.EGRESS) in recommendation.allowed or (
        destination.end,
        Direction.INGRESS,
    ) in recommendation.allowed


def _is_ipv4(end: ConcreteEnd) -> bool:
    if isinstance(end.end, OutsideEnd):
        return end.end.version == 4
    assert end.instance is not None  # noqa: S101  # only ends outside have none
    return is_ipv4(end.instance.address)


def _is_seen(question: _Question, allowed: Mapping[tuple[Workload, Direction], Allowed], traffic: Traffic) -> bool:
    """Whether the ends were seen at the port, or are allowed there as DNS is. Blocks and names are no part of that."""
    source, destination, port = question
    return Seen(source.end, destination.end, port.protocol, port.number) in traffic.seen or any(
        isinstance(end, Workload) and (side := allowed.get((end, direction))) is not None and (other, port) in side.pairs
        for end, direction, other in (
            (source.end, Direction.EGRESS, destination.end),
            (destination.end, Direction.INGRESS, source.end),
        )
    )


def _is_summarised(
    question: _Question, questions: _Questions, allowed: Mapping[tuple[Workload, Direction], Allowed], traffic: Traffic
) -> bool:
    """Whether blocks or names of each end with a policy allow the other end at the port."""
    source, destination, port = question
    for end, direction, other in (
        (source, Direction.EGRESS, destination),
        (destination, Direction.INGRESS, source),
    ):
        side = allowed.get((end.end, direction)) if isinstance(end.end, Workload) else None
        if side is None:
            continue
        address = questions.address(other, end)
        in_block = any(contains(block, address) for block in side.blocks.get(port, ()))
        if not in_block and not any((name, port) in side.names for name in usable_names(traffic.names.get(address, ()))):
            return False
    return True


def _instance_order(instance: Instance) -> tuple[AddressKey, tuple[tuple[str, str], ...]]:
    return instance.address, tuple(sorted(instance.labels.items()))


def _text(end: ConcreteEnd) -> str:
    match end.end:
        case OutsideEnd(_version, None):
            return "an address outside"
        case OutsideEnd(_version, address) if address is not None:
            return format_address(address)
    assert end.instance is not None  # noqa: S101  # only ends outside have none
    labels = ", ".join(f"{key}={value}" for key, value in sorted(end.instance.labels.items()))
    return f"a pod of {end.end.namespace} at {format_address(end.instance.address)} ({labels or 'no labels'})"  # type: ignore[union-attr]


def _error(what: str, explanation: Explanation) -> VerificationError:
    return VerificationError(
        f"the recommendation was not printed, for its verification failed: {what}, and its verdict would be "
        f"{explanation.verdict.name.lower()} ({decided_text(explanation)}); {_REPORT}"
    )


_REPORT = "this is an error of netpolq: please report it with the flow records"
