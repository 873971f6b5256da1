"""The rendering of explanations in which cluster-wide policies decide."""

import json

import pytest

from netpolq.addresses import parse_address
from netpolq.decision import Decision, Isolation, RuleDecision, decision_fields
from netpolq.enums import Action, Direction, Reason, Tier
from netpolq.explain.answers import Answer, all_as_json
from netpolq.explain.endpoints import Endpoint
from netpolq.explain.flows import Flows
from netpolq.explain.known import Known
from netpolq.explain.render import as_json_line, as_text
from netpolq.policy.evaluator import Explanation, Side
from netpolq.policy.name_reasons import NameReasons
from netpolq.policy.near_miss import NearMisses
from netpolq.store import Store

EGRESS = Direction.EGRESS
ADMIN_PASS = RuleDecision(EGRESS, Tier.ADMIN, "tenants", 2, Action.PASS, "leave to teams")
ADMIN_DENY = RuleDecision(EGRESS, Tier.ADMIN, "no-metadata", 0, Action.DENY, "metadata")
ADMIN_ACCEPT = RuleDecision(EGRESS, Tier.ADMIN, "monitoring", 1, Action.ACCEPT)
WEB = RuleDecision(EGRESS, Tier.NETWORK_POLICY, "shop/web", 1, Action.ACCEPT)
BASELINE_PASS = RuleDecision(EGRESS, Tier.BASELINE, "AdminNetworkPolicy/old", 0, Action.PASS)
BASELINE_DENY = RuleDecision(EGRESS, Tier.BASELINE, "defaults", 0, Action.DENY)
ISOLATED = Isolation(EGRESS, ("shop/a", "shop/web"))

SIDES = {
    "not isolated": Side(),
    "denied by admin no-metadata, spec.egress[0] (metadata)": Side(decision=ADMIN_DENY, isolated_by=("shop/a",)),
    "allowed by admin monitoring, spec.egress[1]": Side(decision=ADMIN_ACCEPT),
    "passed by admin tenants, spec.egress[2] (leave to teams); isolated by shop/web; allowed by shop/web, spec.egress[1]": Side(
        decision=WEB, isolated_by=("shop/web",), passes=(ADMIN_PASS,)
    ),
    "passed by admin tenants, spec.egress[2] (leave to teams); isolated by shop/a, shop/web; no rule allows it": Side(
        decision=ISOLATED, isolated_by=("shop/a", "shop/web"), passes=(ADMIN_PASS,)
    ),
    "passed by admin tenants, spec.egress[2] (leave to teams); not isolated; denied by baseline defaults, spec.egress[0]": Side(
        decision=BASELINE_DENY, passes=(ADMIN_PASS,)
    ),
    "passed by admin tenants, spec.egress[2] (leave to teams); not isolated; "
    "passed by baseline AdminNetworkPolicy/old, spec.egress[0]": Side(passes=(ADMIN_PASS, BASELINE_PASS)),
    "not isolated; denied by baseline defaults, spec.egress[0]": Side(decision=BASELINE_DENY),
    "isolated by shop/a; no NetworkPolicy cuts a pod from itself": Side(isolated_by=("shop/a",)),
}

ENDPOINT = Endpoint(parse_address("10.0.0.1"), "shop/web-1", ())


def lines_of(explanation: Explanation) -> dict[str, str]:
    text = as_text(explanation, NearMisses(egress=(), ingress=()), NameReasons(), ENDPOINT, ENDPOINT, 6, 80)
    return dict(line.split(maxsplit=1) for line in text.splitlines())


@pytest.mark.parametrize(("text", "side"), SIDES.items(), ids=range(len(SIDES)))
def test_a_direction_names_the_whole_chain_of_tiers(text: str, side: Side) -> None:
    assert lines_of(Explanation.of(side, Side(), None))["egress"] == text


@pytest.mark.parametrize(
    ("side", "verdict"),
    [
        (ADMIN_DENY, "drop, denied: egress denied by admin no-metadata, spec.egress[0] (metadata)"),
        (
            ADMIN_DENY._replace(is_rejected=True),
            "drop, denied: egress denied by admin no-metadata, spec.egress[0] (metadata), with an answer",
        ),
        (
            ISOLATED._replace(is_rejected=True),
            "drop, denied: egress is isolated by shop/a, shop/web and nothing allows it, with an answer",
        ),
        (ADMIN_ACCEPT, "accept, allowed: a rule allows it in each direction that policies decide"),
        (WEB, "accept, allowed: every isolated endpoint allows it"),
        (None, "accept, not-isolated: no policy isolates either endpoint"),
    ],
)
def test_the_verdict_says_which_rule_decided(side: Decision | None, verdict: str) -> None:
    assert lines_of(Explanation.of(Side(decision=side), Side(), None))["verdict"] == verdict


def test_json_has_the_decision_with_its_tier_and_the_passes_before_it() -> None:
    explanation = Explanation.of(Side(decision=BASELINE_DENY, passes=(ADMIN_PASS,)), Side(), None)
    answer = Answer(explanation, NearMisses(egress=(), ingress=()), NameReasons(), ENDPOINT, ENDPOINT, 6, 80)
    fields = json.loads(all_as_json([answer], Flows(flows=()), Known(store=Store())))
    assert fields["policy"] == "defaults"
    assert fields["egress"]["decision"] == {
        "tier": "baseline",
        "policy": "defaults",
        "rule": 0,
        "rule_name": None,
        "action": "deny",
    }
    assert fields["egress"]["passes"] == [
        {"tier": "admin", "policy": "tenants", "rule": 2, "rule_name": "leave to teams", "action": "pass"}
    ]
    assert fields["egress"]["allowed_by"] is None


@pytest.mark.parametrize("decision", [ADMIN_ACCEPT, ADMIN_DENY])
def test_a_line_of_a_batch_has_a_direction_that_only_a_cluster_wide_policy_decides(decision: RuleDecision) -> None:
    answer = json.loads(as_json_line(Explanation.of(Side(decision=decision), Side(), None)))
    is_allowed = decision.action is Action.ACCEPT
    expected = {"allowed_by": "monitoring", "rule": 1} if is_allowed else {"allowed_by": None, "rule": None}
    assert (answer["egress"], answer["ingress"]) == (expected, None)


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (Side(), Reason.SAME_ADDRESS),
        (Side(isolated_by=("shop/a",), decision=Isolation(EGRESS, ("shop/a",))), Reason.SAME_ADDRESS),
        (Side(decision=WEB), Reason.ALLOWED),
        (Side(decision=ADMIN_ACCEPT), Reason.ALLOWED),
        (Side(decision=ADMIN_DENY), Reason.DENIED),
        (Side(decision=BASELINE_DENY), Reason.DENIED),
    ],
)
def test_a_pod_that_reaches_itself_through_a_service_is_subject_to_the_cluster_wide_tiers_alone(
    side: Side, reason: Reason
) -> None:
    assert Explanation.of_own(side, Side(), via_service=True).reason is reason
    assert Explanation.of_own(side, Side(), via_service=False).reason is Reason.SAME_ADDRESS


def test_the_fields_of_a_decision_say_whether_denied_packets_are_answered() -> None:
    for decision in (ADMIN_DENY, ISOLATED):
        plain, answered = decision_fields(decision), decision_fields(decision._replace(is_rejected=True))
        assert plain is not None
        assert answered == {**plain, "deny_with": "reject"}
    assert decision_fields(None) is None
