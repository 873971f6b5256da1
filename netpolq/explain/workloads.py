"""Workloads as ends of flows. A pod with the labels of the template stands for the workload; without one, a synthetic pod does.

A synthetic pod has the labels, namespace and named ports of the template, and addresses of ranges that no pod can have. These are never
shown. The addresses that the pods will get are not known, so address blocks in policies do not contain them: the synthetic ones are, where
possible, in no block but `0.0.0.0/0` and `::/0`.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import count

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
    pods = pods_of(known.store, [workload])[0]
    return pods[0] if pods else add_synthetic(known, others, [workload], families)[0]


def add_all_without_pods(known: Known) -> None:
    """Add a synthetic pod for each workload that has no pods, and that no other workload has made."""
    if known.others is None:
        return
    shown = [each for each in known.others.workloads.values() if not each.host_network and not each.is_owned]
    without = [workload for workload, pods in zip(shown, pods_of(known.store, shown), strict=True) if not pods]
    add_synthetic(known, known.others, without, families_of(known.store))


def pods_of(store: Store, workloads: Sequence[Workload]) -> list[list[Pod]]:
    """Return for each workload the pods with an address of their own that have the labels of its template, in order of name."""
    owners = {(pod.namespace, pod.name): pod for pod in store.address_owners().values()}
    of_namespaces: dict[str, list[Pod]] = {}
    for _key, pod in sorted(owners.items()):
        of_namespaces.setdefault(pod.namespace, []).append(pod)
    return [
        [
            pod
            for pod in of_namespaces.get(workload.namespace, ())
            if workload.labels and workload.labels.items() <= pod.labels.items()
        ]
        for workload in workloads
    ]


def families_of(store: Store) -> frozenset[bool]:
    """Return the families that pods have: whether they are IPv4. IPv4 if there is no pod."""
    return frozenset(is_ipv4(address) for pod in store.pods.values() for address in pod.ips) or frozenset({True})


def add_synthetic(known: Known, others: Others, workloads: Sequence[Workload], families: frozenset[bool]) -> list[Pod]:
    """Add pods with the templates of workloads to the store."""
    store = known.store
    taken = set(store.address_owners())
    unused = {ipv4: _unused(tuple(blocks_of(store)), taken, ipv4=ipv4) for ipv4 in sorted(families, reverse=True)}
    pods = []
    for workload in workloads:
        addresses = tuple(next(of_family) for of_family in unused.values())
        others.synthetic.update(dict.fromkeys(addresses, workload))
        pods.append(
            Pod(
                namespace=workload.namespace,
                name=f"{workload.name} (template of the {workload.kind.lower()})",
                labels=workload.labels,
                ips=addresses,
                named_ports=workload.named_ports,
            )
        )
    store.apply(Update(upserted=tuple(pods), rejections=store.rejections, ignored=store.ignored, observed_ns=0))
    return pods


def blocks_of(store: Store) -> Iterator[Network]:
    """Yield the address blocks of all policies, exceptions included, but for those of all addresses."""
    for policies in (store.policies.values(), store.cluster_policies.values()):
        for policy in policies:
            for rule in (*policy.ingress, *policy.egress):
                for peer in rule.peers or ():
                    if isinstance(peer, IPBlock):
                        yield from (block for block in (peer.cidr, *peer.except_) if block.prefixlen)


def _unused(blocks: Iterable[Network], taken: set[bytes], *, ipv4: bool) -> Iterator[AddressKey]:
    """Yield unused addresses of the range that the fewest blocks touch."""
    of_family = [block for block in blocks if (block.version == 4) is ipv4]
    best = min(_RANGES[ipv4], key=lambda network: sum(_overlap(block, network) for block in of_family))
    kind = IPv4Address if ipv4 else IPv6Address
    for number in count(int(best.network_address) + 1):
        address = address_key(kind(number).packed)
        if address not in taken:
            yield address


def _overlap(block: Network, network: Network) -> bool:
    return int(block.network_address) <= int(network.broadcast_address) and int(network.network_address) <= int(
        block.broadcast_address
    )
