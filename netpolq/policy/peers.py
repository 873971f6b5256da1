"""Peers of compiled rules: selectors with their scope spelled out, of nodes, and of names; and IP blocks as ranges of numbers."""

from collections.abc import Iterator
from typing import NamedTuple

from netpolq.model import DomainPeer, IPBlock, LabelSelector, NodePeer, PodPeer
from netpolq.model import Peer as ModelPeer

ADDRESS_BITS = {4: 32, 6: 128}
"""Bits of an address by IP version."""


class PeerSelector(NamedTuple):
    """A `PodPeer` with its scope spelled out: the policy's namespace, or (`namespace` empty) all that the namespace selector selects."""

    namespace: str
    namespace_selector: LabelSelector
    pod_selector: LabelSelector


class NodeSelector(NamedTuple):
    """Every address of the nodes that a selector selects."""

    node_selector: LabelSelector


class DomainSelector(NamedTuple):
    """Every address with a learned name that a pattern matches; see `DomainPeer`."""

    pattern: str


Selector = PeerSelector | NodeSelector | DomainSelector
"""A peer that an identity matches or does not match."""


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

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield the remaining ranges, as first address and the one after the last."""
        start = self.network
        for low, high in self.except_:
            if start < low:
                yield start, low
            start = high + 1
        end = self.network + (1 << ADDRESS_BITS[self.version] - self.prefix_length)
        if start < end:
            yield start, end


Peer = Selector | Block


def compiled_peer(namespace: str, peer: ModelPeer) -> Peer:
    """Return a peer of a rule. `namespace`: of the policy, for a peer without a namespace selector."""
    match peer:
        case IPBlock():
            return _block(peer)
        case NodePeer():
            return NodeSelector(peer.selector)
        case DomainPeer():
            return DomainSelector(peer.pattern)
        case PodPeer():
            if peer.namespace_selector is None:
                return PeerSelector(namespace, LabelSelector(), peer.pod_selector)
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
