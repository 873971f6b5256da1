"""Builds the policies from what was seen: the ends and ports of each workload and direction, then the rules for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Protocol
from netpolq.explain.flow import protocol_name
from netpolq.recommendation.blocks import PodAddresses
from netpolq.recommendation.by_name import rules_by_name
from netpolq.recommendation.identity import Identities
from netpolq.recommendation.policies import DNS_PORTS, Allowed, Policy, Rule, counted
from netpolq.recommendation.rules import Ports, RuleBuilder, is_dns
from netpolq.recommendation.traffic import End, Evidence, Seen, SeenPort, Traffic, outside_text
from netpolq.recommendation.workloads import KnownPods, Workload, same_labels_note


class Options(NamedTuple):
    """What is asked for. `namespace`: whose workloads get policies; empty: all. `domain_names`: rules by name in place of addresses."""

    namespace: str = ""
    directions: tuple[Direction, ...] = (Direction.INGRESS, Direction.EGRESS)
    domain_names: bool = False


@dataclass(slots=True, kw_only=True)
class Recommendation:
    """Policies in order of namespace and name. `allowed`: what they allow, by workload and direction. `warnings`: what to know of them."""

    policies: list[Policy] = field(default_factory=list)
    allowed: dict[tuple[Workload, Direction], Allowed] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def build(traffic: Traffic, pods: KnownPods, options: Options, nodes: Mapping[AddressKey, str]) -> Recommendation:
    """Return the recommendation. `nodes`: names of nodes by address, for comments."""
    identities = Identities(pods)
    rule_builder = RuleBuilder(identities, PodAddresses(pods.addresses), traffic.names, nodes)
    result = Recommendation()
    peers, lost = _by_workload(traffic, options, identities)
    for workload in sorted(peers, key=identities.title):
        if options.namespace and workload.namespace != options.namespace:
            continue
        note = same_labels_note(workload, pods.members[workload])
        if not workload.labels:
            result.warnings.append(f"no policy for {note}")
            continue
        notes = ([note] if note else []) + lost.get(workload, [])
        result.warnings += [f"{identities.title(workload)}: {text}" for text in notes]
        rules: dict[Direction, tuple[Rule, ...]] = {}
        by_name: tuple[Rule, ...] = ()
        for direction in options.directions:
            allowed = result.allowed[workload, direction] = Allowed()
            of_direction: Mapping[End, Ports] = peers[workload].get(direction, {})
            if direction is Direction.EGRESS and options.domain_names:
                by_name, of_direction = rules_by_name(of_direction, traffic.names, allowed)
            rules[direction] = rule_builder.rules(workload, direction, of_direction, allowed)
        result.policies.append(
            Policy(
                namespace=workload.namespace,
                name=identities.name(workload),
                selector=identities.selector(workload),
                rules=rules,
                names=by_name,
                notes=tuple(notes),
            )
        )
    return result


def _by_workload(
    traffic: Traffic, options: Options, identities: Identities
) -> tuple[dict[Workload, dict[Direction, dict[End, Ports]]], dict[Workload, list[str]]]:
    """Return the other ends and their ports of each workload and direction, and what cannot be expressed of each workload."""
    peers: dict[Workload, dict[Direction, dict[End, Ports]]] = {}
    lost: dict[Workload, list[str]] = {}

    def text(end: End) -> str:
        return identities.title(end) if isinstance(end, Workload) else outside_text(end)

    def order(seen: Seen) -> tuple[str, str, int, int]:
        return text(seen.source), text(seen.destination), seen.protocol, seen.port or 0

    for seen in sorted(traffic.seen, key=order):
        evidence = traffic.seen[seen]
        sides = (Direction.EGRESS, seen.source, seen.destination), (Direction.INGRESS, seen.destination, seen.source)
        for direction, end, other in sides:
            if not isinstance(end, Workload):
                continue
            of_workload = peers.setdefault(end, {})
            if direction not in options.directions:
                continue
            ports = _ports(seen)
            if not ports:
                lost.setdefault(end, []).append(_lost_text(seen, evidence, text(seen.source), text(seen.destination)))
                continue
            of_peer = of_workload.setdefault(direction, {}).setdefault(other, {})
            for port in ports:
                of_peer[port] = of_peer.get(port, Evidence()).plus(evidence if port.protocol == seen.protocol else Evidence())
    return peers, lost


def _ports(seen: Seen) -> tuple[SeenPort, ...]:
    """Return the ports that are allowed for a connection: both protocols for one of DNS. None if rules cannot name it."""
    if seen.port is None:
        return ()
    port = SeenPort(Protocol(seen.protocol), seen.port)
    return DNS_PORTS if port in DNS_PORTS and is_dns(seen.destination) else (port,)


def _lost_text(seen: Seen, evidence: Evidence, source: str, destination: str) -> str:
    why = (
        "was denied at every port, so the ports are not known"
        if seen.protocol in Protocol.__members__.values()
        else "cannot be allowed by a NetworkPolicy, which knows TCP, UDP and SCTP only"
    )
    count = counted(evidence.connections, "connection")
    return f"not expressed: {protocol_name(seen.protocol)} from {source} to {destination} ({count}) {why}"
