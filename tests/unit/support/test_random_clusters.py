"""The random clusters have what the property tests are to meet."""

import random

from netpolq.enums import Action, Direction, Tier
from netpolq.model import ClusterRule, DomainPeer, IPBlock, NodePeer, PodPeer
from netpolq.store import Store
from tests.support.clusters import random_cluster

CLUSTERS = 150


def features(store: Store) -> set[object]:
    """What the cluster-wide policies and nodes of a cluster are made of."""
    found: set[object] = set()
    for policy in store.cluster_policies.values():
        found |= {policy.kind, policy.tier}
        for direction in Direction:
            found |= {feature for rule in policy.rules(direction) for feature in features_of(rule, direction)}
    for node in store.nodes.values():
        found |= {"of a pod and a node" for address in node.addresses if store.owner(address) is not None}
        found |= {"of two nodes" for address in node.addresses if len(store.nodes_with_address(address)) > 1}
    for address in store.names:
        found.add(
            f"name of {'a pod' if store.owner(address) else 'a node' if store.nodes_with_address(address) else 'no object'}"
        )
    return found


def features_of(rule: ClusterRule, direction: Direction) -> set[object]:
    found: set[object] = {(direction, rule.action), "named" if rule.name else "unnamed"}
    found.add("everything" if rule.peers is None else "nothing" if not rule.peers else "some")
    found |= {type(peer) for peer in rule.peers or ()}
    found |= {type(port.port) for port in rule.ports or ()} if rule.ports is not None else {"every port"}
    found |= {"range" for port in rule.ports or () if port.end_port is not None}
    return found


def test_they_have_every_form_of_a_cluster_wide_policy() -> None:
    rng = random.Random(0)
    found = set().union(*(features(random_cluster(rng).store()) for _ in range(CLUSTERS)))
    assert found == {
        "ClusterNetworkPolicy", "AdminNetworkPolicy", "BaselineAdminNetworkPolicy", Tier.ADMIN, Tier.BASELINE,
        *((direction, action) for direction in Direction for action in Action),
        "named", "unnamed", "everything", "nothing", "some", PodPeer, NodePeer, IPBlock, DomainPeer,
        int, str, type(None), "range", "every port", "of a pod and a node", "of two nodes",
        "name of a pod", "name of a node", "name of no object",
    }  # fmt: skip
