"""The recommended policies as values: a NetworkPolicy for each workload, with the evidence of each rule, and what could not be expressed.

Rules are what was seen at the level of workloads, and nothing else but for three things that comments name: both protocols of DNS,
blocks that summarise addresses, and domain names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.enums import Direction, Protocol, SelectorOperator
from netpolq.model import NAMESPACE_NAME_LABEL, DomainPeer, IPBlock, LabelSelector, PodPeer, PolicyPort, Requirement
from netpolq.recommendation.blocks import SeenBlock
from netpolq.recommendation.traffic import Evidence, SeenPort

MIN_RANGE = 3
"""Consecutive ports that become a range with `endPort`."""

DNS_PORTS = (SeenPort(Protocol.UDP, 53), SeenPort(Protocol.TCP, 53))


class RulePeer(NamedTuple):
    """A peer of a rule, and a comment about it, or nothing."""

    peer: PodPeer | IPBlock | DomainPeer
    note: str = ""


class Rule(NamedTuple):
    """A rule of one direction. `title`: what it is for, if that is known. `notes`: further comments."""

    peers: tuple[RulePeer, ...]
    ports: tuple[PolicyPort, ...]
    evidence: Evidence
    title: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A NetworkPolicy. `rules`: those of each direction that it isolates. `names`: egress rules by domain names, for a cluster-wide policy
    of the Admin tier beside it. `notes`: comments in front of it.
    """

    namespace: str
    name: str
    selector: LabelSelector
    rules: Mapping[Direction, tuple[Rule, ...]]
    names: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Allowed:
    """What the policy of a workload allows in one direction, for the verification. `pairs`: other end and port.

    `names`: domain names and port.
    """

    pairs: set[tuple[object, SeenPort]] = field(default_factory=set)
    blocks: dict[SeenPort, list[IPBlock]] = field(default_factory=dict)
    names: set[tuple[str, SeenPort]] = field(default_factory=set)


def counted(count: int, name: str) -> str:
    """Return a number of things in words."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def namespace_selector(name: str) -> LabelSelector:
    """Return the selector of one namespace."""
    return LabelSelector((Requirement(NAMESPACE_NAME_LABEL, SelectorOperator.IN, (name,)),))


def port_entries(numbers: Iterable[SeenPort], names: Iterable[tuple[Protocol, str]] = ()) -> tuple[PolicyPort, ...]:
    """Return the ports of a rule: names, then numbers with consecutive ones as ranges, by protocol."""
    entries = [PolicyPort(protocol, name) for protocol, name in names]
    runs: list[list[SeenPort]] = []
    for port in sorted(numbers, key=lambda port: (port.protocol, port.number)):
        if runs and runs[-1][-1].protocol is port.protocol and runs[-1][-1].number + 1 == port.number:
            runs[-1].append(port)
        else:
            runs.append([port])
    for run in runs:
        if len(run) >= MIN_RANGE:
            entries.append(PolicyPort(run[0].protocol, run[0].number, run[-1].number))
        else:
            entries += [PolicyPort(port.protocol, port.number) for port in run]
    return tuple(sorted(entries, key=_port_order))


def block_note(found: SeenBlock, names: Mapping[AddressKey, Iterable[str]], nodes: Mapping[AddressKey, str]) -> str:
    """Return the comment beside a block: how many addresses were seen, if it has more, and whose they are."""
    parts = []
    if found.has_unrecorded:
        parts.append("addresses that the agent did not record one by one")
    elif found.is_summary:
        parts.append(f"{len(found.seen)} addresses seen")
    of_nodes = sorted({nodes[address] for address in found.seen if address in nodes})
    if of_nodes:
        parts.append(f"node {_some(of_nodes)}")
    learned = sorted({name for address in found.seen for name in names.get(address, ())})
    if learned:
        parts.append(_some(learned))
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _port_order(port: PolicyPort) -> tuple[int, int, str, int]:
    is_name = isinstance(port.port, str)
    return port.protocol, not is_name, str(port.port) if is_name else "", 0 if is_name else int(port.port or 0)
