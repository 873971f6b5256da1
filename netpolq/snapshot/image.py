"""What a snapshot holds, before it is encoded: identities and the programs that judge them.

An **identity** stands for all pods that no selector in use can tell apart: it is the set of peer selectors that match them, and their
named ports as far as a rule in use names them. A **program** belongs to a pod and a direction. Nothing here depends on the order in
which objects arrived.
"""

from typing import NamedTuple

from netpolq.enums import Action, Direction, Protocol, Tier


class Rule(NamedTuple):
    """A rule that can decide. Rules are stored in order of precedence: within a tier the first that matches decides.

    `policy`: ns/name. `position`: 0-based place in the policy's list of this direction.
    """

    tier: Tier
    policy: str
    direction: Direction
    position: int
    action: Action


class PortRange(NamedTuple):
    """An inclusive range of ports and the rule that decides for it (its place in a list of rules)."""

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


class AddressRange(NamedTuple):
    """An inclusive range of addresses, as numbers within their family."""

    low: int
    high: int


class Block(NamedTuple):
    """Addresses of one prefix less some ranges. `version`: 4 or 6. `network`: the prefix as a number, host bits clear.

    `except_`: sorted, disjoint.
    """

    version: int
    prefix_length: int
    network: int
    except_: tuple[AddressRange, ...]


class TierProgram(NamedTuple):
    """One tier of a program. `isolated_by`: policies (ns/name, sorted) that deny what no rule of this tier decided; empty: go on.

    `any_peer`: rules without peers. `selectors`: sorted by selector number. `blocks`: sorted.
    """

    tier: Tier
    isolated_by: tuple[str, ...]
    any_peer: PortTable | None
    selectors: tuple[tuple[int, PortTable], ...]
    blocks: tuple[tuple[Block, PortTable], ...]


Program = tuple[TierProgram, ...]


class Identity(NamedTuple):
    """Numbers of the peer selectors that match, sorted; and (name, protocol, port) of the named ports in use, sorted."""

    selectors: tuple[int, ...]
    named_ports: tuple[tuple[str, Protocol, int], ...]
