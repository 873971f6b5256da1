"""Address blocks for addresses outside the cluster: single addresses, and few larger blocks where many neighbours were seen.

- At least `MIN_NEIGHBOURS` IPv4 addresses of one /24 become the smallest block that contains them; IPv6 addresses of one /64 become that.
  Not if a known pod has an address in the block.
- If more than `MAX_BLOCKS` blocks are left of one range of private addresses, the range takes their place; of the Internet, all addresses
  but the private ranges.
- Addresses that the agent did not record one by one: all addresses of the family.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple

from netpolq.addresses import AddressKey, is_ipv4, packed_address
from netpolq.model import IPBlock

MIN_NEIGHBOURS = 4
NEIGHBOURHOOD_BITS = {4: 24, 6: 64}
"""Prefix length of the network in which addresses are neighbours, by IP version."""

MAX_BLOCKS = 32

PRIVATE_RANGES: tuple[IPv4Network | IPv6Network, ...] = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"),
    )
)
"""Source: RFC 1918, RFC 6598, RFC 3927, RFC 4193, RFC 4291. Pods and nodes usually have addresses of these ranges."""

_EVERYTHING: dict[int, IPv4Network | IPv6Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


class SeenBlock(NamedTuple):
    """A block, and the addresses that were seen in it, sorted. `has_unrecorded`: others were seen that were not recorded one by one."""

    block: IPBlock
    seen: tuple[AddressKey, ...]
    has_unrecorded: bool = False

    @property
    def is_summary(self) -> bool:
        """Whether the block has more addresses than were seen."""
        return self.has_unrecorded or self.block.cidr.num_addresses > len(self.seen)


class PodAddresses:
    """The addresses of known pods, for the question whether a block has one."""

    def __init__(self, addresses: Iterable[AddressKey]) -> None:
        self._sorted = sorted(addresses)

    def has_any(self, network: IPv4Network | IPv6Network) -> bool:
        """Whether a pod has an address in a network."""
        first = _key(network.network_address)
        position = bisect_left(self._sorted, first)
        return position < len(self._sorted) and self._sorted[position] <= _key(network.broadcast_address)


def summarised(addresses: Iterable[AddressKey], unrecorded: Iterable[int], pods: PodAddresses) -> list[SeenBlock]:
    """Return blocks that contain all addresses, sorted. `unrecorded`: IP versions of which there are addresses that were not recorded."""
    by_version: dict[int, list[AddressKey]] = {version: [] for version in unrecorded}
    for address in sorted(addresses):
        by_version.setdefault(4 if is_ipv4(address) else 6, []).append(address)
    hidden = frozenset(unrecorded)
    found: list[SeenBlock] = []
    for version, seen in sorted(by_version.items()):
        if version in hidden:
            found.append(SeenBlock(IPBlock(_EVERYTHING[version]), tuple(seen), has_unrecorded=True))
        else:
            found += _of_scopes(version, _neighbourhoods(seen, pods))
    return sorted(found, key=_order)


def _neighbourhoods(addresses: Iterable[AddressKey], pods: PodAddresses) -> list[SeenBlock]:
    groups: dict[IPv4Network | IPv6Network, list[AddressKey]] = {}
    for address in addresses:
        single = _single(address)
        groups.setdefault(single.supernet(new_prefix=NEIGHBOURHOOD_BITS[single.version]), []).append(address)
    found = []
    for network, seen in groups.items():
        block: IPv4Network | IPv6Network = network if network.version == 6 else _smallest(seen)
        if len(seen) >= MIN_NEIGHBOURS and not pods.has_any(block):
            found.append(SeenBlock(IPBlock(block), tuple(seen)))
        else:
            found += [SeenBlock(IPBlock(_single(address)), (address,)) for address in seen]
    return found


def _single(address: AddressKey) -> IPv4Network | IPv6Network:
    packed = packed_address(address)
    return IPv4Network(packed) if len(packed) == 4 else IPv6Network(packed)


def _smallest(addresses: Sequence[AddressKey]) -> IPv4Network:
    """Return the smallest IPv4 network with sorted addresses."""
    first, last = (int.from_bytes(packed_address(address)) for address in (addresses[0], addresses[-1]))
    bits = (first ^ last).bit_length()
    return IPv4Network((first >> bits << bits, 32 - bits))


def _of_scopes(version: int, blocks: Iterable[SeenBlock]) -> list[SeenBlock]:
    """Return the blocks, or one in place of those of a scope that has too many."""
    private = [network for network in PRIVATE_RANGES if network.version == version]
    scopes: dict[IPv4Network | IPv6Network | None, list[SeenBlock]] = {}
    for found in blocks:
        address = found.block.cidr.network_address
        scopes.setdefault(next((network for network in private if address in network), None), []).append(found)
    result: list[SeenBlock] = []
    for scope, of_scope in scopes.items():
        if len(of_scope) <= MAX_BLOCKS:
            result += of_scope
            continue
        seen = tuple(sorted(address for found in of_scope for address in found.seen))
        whole = IPBlock(_EVERYTHING[version], tuple(sorted(private, key=_network_order))) if scope is None else IPBlock(scope)
        result.append(SeenBlock(whole, seen))
    return result


def contains(block: IPBlock, address: AddressKey) -> bool:
    """Whether a block has an address."""
    ip = IPv4Address(packed_address(address)) if is_ipv4(address) else IPv6Address(address)
    return ip in block.cidr and not any(ip in excepted for excepted in block.except_)


def _key(address: IPv4Address | IPv6Address) -> bytes:
    return address.packed if address.version == 6 else b"\x00" * 10 + b"\xff\xff" + address.packed


def _order(found: SeenBlock) -> tuple[int, int, int]:
    return _network_order(found.block.cidr)


def _network_order(network: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen
