"""Audit: what is enforced does not depend on the policies in audit, and what they would do is what they do when they are enforced."""

import random

import pytest

from netpolq.enums import Direction, Enforcement, Verdict
from netpolq.explain.compiled_evaluator import CompiledEvaluator
from netpolq.policy.evaluator import Explanation
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.reader import Evaluation
from tests.support.clusters import random_cluster, random_flows
from tests.support.sizes import sized

CLUSTERS_PER_SEED = 40
FLOWS_PER_CLUSTER = 100


def decisions(explanation: Explanation) -> tuple[Verdict, object, object]:
    """Verdict and decisions as a worker has them: a denial of egress ends the evaluation, and a denial is the only decision."""
    if explanation.verdict is Verdict.ACCEPT:
        return explanation.verdict, explanation.egress.decision, explanation.ingress.decision
    if explanation.direction is Direction.EGRESS:
        return explanation.verdict, explanation.egress.decision, None
    return explanation.verdict, None, explanation.ingress.decision


@pytest.mark.parametrize("seed", range(sized(10)))
def test_workers_answer_as_without_the_policies_in_audit_and_know_what_these_would_do(seed: int) -> None:
    rng = random.Random(1000 + seed)
    differences = set()
    for number in range(CLUSTERS_PER_SEED):
        cluster = random_cluster(rng)
        enforcement = tuple(Enforcement)[number % 2]
        store = cluster.store()
        enforced = ReferenceEvaluator(store, enforcement=enforcement)
        audited = ReferenceEvaluator(store, enforcement=enforcement, with_audit=True)
        view = CompiledEvaluator(store, enforcement=enforcement).view
        evaluator = CachedEvaluator[Evaluation](view, lambda evaluation, _on_every_port: evaluation)
        for flow in random_flows(rng, cluster, FLOWS_PER_CLUSTER):
            if flow.source == flow.destination or flow.source in view.own_node_addresses(flow.destination):
                continue  # workers see no such packets
            expected, would_be = decisions(enforced.explain(*flow)), decisions(audited.explain(*flow))
            for _again in range(3):  # the second and third time, port classes may answer
                verdict, egress, ingress, shadow = evaluator.answer(*flow)
                assert (verdict, view.decision(egress), view.decision(ingress)) == expected
                if would_be[0] is verdict:
                    assert shadow is None
                else:
                    assert shadow is not None
                    assert (shadow.verdict, view.decision(shadow.egress), view.decision(shadow.ingress)) == would_be
                    differences.add(shadow.verdict)
    assert Verdict.DROP in differences
