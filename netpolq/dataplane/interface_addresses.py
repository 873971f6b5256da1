"""Addresses of the interfaces of this network namespace."""

from collections.abc import Mapping
from contextlib import suppress

import psutil

from netpolq.addresses import AddressKey, parse_address


def interface_addresses() -> Mapping[str, frozenset[AddressKey]]:
    """Addresses of this node's interfaces, by name of the interface."""
    found: dict[str, set[AddressKey]] = {}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            with suppress(ValueError):  # a hardware address
                found.setdefault(name, set()).add(parse_address(one.address.partition("%")[0]))
    return {name: frozenset(keys) for name, keys in found.items()}
