"""The intermediate representation of a snapshot before encoding: identities and programs.

An **identity** is the set of peer selectors in use that match a pod, and those of its named ports that a rule in use names. All pods of
a peer class have one identity. A **program** belongs to a pod and a direction. Nothing here depends on the order in which objects
arrived.
"""

from typing import NamedTuple

from netpolq.enums import Action, Direction, Protocol, Tier


class Rule(NamedTuple):
    """A rule that can decide. Rules are stored in order of precedence: within a tier the first that matches decides.

    `policy`: ns/name. `position`: 0-based index in the policy's list of this direction.
    """

    tier: Tier
    policy: str
    direction: Direction
    position: int
    action: Action


class PortRange(NamedTuple):
    """An inclusive range of ports and the rule that decides for it (its index in a list of rules)."""

    low: int
    high: int
    rule: int


class PortName(NamedTuple):
    """A named port of the destination pod and the rule that decides for it."""

    protocol: Protocol
    name: str
    rule: int


class PortTable(NamedTuple):
    """Which rule decides for a protocol and port. Each field is a set of candidates; the lowest rule wins.

    `every`: a rule without ports, which matches every protocol. `ranges`: per protocol, sorted and disjoint. `names`: sorted.
    """

    every: int | None
    ranges: tuple[tuple[Protocol, tuple[PortRange, ...]], ...]
    names: tuple[PortName, ...]


class AddressTable(NamedTuple):
    """The port tables for an address of one family: all those on the path from its leaf of a tree to the root.

    `starts`: ascending numbers, each the first address of a piece that ends before the next; below the first no table applies.
    `nodes`: two for each piece. That of a piece is `len(starts)` + its index, the parent of node n is n // 2, node 1 is the root, node 0
    is not used. The value is the index of the port table in `tables`, counted from 1, or 0 for none.
    """

    starts: tuple[int, ...]
    nodes: tuple[int, ...]
    tables: tuple[PortTable, ...]


class TierProgram(NamedTuple):
    """One tier of a program. `isolated_by`: policies (ns/name, sorted) that deny what no rule of this tier decided; empty: next tier.

    `any_peer`: rules without peers. `selectors`: sorted by selector number. `ipv4`, `ipv6`: rules about IP blocks; None: there are none.
    """

    tier: Tier
    isolated_by: tuple[str, ...]
    any_peer: PortTable | None
    selectors: tuple[tuple[int, PortTable], ...]
    ipv4: AddressTable | None
    ipv6: AddressTable | None


Program = tuple[TierProgram, ...]


class Identity(NamedTuple):
    """Numbers of the peer selectors that match, sorted; and (name, protocol, port) of the named ports in use, sorted."""

    selectors: tuple[int, ...]
    named_ports: tuple[tuple[str, Protocol, int], ...]
