"""The addition that `explain` suggests makes the policy allow the flow."""

import random

from dataclasses import replace

import pytest

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction
from netpolq.model import NetworkPolicy, Object, PolicyRule, Update
from netpolq.policy.evaluator import Explanation
from netpolq.policy.near_miss import Addition, Failed, NearMissFinder, smallest
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store
from tests.support.clusters import random_cluster, random_flows
from tests.support.sizes import sized

CLUSTERS_PER_SEED = 40
FLOWS_PER_CLUSTER = 40


def added(policy: NetworkPolicy, direction: Direction, addition: Addition) -> NetworkPolicy:
    """The policy with what an addition names."""
    rules = list(policy.rules(direction))
    if addition.rule is None:
        peers = None if addition.peer is None else (addition.peer,)
        rules.append(PolicyRule(peers, None if addition.port is None else (addition.port,)))
    else:
        rule = rules[addition.rule]
        if addition.peer is not None:
            rule = rule._replace(peers=(*(rule.peers or ()), addition.peer))
        if addition.port is not None:
            rule = rule._replace(ports=(*(rule.ports or ()), addition.port))
        rules[addition.rule] = rule
    return replace(policy, egress=tuple(rules)) if direction is Direction.EGRESS else replace(policy, ingress=tuple(rules))


def with_policy(store: Store, policy: NetworkPolicy) -> ReferenceEvaluator:
    """An evaluator for the store with another version of a policy."""
    changed = Store()
    cluster_policies = store.cluster_policies.values()
    objects: tuple[Object, ...] = (
        *store.namespaces.values(),
        *store.pods.values(),
        *store.nodes.values(),
        *store.policies.values(),
        *cluster_policies,
        policy,
    )
    changed.apply(Update(upserted=objects, ignored={}, observed_ns=0))
    for address, names in store.names.items():
        changed.set_names(address, names)
    return ReferenceEvaluator(changed)


def decision(explanation: Explanation, direction: Direction) -> Decision | None:
    return (explanation.egress if direction is Direction.EGRESS else explanation.ingress).decision


@pytest.mark.parametrize("seed", range(sized(4)))
def test_each_addition_makes_its_policy_allow_the_flow(seed: int) -> None:
    """For every isolating policy of every direction that denies: with its addition the direction denies no more.

    There is one near miss for each isolating policy, in their order, and none where nothing is denied.
    """
    rng = random.Random(seed)
    seen = set()
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        store = cluster.store()
        evaluator, finder = ReferenceEvaluator(store), NearMissFinder(store)
        for flow in random_flows(rng, cluster, FLOWS_PER_CLUSTER):
            explanation = evaluator.explain(*flow)
            misses = finder.find(explanation, *flow)
            for direction in Direction:
                found = misses.of(direction)
                denial = decision(explanation, direction)
                assert tuple(miss.policy for miss in found) == (denial.policies if isinstance(denial, Isolation) else ())
                for miss in found:
                    seen.add(miss.failed)
                    assert miss.why.isprintable()
                    namespace, name = miss.policy.split("/")
                    changed = added(store.policies[namespace, name], direction, miss.addition)
                    allowing = decision(with_policy(store, changed).explain(*flow), direction)
                    assert isinstance(allowing, RuleDecision)
                    assert (allowing.action, allowing.policy) == (Action.ACCEPT, miss.policy)
                least = smallest(found)
                assert (least is None) == (not found)
    assert seen == set(Failed), "clusters that never fail in some way say nothing about it"
