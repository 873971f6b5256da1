"""The compiled evaluator, which reads encoded bytes, and the reference, which walks the objects, give the same explanation for every flow.

An explanation has the verdict and the decision of each direction. The cached evaluator gives the same ones.
"""

import random

from collections.abc import Mapping

import pytest

from hypothesis import HealthCheck, given, settings

from netpolq.addresses import format_address, packed_address
from netpolq.decision import Isolation, RuleDecision, denies
from netpolq.enums import Action, DenyWith, Enforcement, Reason, Tier
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.model import ClusterNetworkPolicy, DomainPeer
from netpolq.policy.evaluator import Explanation
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from tests.support.clusters import Cluster, Flow, clusters, random_cluster, random_flows
from tests.support.sizes import sized

CLUSTERS_PER_SEED = 80
FLOWS_PER_CLUSTER = 150


def explain_both(cluster: Cluster, flows: tuple[Flow, ...]) -> list[Explanation]:
    """The explanations of both evaluators, which must be equal."""
    store = cluster.store()
    deny_with = tuple(DenyWith)[len(cluster.bodies) % 2]
    enforcement = tuple(Enforcement)[len(cluster.bodies) // 2 % 2]
    explanations = []
    for with_audit in (False, True):
        compiled = CompiledEvaluator(store, deny_with=deny_with, enforcement=enforcement, with_audit=with_audit)
        reference = ReferenceEvaluator(store, deny_with=deny_with, enforcement=enforcement, with_audit=with_audit)
        explanations = _explain_all(compiled, reference, flows)
    return explanations


def _explain_all(compiled: CompiledEvaluator, reference: ReferenceEvaluator, flows: tuple[Flow, ...]) -> list[Explanation]:
    explanations = []
    for flow in flows:
        for via_service in (False, True):
            expected = reference.explain(*flow, via_service=via_service)
            assert compiled.explain(*flow, via_service=via_service) == expected, (
                f"{format_address(flow.source)} -> {format_address(flow.destination)} {flow.protocol}/{flow.port}"
            )
            explanations.append(expected)
    return explanations


def is_by_name(decision: RuleDecision | None, policies: Mapping[str, ClusterNetworkPolicy]) -> bool:
    """Whether the egress rule that decides has domain names alone as peers."""
    if decision is None or decision.tier is Tier.NETWORK_POLICY:
        return False
    peers = policies[decision.policy].egress[decision.position].peers
    return peers is not None and {type(peer) for peer in peers} == {DomainPeer}


@pytest.mark.parametrize("seed", range(sized(10)))
def test_engines_agree_on_seeded_clusters(seed: int) -> None:
    rng = random.Random(seed)
    reasons = set()
    answers = set()
    rules = set()
    passed = set()
    named = 0
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        policies = cluster.store().cluster_policies
        for explanation in explain_both(cluster, tuple(random_flows(rng, cluster, FLOWS_PER_CLUSTER))):
            reasons.add(explanation.reason)
            answers |= {
                (type(side.decision), side.decision.is_rejected)
                for side in (explanation.egress, explanation.ingress)
                if denies(side.decision) and side.decision is not None
            }
            passed |= {rule.tier for side in (explanation.egress, explanation.ingress) for rule in side.passes}
            rules |= {(side.rule.tier, side.rule.action) for side in (explanation.egress, explanation.ingress) if side.rule}
            named += is_by_name(explanation.egress.rule, policies)
    assert named
    assert passed == {Tier.ADMIN, Tier.BASELINE}
    assert answers == {(kind, is_rejected) for kind in (Isolation, RuleDecision) for is_rejected in (False, True)}
    assert reasons == set(Reason), "clusters that never lead to some answer prove nothing about it"
    cluster_wide = {(tier, action) for tier in (Tier.ADMIN, Tier.BASELINE) for action in (Action.ACCEPT, Action.DENY)}
    assert rules == cluster_wide | {(Tier.NETWORK_POLICY, Action.ACCEPT)}


@settings(max_examples=sized(100), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(clusters())
def test_engines_agree_on_shrinkable_clusters(cluster_and_flows: tuple[Cluster, tuple[Flow, ...]]) -> None:
    explain_both(*cluster_and_flows)


@pytest.mark.parametrize("seed", range(sized(5)))
def test_cached_pairs_give_the_evaluations_of_the_reader(seed: int) -> None:
    """Each flow is asked for with the ports of all others: at the third time for a pair, port classes answer.

    A drop on every port is tried with the ports of other flows, and with some more. IPv4 addresses are asked for in both forms.
    """
    rng = random.Random(100 + seed)
    verdicts, on_every_port = set(), set()
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        view = CompiledEvaluator(cluster.store()).view
        evaluator = CachedEvaluator(view, lambda evaluation, on_every_port: (evaluation, on_every_port))
        flows = list(random_flows(rng, cluster, 30))
        for source, destination, protocol, _port in flows:
            for port in {0, 65535, *(flow.port + step for flow in flows for step in (-1, 0, 1) if 0 < flow.port < 65535)}:
                expected = view.evaluate(source, destination, protocol, port)
                evaluation, is_on_every_port = evaluator.answer(source, destination, protocol, port)
                assert evaluation[:3] == expected[:3]
                packed = evaluator.answer(packed_address(source), packed_address(destination), protocol, port)
                assert packed[0][:3] == expected[:3]
                verdicts.add(expected.verdict)
                on_every_port.add(is_on_every_port)
                if is_on_every_port:
                    others = [other.port for other in flows] + rng.choices(range(1 << 16), k=5)
                    assert {view.evaluate(source, destination, protocol, other) for other in others} == {expected}
    assert len(verdicts) == 2
    assert on_every_port == {False, True}
