"""A set of address ranges that tells in one binary search whether an address lies in any of them."""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from netpolq.addresses import address_key


class AddressRanges:
    """Blocks of addresses of both families. `address in ranges`: whether an address lies in one of them. False if there are none."""

    def __init__(self, blocks: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        """`blocks`: disjoint."""
        # The order of keys is that of the addresses. No IPv6 block may contain the range of mapped IPv4 addresses.
        bounds = sorted((address_key(block[0].packed), address_key(block[-1].packed)) for block in blocks)
        self._starts = [start for start, _end in bounds]
        self._ends = [end for _start, end in bounds]

    def __contains__(self, address: bytes) -> bool:
        index = bisect_right(self._starts, address)
        return index > 0 and address <= self._ends[index - 1]

    def __bool__(self) -> bool:
        return bool(self._starts)
