"""Workloads as ends of flows. A pod with the labels of the template stands for the workload; without one, a synthetic pod does.

A synthetic pod has the labels, namespace and named ports of the template, and addresses of ranges that no pod can have. These are never
shown. The addresses that the pods will get are not known, so address blocks in policies do not contain them: the synthetic ones are, where
possible, in no block but `0.0.0.0/0` and `::/0`.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netpolq.addresses import AddressKey, address_key, is_ipv4
from netpolq.errors import NetpolqError
from netpolq.explain.known import Known, Others
from netpolq.model import IPBlock, Pod, Update
from netpolq.sources.decode.others import Workload
from netpolq.store import Store

_RANGES: dict[bool, tuple[IPv4Network | IPv6Network, ...]] = {
    True: tuple(map(IPv4Network, ("240.0.0.0/8", "198.18.0.0/15", "192.0.0.0/24"))),
    False: tuple(map(IPv6Network, ("100:0:0:1::/64", "100::/64", "2001:2::/48"))),
}
"""Ranges that are not routed, by whether they are IPv4. Source: RFC 1112, RFC 2544, RFC 6890; RFC 9780, RFC 6666, RFC 5180."""

Network = IPv4Network | IPv6Network


def pod_of(known: Known, others: Others, workload: Workload, *, families: frozenset[bool]) -> Pod:
    """Return the pod that stands for a workload. Adds a synthetic one to the store if there is no other.

    `families`: whether the pod needs an IPv4 address (True) and an IPv6 address (False). Raises `NetpolqError` for one with hostNetwork.
    """
    if workload.host_network:
        raise NetpolqError(
            f"{workload} uses the network of its nodes (hostNetwork), so no policy selects it; ask about a node's address"
        )
    pods = pods_of(known.store, workload)
    if pods:
        return pods[0]
    return add_synthetic(known, others, workload, families)


def pods_of(store: Store, workload: Workload) -> list[Pod]:
    """Return the pods with an address of their own that have the labels of a template, in order of name."""
    owners = {(pod.namespace, pod.name) for pod in store.address_owners().values()}
    return [
        pod
        for key, pod in sorted(store.pods.items())
        if key in owners
        and pod.namespace == workload.namespace
        and workload.labels
        and workload.labels.items() <= pod.labels.items()
    ]


def families_of(store: Store) -> frozenset[bool]:
    """Return the families that pods have: whether they are IPv4. IPv4 if there is no pod."""
    return frozenset(is_ipv4(address) for pod in store.pods.values() for address in pod.ips) or frozenset({True})


def add_synthetic(known: Known, others: Others, workload: Workload, families: frozenset[bool]) -> Pod:
    """Add a pod with the template of a workload to the store."""
    store = known.store
    taken = {*store.address_owners(), *others.synthetic}
    addresses = tuple(_unused(tuple(blocks_of(store)), taken, ipv4=ipv4) for ipv4 in sorted(families, reverse=True))
    pod = Pod(
        namespace=workload.namespace,
        name=f"{workload.name} (template of the {workload.kind.lower()})",
        labels=workload.labels,
        ips=addresses,
        named_ports=workload.named_ports,
    )
    store.apply(Update(upserted=(pod,), rejections=store.rejections, ignored=store.ignored, observed_ns=0))
    others.synthetic.update(dict.fromkeys(addresses, workload))
    return pod


def blocks_of(store: Store) -> Iterator[Network]:
    """Yield the address blocks of all policies, exceptions included, but for those of all addresses."""
    for policies in (store.policies.values(), store.cluster_policies.values()):
        for policy in policies:
            for rule in (*policy.ingress, *policy.egress):
                for peer in rule.peers or ():
                    if isinstance(peer, IPBlock):
                        yield from (block for block in (peer.cidr, *peer.except_) if block.prefixlen)


def _unused(blocks: Iterable[Network], taken: set[bytes], *, ipv4: bool) -> AddressKey:
    """Return an address of the range that the fewest blocks touch."""
    of_family = [block for block in blocks if (block.version == 4) is ipv4]
    best = min(_RANGES[ipv4], key=lambda network: sum(_overlap(block, network) for block in of_family))
    first = int(best.network_address) + 1
    kind = IPv4Address if ipv4 else IPv6Address
    return next(key for number in range(first, first + len(taken) + 1) if (key := address_key(kind(number).packed)) not in taken)


def _overlap(block: Network, network: Network) -> bool:
    return int(block.network_address) <= int(network.broadcast_address) and int(network.network_address) <= int(
        block.broadcast_address
    )
