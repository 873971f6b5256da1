"""What a snapshot holds, before it is encoded: identities, endpoints and the programs that judge them.

An **identity** stands for all pods that no selector in use can tell apart: it is the set of peer selectors that match them, and their
named ports as far as a rule in use names them. A **program** belongs to a pod and a direction. Nothing here depends on the order in
which objects arrived.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """An inclusive range of ports and the rule that decides for it (an index into `Image.rules`)."""

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


class Endpoint(NamedTuple):
    """Programs of an isolated pod's address; None: not isolated in that direction."""

    egress: Program | None
    ingress: Program | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Everything a worker needs. Addresses are 16-byte keys (`netpolq.addresses`).

    `selectors`: what the selector numbers stand for, in order; not encoded, but two images with different ones cannot be compared
    by number. `addresses`: address → index into `identities`; an address that no rule in use can tell from an outsider is left out.
    `node_of`: pod address → index into `nodes`, the addresses of the pod's own node; only filled for cluster-wide images, because on
    a node the kernel knows its own packets without looking at addresses. `pod_names`: pod address → ns/name; only filled where somebody
    reads names, because judging needs none and they cost memory and a new version for each pod that comes or goes.
    """

    rules: tuple[Rule, ...] = ()
    selectors: tuple[object, ...] = ()
    identities: tuple[Identity, ...] = ()
    addresses: Mapping[bytes, int] = field(default_factory=dict)
    endpoints: Mapping[bytes, Endpoint] = field(default_factory=dict)
    nodes: tuple[tuple[bytes, ...], ...] = ()
    node_of: Mapping[bytes, int] = field(default_factory=dict)
    pod_names: Mapping[bytes, str] = field(default_factory=dict)
