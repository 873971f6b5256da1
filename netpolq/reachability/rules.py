"""The rules of all policies of a store, of every tier and direction."""

from collections.abc import Iterator

from netpolq.enums import Direction
from netpolq.model import ClusterRule, PolicyRule
from netpolq.store import Store


def rules_of(store: Store) -> Iterator[PolicyRule | ClusterRule]:
    """Yield each rule."""
    for direction in Direction:
        for policy in store.policies.values():
            yield from policy.rules(direction)
        for cluster_policy in store.cluster_policies.values():
            yield from cluster_policy.rules(direction)
