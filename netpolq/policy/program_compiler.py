"""The program compiler: from the policies that isolate a pod to its program, and the decisions of the program. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from netpolq.enums import Action, Direction, Protocol, Tier
from netpolq.model import IPBlock, LabelSelector, NetworkPolicy, PodPeer
from netpolq.policy.cidr_table import AddressRange, Block, build_address_table
from netpolq.policy.port_table import Candidate, PortTables
from netpolq.snapshot.ir import AddressTable, PortTable, Rule, TierProgram


class PeerSelector(NamedTuple):
    """A `PodPeer` with its scope spelled out: the policy's namespace, or (`namespace` empty) all that the namespace selector selects."""

    namespace: str
    namespace_selector: LabelSelector
    pod_selector: LabelSelector


class Ports(NamedTuple):
    """The ports that a port table allows, whatever the rule: all, or ranges by protocol and named ports."""

    every: bool
    ranges: tuple[tuple[Protocol, tuple[tuple[int, int], ...]], ...]
    names: tuple[tuple[Protocol, str], ...]


Peer = PeerSelector | Block | None
"""The peer of a port table; None: every peer."""

Decisions = dict[Peer, Ports]
"""All that a program allows. Programs with equal decisions are equivalent, whatever the names of their policies."""


class Compiled(NamedTuple):
    """The compiled form of the policies that isolate a pod. Rule numbers are indices in `rules`.

    `left_out`: rules whose IP blocks are not in it, because they would exceed the size limit.
    """

    rules: tuple[Rule, ...]
    isolated_by: tuple[str, ...]
    tables: dict[Peer, PortTable]
    ipv4: AddressTable | None
    ipv6: AddressTable | None
    left_out: tuple[Rule, ...]

    @property
    def selectors(self) -> list[PeerSelector]:
        """The peer selectors in use, sorted."""
        return sorted(peer for peer in self.tables if isinstance(peer, PeerSelector))

    @property
    def port_names(self) -> set[str]:
        """The named ports in use."""
        return {name.name for table in self.tables.values() for name in table.names}

    def decisions(self) -> Decisions:
        """Return the ports that the program allows, by peer."""
        distinct = {id(table): table for table in self.tables.values()}
        ports = {number: _ports(table) for number, table in distinct.items()}
        return {peer: ports[id(table)] for peer, table in self.tables.items()}

    def tier(self, number: Callable[[PeerSelector], int]) -> TierProgram:
        """Return the tier of the program. `number` returns the id of a selector."""
        selectors = ((number(peer), table) for peer, table in self.tables.items() if isinstance(peer, PeerSelector))
        return TierProgram(
            tier=Tier.NETWORK_POLICY,
            isolated_by=self.isolated_by,
            any_peer=self.tables.get(None),
            selectors=tuple(sorted(selectors, key=lambda entry: entry[0])),
            ipv4=self.ipv4,
            ipv6=self.ipv6,
        )


def compile_policies(direction: Direction, policies: Sequence[NetworkPolicy]) -> Compiled:
    """Compile one direction of policies of one namespace, given in order of name."""
    rules: list[Rule] = []
    candidates: dict[Peer, list[Candidate]] = {}
    for policy in policies:
        name = policy_name(policy)
        for position, rule in enumerate(policy.rules(direction)):
            candidate = Candidate(len(rules), rule.ports)
            rules.append(Rule(Tier.NETWORK_POLICY, name, direction, position, Action.ACCEPT))
            peers: list[Peer] = [None] if rule.peers is None else [_peer(policy, peer) for peer in rule.peers]
            for peer in peers:
                candidates.setdefault(peer, []).append(candidate)
    port_tables = PortTables()
    ipv4, too_large = _take_blocks(4, candidates, port_tables)
    ipv6, too_large6 = _take_blocks(6, candidates, port_tables)
    return Compiled(
        rules=tuple(rules),
        isolated_by=tuple(policy_name(policy) for policy in policies),
        tables={peer: port_tables.of(found) for peer, found in candidates.items()},
        ipv4=ipv4,
        ipv6=ipv6,
        left_out=tuple(rules[number] for number in sorted(too_large | too_large6)),
    )


def _take_blocks(
    version: int, candidates: dict[Peer, list[Candidate]], port_tables: PortTables
) -> tuple[AddressTable | None, frozenset[int]]:
    """The table of the blocks of one family. Removes rules that exceed the size limit from the candidates, and returns them."""
    blocks = {peer: found for peer, found in candidates.items() if isinstance(peer, Block) and peer.version == version}
    table, left_out = build_address_table(blocks, port_tables)
    if left_out:
        for peer, found in blocks.items():
            candidates[peer] = [candidate for candidate in found if candidate.rule not in left_out]
    return table, left_out


def policy_name(policy: NetworkPolicy) -> str:
    """The name of a policy in a snapshot."""
    return f"{policy.namespace}/{policy.name}"


def _peer(policy: NetworkPolicy, peer: PodPeer | IPBlock) -> PeerSelector | Block:
    if isinstance(peer, IPBlock):
        return _block(peer)
    if peer.namespace_selector is None:
        return PeerSelector(policy.namespace, LabelSelector(), peer.pod_selector)
    return PeerSelector("", peer.namespace_selector, peer.pod_selector)


def _block(peer: IPBlock) -> Block:
    ranges = sorted((int(network[0]), int(network[-1])) for network in peer.except_)
    disjoint: list[AddressRange] = []
    for low, high in ranges:
        if disjoint and low <= disjoint[-1].high + 1:
            disjoint[-1] = AddressRange(disjoint[-1].low, max(high, disjoint[-1].high))
        else:
            disjoint.append(AddressRange(low, high))
    return Block(peer.cidr.version, peer.cidr.prefixlen, int(peer.cidr.network_address), tuple(disjoint))


def _ports(table: PortTable) -> Ports:
    # Every rule of these policies accepts, so which of them answers makes no difference.
    if table.every is not None:
        return Ports(every=True, ranges=(), names=())
    ranges = []
    for protocol, port_ranges in table.ranges:
        joined: list[tuple[int, int]] = []
        for low, high, _rule in port_ranges:
            if joined and joined[-1][1] == low - 1:
                joined[-1] = joined[-1][0], high
            else:
                joined.append((low, high))
        ranges.append((protocol, tuple(joined)))
    return Ports(every=False, ranges=tuple(ranges), names=tuple((name.protocol, name.name) for name in table.names))
