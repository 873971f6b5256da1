"""The representative of what is outside a cluster: an address of no pod and no node that no policy's address block contains."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netpolq.addresses import AddressKey, address_key, is_ipv4, is_of_one_host, parse_address
from netpolq.model import IPBlock
from netpolq.reachability.rules import rules_of
from netpolq.store import Store

_PREFERRED = {
    True: ("203.0.113.1", "198.51.100.1", "192.0.2.1"),
    False: ("2001:db8::1", "3fff::1"),
}
"""Documentation addresses, by whether they are IPv4. Source: RFC 5737, RFC 3849, RFC 9637."""


def outside_addresses(stores: Iterable[Store]) -> tuple[AddressKey, ...]:
    """Return one address for each family that pods of the stores have.

    A block of all addresses contains every address, so it does not count. Where the other blocks leave no address free, an address that
    as few as possible of them contain represents the outside.
    """
    stores = tuple(stores)
    taken = {address for store in stores for address in _taken(store)}
    owned = {address for store in stores for address in store.address_owners()}
    blocks = [block for store in stores for block in _blocks(store) if block.prefixlen]
    return tuple(
        _freest([block for block in blocks if (block.version == 4) is ipv4], taken, ipv4=ipv4)
        for ipv4 in (True, False)
        if any(is_ipv4(address) is ipv4 for address in owned)
    )


def _taken(store: Store) -> Iterator[bytes]:
    yield from store.address_owners()
    for addresses in store.addresses_of_nodes().values():
        yield from addresses


def _blocks(store: Store) -> Iterator[IPv4Network | IPv6Network]:
    for rule in rules_of(store):
        for peer in rule.peers or ():
            if isinstance(peer, IPBlock):
                yield from (peer.cidr, *peer.except_)


def _freest(blocks: list[IPv4Network | IPv6Network], taken: set[bytes], *, ipv4: bool) -> AddressKey:
    bounds = {(int(block.network_address), int(block.broadcast_address)) for block in blocks}
    best, fewest = None, len(bounds) + 1
    for address in _candidates(bounds, ipv4=ipv4):
        if address in taken or not is_of_one_host(address):
            continue
        number = int.from_bytes(address[12:] if ipv4 else address)
        count = sum(first <= number <= last for first, last in bounds)
        if count < fewest:
            best, fewest = address, count
        if not fewest:
            break
    return parse_address(_PREFERRED[ipv4][0]) if best is None else best


def _candidates(bounds: set[tuple[int, int]], *, ipv4: bool) -> Iterator[AddressKey]:
    """The preferred addresses, then those beside a block: if any address is in no block, one of them is."""
    yield from map(parse_address, _PREFERRED[ipv4])
    greatest = (1 << (32 if ipv4 else 128)) - 1
    for first, last in sorted(bounds):
        for number in (last + 1, first - 1):
            if 0 <= number <= greatest:
                yield address_key((IPv4Address if ipv4 else IPv6Address)(number).packed)
