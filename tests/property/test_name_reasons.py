"""The rules that `explain` says a name would open are those that a name opens."""

import random

import pytest

from netpolq.addresses import AddressKey
from netpolq.decision import RuleDecision
from netpolq.enums import Tier
from netpolq.model import DomainPeer
from netpolq.policy.domain_names import matches
from netpolq.policy.evaluator import Side
from netpolq.policy.name_reasons import NameReasonFinder
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.store import Store
from tests.support.clusters import Flow, random_cluster, random_flows
from tests.support.sizes import sized

CLUSTERS_PER_SEED = 150
FLOWS_PER_CLUSTER = 60


def egress_with(store: Store, flow: Flow, names: frozenset[str]) -> Side:
    """The egress of a flow whose destination also has these names."""
    before = store.names.get(flow.destination, frozenset())
    store.set_names(flow.destination, before | names)
    egress = ReferenceEvaluator(store).explain(*flow).egress
    store.set_names(flow.destination, before)
    return egress


def every_name(store: Store) -> frozenset[str]:
    """A name for each pattern of a policy."""
    rules = (rule for policy in store.cluster_policies.values() for rule in policy.egress)
    return frozenset(named(peer.pattern) for rule in rules for peer in rule.peers or () if isinstance(peer, DomainPeer))


def named(pattern: str) -> str:
    return pattern.replace("*", "some")


def by_name(rule: RuleDecision | None, store: Store, destination: AddressKey) -> bool:
    """Whether the rule that decides matches a learned name."""
    if rule is None or rule.tier is Tier.NETWORK_POLICY:
        return False
    peers = store.cluster_policies[rule.policy].egress[rule.position].peers or ()
    names = store.names.get(destination, frozenset())
    return any(isinstance(peer, DomainPeer) and any(matches(peer.pattern, name) for name in names) for peer in peers)


@pytest.mark.parametrize("seed", range(sized(4)))
def test_each_opening_accepts_what_has_its_name_and_no_other_name_opens_anything(seed: int) -> None:
    rng = random.Random(seed)
    opened = unopened = matched = 0
    for number in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        store = cluster.store()
        if number % 2:  # as without an agent that learns names
            for address in cluster.names:
                store.set_names(address, frozenset())
        evaluator, finder = ReferenceEvaluator(store), NameReasonFinder(store)
        for flow in random_flows(rng, cluster, FLOWS_PER_CLUSTER):
            egress = evaluator.explain(*flow).egress
            reasons = finder.find(egress, *flow)
            assert bool(reasons.matched) is by_name(egress.rule, store, flow.destination)
            matched += bool(reasons.matched)
            if not egress.denies:
                assert reasons.openings == ()
                continue
            rules = [opening.rule for opening in reasons.openings]
            for opening in reasons.openings:
                after = egress_with(store, flow, frozenset({named(opening.patterns[0])}))
                assert after.decision in rules
                opened += 1
            after = egress_with(store, flow, every_name(store))
            assert after.decision == (rules[0] if rules else egress.decision)
            unopened += not rules
    assert opened
    assert unopened
    assert matched
