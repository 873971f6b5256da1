"""Random clusters as API bodies, and random flows through them: small, dense, and with the corner cases of the API.

One generator serves both uses: seeded `random.Random` for many clusters quickly, `clusters()` for hypothesis, which shrinks.
The pools of labels, addresses and ports are very small, so that selectors match, blocks overlap and names collide.
"""

import random

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import strategies as st

from netpolq.addresses import AddressKey, parse_address
from netpolq.model import Object, Update
from netpolq.sources.decode.decoder import DecodeError, Ignored, decode
from netpolq.store import Store
from tests.support.random_cluster_policies import LEARNED_NAMES, random_cluster_policy
from tests.support.random_selectors import (
    LABELS,
    PORT_NAMES,
    PORTS,
    TRANSPORTS,
    V4_BLOCKS,
    V6_BLOCKS,
    Body,
    annotated,
    object_metadata,
    random_labels,
    random_namespace_selector,
    random_selector,
)

PORTLESS = (1, 58, 47, 0, 255)
OUTSIDERS = ("192.0.2.1", "10.0.0.200", "10.0.16.1", "2001:db8::1", "fd00::1:200")


class Flow(NamedTuple):
    """A flow to evaluate. `port` is 0 unless TCP, UDP or SCTP."""

    source: AddressKey
    destination: AddressKey
    protocol: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """API bodies in random order, the addresses of pods, nodes and outsiders, and the learned names of some of these."""

    bodies: tuple[Body, ...]
    pod_addresses: tuple[str, ...]
    other_addresses: tuple[str, ...]
    names: Mapping[AddressKey, frozenset[str]]

    def objects(self) -> tuple[Object, ...]:
        """All objects. Raises `DecodeError` for a body that is not valid, unless it is a cluster-wide policy that fails closed."""
        decoded = map(_decoded, self.bodies)
        return tuple(item for item in decoded if not isinstance(item, Ignored))

    def store(self) -> Store:
        """A store with all objects and names."""
        store = Store()
        store.apply(Update(upserted=self.objects(), ignored={}, observed_ns=0))
        for address, names in self.names.items():
            store.set_names(address, names)
        return store


def store_of(bodies: Iterable[Body]) -> Store:
    """A store with the objects of bodies. Raises `DecodeError` for a body that is not valid."""
    return Cluster(bodies=tuple(bodies), pod_addresses=(), other_addresses=(), names={}).store()


def _decoded(body: Body) -> Object | Ignored:
    try:
        return decode(body)
    except DecodeError as error:
        if error.is_cluster_wide and error.partial is not None:
            return error.partial
        raise


def clusters() -> st.SearchStrategy[tuple[Cluster, tuple[Flow, ...]]]:
    """Clusters with flows through each, for hypothesis."""
    return st.randoms(use_true_random=False).map(
        lambda rng: (cluster := random_cluster(rng), tuple(random_flows(rng, cluster, 20)))
    )


def random_cluster(rng: random.Random) -> Cluster:
    """Up to 4 namespaces, 12 pods on 3 nodes, 8 NetworkPolicies and 7 cluster-wide policies."""
    namespaces = [f"ns{number}" for number in range(rng.randint(1, 4))]
    families = rng.choice(((4,), (6,), (4, 6), (6, 4)))
    pods = [_pod(rng, number, rng.choice(namespaces), families) for number in range(rng.randint(0, 12))]
    policies = [_policy(rng, number, rng.choice(namespaces)) for number in range(rng.randint(0, 8))]
    # Pods may be in a namespace without a Namespace object.
    declared = [_namespace(rng, name) for name in namespaces if rng.random() < 0.9]
    nodes = [_node(rng, number, families) for number in (1, 2, 3) if rng.random() < 0.9]
    cluster_policies = [random_cluster_policy(rng, number) for number in range(rng.choice((0, 0, 3, 5, 7)))]
    bodies = [*declared, *(pod.body for pod in pods), *policies, *(node.body for node in nodes), *cluster_policies]
    rng.shuffle(bodies)
    pod_addresses = {address for pod in pods for address in pod.addresses}
    of_nodes = {address for pod in pods for address in pod.node_addresses} | {
        address for node in nodes for address in node.addresses
    }
    other_addresses = of_nodes | set(OUTSIDERS)
    return Cluster(
        bodies=tuple(bodies),
        pod_addresses=tuple(sorted(pod_addresses)),
        other_addresses=tuple(sorted(other_addresses)),
        names=random_names(rng, sorted(pod_addresses | other_addresses), families),
    )


def random_names(
    rng: random.Random, addresses: Sequence[str], families: Collection[int] = (4, 6)
) -> dict[AddressKey, frozenset[str]]:
    """Learned names of half of these addresses that are of one of the families."""
    return {
        parse_address(address): frozenset(rng.sample(LEARNED_NAMES, rng.randint(1, 3)))
        for address in addresses
        if (6 if ":" in address else 4) in families and rng.random() < 0.7
    }


def random_flows(rng: random.Random, cluster: Cluster, count: int) -> Iterable[Flow]:
    """Flows between addresses of one family, mostly pods, on ports at and beside those that policies name."""
    for _ in range(count):
        source, destination = _address_pair(rng, cluster)
        if rng.random() < 0.15:
            yield Flow(source, destination, rng.choice(PORTLESS), 0)
        else:
            port = max(0, min(65535, rng.choice(PORTS) + rng.choice((0, 0, 0, -1, 1))))
            yield Flow(source, destination, rng.choice(tuple(TRANSPORTS.values())), port)


def _address_pair(rng: random.Random, cluster: Cluster) -> tuple[AddressKey, AddressKey]:
    ipv6 = rng.random() < 0.5
    pods, others = ([text for text in pool if (":" in text) is ipv6] for pool in (cluster.pod_addresses, cluster.other_addresses))
    source, destination = (rng.choice(pods if pods and rng.random() < 0.8 else others) for _ in range(2))
    if source == destination and rng.random() < 0.7:
        destination = rng.choice(others)
    return parse_address(source), parse_address(destination)


class _Pod(NamedTuple):
    body: Body
    addresses: tuple[str, ...]
    node_addresses: tuple[str, ...]


def _namespace(rng: random.Random, name: str) -> Body:
    metadata = annotated(object_metadata(name, random_labels(rng)))
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def _addresses(prefix4: str, prefix6: str, number: int, families: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix4}{number}" if family == 4 else f"{prefix6}{number:x}" for family in families)


def _pod(rng: random.Random, number: int, namespace: str, families: tuple[int, ...]) -> _Pod:
    node = rng.randint(1, 3)
    node_addresses = _addresses("10.0.1.", "fd00::a:", node, families)
    host_network = rng.random() < 0.12
    # Fewer addresses than pods: some pods share one, a completed pod and its successor or two that run.
    own = node_addresses if host_network else _addresses("10.0.0.", "fd00::", rng.randint(1, 10), families)
    if rng.random() < 0.08:
        own = ()
    status: Body = {"phase": rng.choice(("Running",) * 6 + ("Pending", "Succeeded", "Failed"))}
    if own:
        status |= {"podIP": own[0], "podIPs": [{"ip": address} for address in own]}
    if rng.random() < 0.8:
        status |= {"hostIP": node_addresses[0], "hostIPs": [{"ip": address} for address in node_addresses]}
    metadata = object_metadata(f"pod-{number}", random_labels(rng), namespace)
    metadata["creationTimestamp"] = f"2024-01-0{rng.randint(1, 3)}T00:00:00Z"
    spec: Body = {"nodeName": f"node-{node}", "containers": [_container(rng, name) for name in "ab"[: rng.randint(1, 2)]]}
    if rng.random() < 0.2:
        spec["initContainers"] = [_container(rng, "init") | ({"restartPolicy": "Always"} if rng.random() < 0.5 else {})]
    if host_network:
        spec["hostNetwork"] = True
    body: Body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
    return _Pod(body, own, node_addresses)


class _Node(NamedTuple):
    body: Body
    addresses: tuple[str, ...]


def _node(rng: random.Random, number: int, families: tuple[int, ...]) -> _Node:
    """A node. One of its addresses may also be that of a pod, of another node, or known from elsewhere."""
    addresses = list(_addresses("10.0.1.", "fd00::a:", number, families) if rng.random() < 0.95 else ())
    if rng.random() < 0.3:
        pod_or_node = rng.choice((("10.0.0.", "fd00::"), ("10.0.1.", "fd00::a:")))
        addresses += _addresses(*pod_or_node, rng.randint(1, 4), families)
    if rng.random() < 0.3:
        addresses.append(rng.choice(OUTSIDERS))
    status: Body = {
        "addresses": [
            {"type": "Hostname", "address": f"node-{number}"},
            *({"type": rng.choice(("InternalIP", "ExternalIP", "Hostname")), "address": address} for address in addresses),
        ]
    }
    body: Body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": object_metadata(f"node-{number}", random_labels(rng)),
        "status": status,
    }
    return _Node(body, tuple(addresses))


def _container(rng: random.Random, name: str) -> Body:
    ports: list[Body] = []
    for _ in range(rng.randint(0, 3)):
        port: Body = {"containerPort": rng.choice(PORTS)}
        if rng.random() < 0.8:
            port["name"] = rng.choice(PORT_NAMES)
        if rng.random() < 0.7:
            port["protocol"] = rng.choice(tuple(TRANSPORTS))
        ports.append(port)
    return {"name": name, "image": "pause", "ports": ports}


def _peer(rng: random.Random) -> Body:
    match rng.randint(0, 3):
        case 0:
            return {"podSelector": random_selector(rng, LABELS)}
        case 1:
            return {"namespaceSelector": random_namespace_selector(rng)}
        case 2:
            return {"namespaceSelector": random_namespace_selector(rng), "podSelector": random_selector(rng, LABELS)}
        case _:
            return {"ipBlock": _ip_block(rng)}


def _ip_block(rng: random.Random) -> Body:
    blocks = rng.choice((V4_BLOCKS, V6_BLOCKS))
    block: Body = {"cidr": rng.choice(blocks)}
    if rng.random() < 0.6:
        # Exceptions must be within the block, and smaller.
        inside = [other for other in blocks if _strictly_within(other, str(block["cidr"]))]
        if inside:
            block["except"] = rng.sample(inside, rng.randint(1, min(3, len(inside))))
    return block


def _strictly_within(inner: str, outer: str) -> bool:
    (inner_address, inner_length), (outer_address, outer_length) = (block.split("/") for block in (inner, outer))
    drop = (128 if ":" in outer else 32) - int(outer_length)
    first, second = (int.from_bytes(parse_address(text)) >> drop for text in (inner_address, outer_address))
    return first == second and int(inner_length) > int(outer_length)


def _port(rng: random.Random) -> Body:
    port: Body = {}
    if rng.random() < 0.75:
        port["protocol"] = rng.choice(tuple(TRANSPORTS))
    match rng.randint(0, 3):
        case 0:
            port["port"] = rng.choice(PORTS)
        case 1:
            port["port"] = rng.choice(PORT_NAMES)
        case 2:
            low, high = sorted((rng.choice(PORTS), rng.choice(PORTS)))
            port |= {"port": low, "endPort": high}
        case _:
            pass
    return port


def _rule(rng: random.Random, peers_field: str) -> Body:
    rule: Body = {}
    if rng.random() < 0.8:
        rule[peers_field] = [_peer(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
    if rng.random() < 0.7:
        rule["ports"] = [_port(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
    return rule


def _policy(rng: random.Random, number: int, namespace: str) -> Body:
    spec: Body = {"podSelector": random_selector(rng, LABELS) if rng.random() < 0.7 else {}}
    # Absent, empty and filled rule lists occur, with and without the types that follow from them.
    for field, peers_field in (("ingress", "from"), ("egress", "to")):
        if rng.random() < 0.7:
            spec[field] = [_rule(rng, peers_field) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    if rng.random() < 0.7:
        spec["policyTypes"] = rng.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"], ["Egress", "Ingress"]))
    # Names whose order differs from the order of creation and that are prefixes of one another.
    name = f"{rng.choice(('p', 'p-0', 'pa', 'z'))}-{number}"
    body: Body = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    metadata = annotated(object_metadata(name, {}, namespace))
    return {**body, "metadata": metadata, "spec": spec}
