"""The compiled evaluator, which reads encoded bytes, and the reference, which walks the objects, give the same explanation for every flow.

The cached evaluator gives the same verdicts.
"""

import random

import pytest

from hypothesis import HealthCheck, given, settings

from netpolq.addresses import format_address
from netpolq.enums import Reason, Verdict
from netpolq.policy.compiled_evaluator import CompiledEvaluator
from netpolq.policy.evaluator import Explanation
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.cached_evaluator import DROP_ON_EVERY_PORT, CachedEvaluator
from tests.support.clusters import Cluster, Flow, clusters, random_cluster, random_flows, store_of

CLUSTERS_PER_SEED = 50
FLOWS_PER_CLUSTER = 150


def explain_both(cluster: Cluster, flows: tuple[Flow, ...]) -> list[Explanation]:
    """The explanations of both evaluators, which must be equal."""
    store = store_of(cluster.bodies)
    compiled, reference = CompiledEvaluator(store), ReferenceEvaluator(store)
    explanations = []
    for flow in flows:
        expected = reference.explain(*flow)
        assert compiled.explain(*flow) == expected, (
            f"{format_address(flow.source)} -> {format_address(flow.destination)} {flow.protocol}/{flow.port}"
        )
        explanations.append(expected)
    return explanations


@pytest.mark.parametrize("seed", range(10))
def test_engines_agree_on_seeded_clusters(seed: int) -> None:
    rng = random.Random(seed)
    reasons = set()
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        reasons |= {
            explanation.reason for explanation in explain_both(cluster, tuple(random_flows(rng, cluster, FLOWS_PER_CLUSTER)))
        }
    assert reasons == set(Reason), "clusters that never lead to some answer say nothing about it"


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(clusters())
def test_engines_agree_on_shrinkable_clusters(cluster_and_flows: tuple[Cluster, tuple[Flow, ...]]) -> None:
    explain_both(*cluster_and_flows)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_remembered_of_pairs_gives_the_answers_of_the_view(seed: int) -> None:
    """Each flow is asked for with the ports of all others: at the third time for a pair, port classes answer.

    What is said of every port is tried with ports of other flows, and with some more.
    """
    rng = random.Random(100 + seed)
    verdicts, answers = set(), set()
    for _ in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        view = CompiledEvaluator(store_of(cluster.bodies)).view
        evaluator = CachedEvaluator(view)
        flows = list(random_flows(rng, cluster, 30))
        for source, destination, protocol, _port in flows:
            for port in {0, 65535, *(flow.port + step for flow in flows for step in (-1, 0, 1) if 0 < flow.port < 65535)}:
                expected = view.evaluate(source, destination, protocol, port).verdict
                answer = evaluator.answer(source, destination, protocol, port)
                assert answer & 1 == expected
                verdicts.add(expected)
                answers.add(answer)
                if answer == DROP_ON_EVERY_PORT:
                    others = [other.port for other in flows] + rng.choices(range(1 << 16), k=5)
                    assert not any(view.evaluate(source, destination, protocol, other).verdict for other in others)
    assert len(verdicts) == 2
    assert answers == {Verdict.DROP, Verdict.ACCEPT, DROP_ON_EVERY_PORT}
