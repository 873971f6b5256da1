"""The benchmark of cluster-wide policies measures changes that change something, in a cluster with all parts of such policies."""

from collections.abc import Callable

import pytest

from loadtest.cluster_policies import CHANGES_OF, KINDS, POLICIES, RULES, cluster, measure
from loadtest.publishing import update_of
from netpolq.enums import Action, Tier
from netpolq.model import ClusterNetworkPolicy, IPBlock, NodePeer, Object, PodPeer
from netpolq.store import Store


def test_a_small_cluster_is_measured_in_a_process_of_its_own() -> None:
    found = measure(pods=200, kinds=20, changes=2)

    assert set(found) == {"first_ms", "snapshot_bytes", *CHANGES_OF}
    assert all(value > 0 for value in found.values())


def test_the_policies_have_all_tiers_actions_and_peers() -> None:
    policies = [item for item in cluster(200, 20) if isinstance(item, ClusterNetworkPolicy)]
    rules = [rule for policy in policies for rule in (*policy.ingress, *policy.egress)]

    assert len(policies) == POLICIES
    assert len(rules) == POLICIES * RULES
    assert {policy.tier for policy in policies} == {Tier.ADMIN, Tier.BASELINE}
    assert {rule.action for rule in rules} == set(Action)
    assert {type(peer) for rule in rules for peer in rule.peers or ()} == {PodPeer, IPBlock, NodePeer}


@pytest.mark.parametrize("change", CHANGES_OF.values(), ids=list(CHANGES_OF))
def test_every_change_changes_an_object_of_the_cluster(change: Callable[[int], Object]) -> None:
    """Also where a policy or namespace is changed more than once."""
    store = Store()
    store.apply(update_of(cluster(7000, KINDS)))
    before = len(store.cluster_policies), len(store.namespaces)

    assert all(store.apply(update_of([change(number)])) for number in range(60))
    assert (len(store.cluster_policies), len(store.namespaces)) == before
