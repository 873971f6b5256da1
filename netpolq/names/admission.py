"""Addresses that no domain name may open.

Domain names are about what is outside of the cluster (NPEP-133). A DNS server that lies, or the owner of a name that points it to an
address of the cluster (DNS rebinding), must not open that address to the pods that may reach the name. Policies select pods and nodes by
their labels.
"""

from collections import Counter
from collections.abc import Iterable

from netpolq.addresses import AddressKey, is_ipv4, is_of_one_host
from netpolq.model import Node, Object, Pod
from netpolq.names.table import Refusal


class ClusterAddresses:
    """Addresses of the nodes, counted by the objects that report them. Pods are looked up in the store, which has them by address.

    `interfaces`: addresses of this node's interfaces, also those that no object reports.
    """

    def __init__(self) -> None:
        self._of_nodes: Counter[AddressKey] = Counter()
        self.interfaces: frozenset[AddressKey] = frozenset()

    def replace(self, before: Object | None, after: Object | None) -> None:
        """Count an object in place of its former state; None: it did not exist, or does not exist any more."""
        for address in _of_node(after):
            self._of_nodes[address] += 1
        for address in _of_node(before):
            self._of_nodes[address] -= 1
            if not self._of_nodes[address]:
                del self._of_nodes[address]

    def is_of_node(self, address: AddressKey) -> bool:
        """Whether a known node has the address."""
        return address in self._of_nodes or address in self.interfaces


def is_special(address: AddressKey) -> bool:
    """Whether an address belongs to no single host outside: unspecified, loopback, multicast, broadcast or link-local, or IPv6 that
    carries IPv4. Source: RFC 6890; RFC 4291 section 2.5.5.1 (IPv4-compatible).
    """
    if not is_of_one_host(address):
        return True
    if is_ipv4(address):
        return address[12:14] == b"\xa9\xfe"  # 169.254.0.0/16
    return (address[0] == 0xFE and address[1] & 0xC0 == 0x80) or address[:12] == bytes(12)


def refusal(address: AddressKey, cluster: ClusterAddresses, *, is_of_pod: bool) -> Refusal | None:
    """Why an address may not be learned for any name, or None."""
    if is_special(address):
        return Refusal.SPECIAL_ADDRESS
    if is_of_pod:
        return Refusal.POD_ADDRESS
    return Refusal.NODE_ADDRESS if cluster.is_of_node(address) else None


def _of_node(item: Object | None) -> Iterable[AddressKey]:
    match item:
        case Pod():
            return item.host_ips
        case Node():
            return item.addresses
        case _:
            return ()
