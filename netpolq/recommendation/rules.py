"""The rules of one direction of a workload: peers and ports that were seen together, in the fewest rules that allow nothing else."""

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from netpolq.addresses import AddressKey, parse_address
from netpolq.enums import Direction, Protocol
from netpolq.recommendation.blocks import PodAddresses, SeenBlock, summarised
from netpolq.recommendation.identity import Identities
from netpolq.recommendation.policies import DNS_PORTS, Allowed, Rule, RulePeer, block_note, port_entries
from netpolq.recommendation.rule_cover import cover
from netpolq.recommendation.traffic import End, Evidence, OutsideEnd, SeenPort
from netpolq.recommendation.workloads import Workload

NODE_LOCAL_DNS = parse_address("169.254.20.10")
"""Where NodeLocal DNSCache listens. Source: its manifest in kubernetes/kubernetes."""

FIRST_DYNAMIC_PORT = 32768
MIN_DYNAMIC_PORTS = 16
"""So many ports of a rule from the first one on: probably chosen at run time. Source: net.ipv4.ip_local_port_range of Linux."""

Ports = dict[SeenPort, Evidence]


class NamedEntry(NamedTuple):
    """A port given by the name that the destination has for it."""

    protocol: Protocol
    name: str


Peer = Workload | SeenBlock
Entry = SeenPort | NamedEntry


def is_dns(end: End) -> bool:
    """Whether an end looks like the DNS server of pods."""
    return end.is_dns if isinstance(end, Workload) else end.address == NODE_LOCAL_DNS


class RuleBuilder:
    """Builds rules. `names`: domain names of addresses, `nodes`: names of nodes by address, both for comments."""

    def __init__(
        self,
        identities: Identities,
        pods: PodAddresses,
        names: Mapping[AddressKey, Iterable[str]],
        nodes: Mapping[AddressKey, str],
    ) -> None:
        self._identities = identities
        self._pods = pods
        self._names = names
        self._nodes = nodes

    def rules(self, workload: Workload, direction: Direction, peers: Mapping[End, Ports], allowed: Allowed) -> tuple[Rule, ...]:
        """Return the rules, those for DNS first. `allowed` is told what they allow."""
        dns: dict[End, Ports] = {}
        rest: dict[End, Ports] = {}
        for end, ports in peers.items():
            is_of_dns = is_dns(end if direction is Direction.EGRESS else workload)
            for port, evidence in ports.items():
                (dns if is_of_dns and port in DNS_PORTS else rest).setdefault(end, {})[port] = evidence
        of_dns = [rule._replace(title="DNS") for rule in self._covering(workload, direction, dns, allowed, by_name=False)]
        return (*of_dns, *self._covering(workload, direction, rest, allowed, by_name=True))

    def _covering(
        self, workload: Workload, direction: Direction, peers: Mapping[End, Ports], allowed: Allowed, *, by_name: bool
    ) -> list[Rule]:
        seen: dict[Peer, Ports] = {}
        for end in sorted((end for end in peers if isinstance(end, Workload) and peers[end]), key=self._order(workload)):
            seen[end] = peers[end]
            allowed.pairs.update((end, port) for port in peers[end])
        blocks = self._blocks({end: ports for end, ports in peers.items() if isinstance(end, OutsideEnd)})
        for block, ports in blocks.items():
            seen[block] = ports
            for port in ports:
                allowed.blocks.setdefault(port, []).append(block.block)

        def number(_peer: Peer, port: SeenPort) -> Entry:
            return port

        def name(peer: Peer, port: SeenPort) -> Entry:
            destination = workload if direction is Direction.INGRESS else peer
            found = self._identities.named_ports(destination).get(port) if isinstance(destination, Workload) else None
            return port if found is None else NamedEntry(port.protocol, found)

        rules = self._rules(workload, seen, number)
        if by_name and any(isinstance(name(peer, port), NamedEntry) for peer, ports in seen.items() for port in ports):
            named = self._rules(workload, seen, name)
            rules = named if len(named) <= len(rules) else rules
        return rules

    def _rules(self, workload: Workload, seen: Mapping[Peer, Ports], entry_of: Callable[[Peer, SeenPort], Entry]) -> list[Rule]:
        ports_of = {peer: {entry_of(peer, port): port for port in ports} for peer, ports in seen.items()}
        columns = sorted(set(chain.from_iterable(ports_of.values())), key=_entry_order)
        rules = []
        for peers, entries in cover({peer: frozenset(found) for peer, found in ports_of.items()}, columns):
            evidence = Evidence()
            for peer in peers:
                for entry in entries:
                    evidence = evidence.plus(seen[peer][ports_of[peer][entry]])
            numbers = [entry for entry in entries if isinstance(entry, SeenPort)]
            named = [entry for entry in entries if isinstance(entry, NamedEntry)]
            meant = sorted({f"{entry.name} = {ports_of[peer][entry].number}" for entry in named for peer in peers})
            notes = ([f"named ports: {', '.join(meant)}"] if meant else []) + _dynamic_notes(numbers)
            ports = port_entries(numbers, named)
            rules.append(Rule(tuple(self._rule_peer(workload, peer) for peer in peers), ports, evidence, notes=tuple(notes)))
        return rules

    def _rule_peer(self, workload: Workload, peer: Peer) -> RulePeer:
        if isinstance(peer, SeenBlock):
            return RulePeer(peer.block, block_note(peer, self._names, self._nodes))
        note = "" if peer.labels else "pods without labels"
        return RulePeer(self._identities.peer(peer, workload.namespace), note)

    def _order(self, workload: Workload) -> Callable[[Workload], tuple[bool, str]]:
        """Return the order of peers: those of the own namespace first."""
        return lambda peer: (peer.namespace != workload.namespace, self._identities.title(peer))

    def _blocks(self, peers: Mapping[OutsideEnd, Ports]) -> dict[SeenBlock, Ports]:
        """Return the blocks of outside peers with their ports, sorted."""
        by_port: dict[SeenPort, dict[OutsideEnd, Evidence]] = {}
        for end, ports in peers.items():
            for port, evidence in ports.items():
                by_port.setdefault(port, {})[end] = evidence
        blocks: dict[object, tuple[SeenBlock, Ports]] = {}
        for port, ends in sorted(by_port.items()):
            unrecorded = {end.version for end in ends if end.address is None}
            for found in summarised((end.address for end in ends if end.address is not None), unrecorded, self._pods):
                version = found.block.cidr.version
                evidence = ends.get(OutsideEnd(version, None), Evidence()) if found.has_unrecorded else Evidence()
                for address in found.seen:
                    evidence = evidence.plus(ends[OutsideEnd(version, address)])
                # Of one block, other addresses may have been seen at another port.
                block, of_block = blocks.get(found.block, (found, {}))
                both = tuple(sorted({*block.seen, *found.seen}))
                merged = SeenBlock(found.block, both, block.has_unrecorded or found.has_unrecorded)
                blocks[found.block] = merged, {**of_block, port: evidence}
        ordered = sorted(blocks.values(), key=lambda item: _block_order(item[0]))
        return dict(ordered)


def _dynamic_notes(ports: Iterable[SeenPort]) -> list[str]:
    count = sum(port.number >= FIRST_DYNAMIC_PORT for port in ports)
    if count < MIN_DYNAMIC_PORTS:
        return []
    return [
        f"{count} ports from {FIRST_DYNAMIC_PORT} on look as if they were chosen at run time; if so, give their range (endPort)"
    ]


def _entry_order(entry: Entry) -> tuple[bool, int, str, int]:
    if isinstance(entry, SeenPort):
        return True, entry.protocol, "", entry.number
    return False, entry.protocol, entry.name, 0


def _block_order(found: SeenBlock) -> tuple[int, int, int]:
    network = found.block.cidr
    return network.version, int(network.network_address), network.prefixlen
