"""The compiled policy as values: what the compiler produces and the snapshot builder applies.

    peer class ── has ──> Identity            the selectors in use that match a pod, and its named ports in use
    address ───── has ──> number of an identity
    endpoint ──── has ──> two programs        egress and ingress of a local pod's address
    Program ───── lists ─> tier programs      shared by all programs with the same policies
    TierProgram ─ holds ─> rules, port tables policies of one tier that select the same endpoints

Numbers are given out by the compiler and stay while their value is in use. A `CompiledDelta` has the new value of each number and address
that changed, so the order of deltas matters and the order within a delta does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netpolq.addresses import AddressKey
from netpolq.enums import Action, Direction, Protocol, Tier


class Rule(NamedTuple):
    """A rule that can decide. `policy`: ns/name, or the qualified name of a cluster-wide policy. `priority`: of the policy, lowest first;
    0 for NetworkPolicy. `position`: 0-based index in the policy's list of this direction. `name`: as the policy names the rule, or empty.
    `is_rejected`: the sender of a packet that the rule denies gets an answer.

    The precedence within a tier is the order of (priority, policy, position).
    """

    tier: Tier
    priority: int
    policy: str
    direction: Direction
    position: int
    action: Action
    name: str
    is_rejected: bool = False


class PortRange(NamedTuple):
    """An inclusive range of ports and the rank of the rule that decides for it."""

    low: int
    high: int
    rank: int


class PortName(NamedTuple):
    """A named port of the destination pod and the rank of the rule that decides for it."""

    protocol: Protocol
    name: str
    rank: int


class PortTable(NamedTuple):
    """Which rule decides for a protocol and port. Each field is a set of candidates; the lowest rank wins.

    A rank is an index in `TierProgram.rules`. `every`: a rule without ports, which matches every protocol. `ranges`: per protocol, sorted
    and disjoint. `names`: sorted.
    """

    every: int | None
    ranges: tuple[tuple[Protocol, tuple[PortRange, ...]], ...]
    names: tuple[PortName, ...]


Tables = tuple[PortTable, ...]
"""Port tables that all apply. Usually one; a rule whose merged tables would be too large has one of its own."""


class AddressTable(NamedTuple):
    """The port tables for an address of one family: all those on the path from its leaf of a tree to the root.

    `starts`: ascending numbers, each the first address of a piece that ends before the next; below the first no table applies.
    `nodes`: two for each piece. That of a piece is `len(starts)` + its index, the parent of node n is n // 2, node 1 is the root, node 0
    is not used. The value is an index in `tables`, counted from 1, or 0 for none.
    """

    starts: tuple[int, ...]
    nodes: tuple[int, ...]
    tables: tuple[Tables, ...]


class TierProgram(NamedTuple):
    """Policies of one tier and direction that select the same endpoints. `rules`: in order of precedence.

    `isolated_by`: NetworkPolicies (ns/name, sorted), which deny what no rule of their tier decided; empty in other tiers.
    `any_peer`: rules without peers. `selectors`: sorted by selector number. `ipv4`, `ipv6`: rules about IP blocks; None: there are none.
    """

    tier: Tier
    isolated_by: tuple[str, ...]
    rules: tuple[Rule, ...]
    any_peer: Tables
    selectors: tuple[tuple[int, Tables], ...]
    ipv4: AddressTable | None
    ipv6: AddressTable | None


class Program(NamedTuple):
    """What decides one direction of an endpoint. `tiers`: numbers of tier programs, in the order of their tiers.

    `isolated_by`: all NetworkPolicies that isolate the endpoint in this direction (ns/name, sorted); empty: none does.
    `is_rejected`: the sender of a packet that this isolation denies gets an answer.
    """

    direction: Direction
    tiers: tuple[int, ...]
    isolated_by: tuple[str, ...]
    is_rejected: bool = False


class Endpoint(NamedTuple):
    """The numbers of the programs of a local pod's address; 0: no policy selects it in that direction."""

    egress: int
    ingress: int


class Identity(NamedTuple):
    """Numbers of the peer selectors that match, sorted; and (name, protocol, port) of the named ports in use, sorted."""

    selectors: tuple[int, ...]
    named_ports: tuple[tuple[str, Protocol, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledDelta:
    """A change of the compiled policy. Never written after construction.

    `identities`, `tiers`, `programs`: new value by number (from 1), None: no longer in use. `addresses`: number of an identity, 0: none.
    `endpoints`: by address of a local pod, None: no policy selects it. `shadows`: the same with the policies in audit, of the pods that
    such a policy selects. `node_addresses`: those of the pod's own node, by pod address,
    for evaluation outside the kernel. `pod_names`: ns/name, empty: no pod.
    """

    identities: Mapping[int, Identity | None] = field(default_factory=dict)
    addresses: Mapping[AddressKey, int] = field(default_factory=dict)
    tiers: Mapping[int, TierProgram | None] = field(default_factory=dict)
    programs: Mapping[int, Program | None] = field(default_factory=dict)
    endpoints: Mapping[AddressKey, Endpoint | None] = field(default_factory=dict)
    shadows: Mapping[AddressKey, Endpoint | None] = field(default_factory=dict)
    node_addresses: Mapping[AddressKey, tuple[AddressKey, ...]] = field(default_factory=dict)
    pod_names: Mapping[AddressKey, str] = field(default_factory=dict)
