"""Flow records for tests, each with a number by which it is found again: it is the number of its connections."""

from dataclasses import replace

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.model import Labels

WEB = FlowEnd("10.0.0.1", "shop", "web-1", Labels({"app": "web", "tier": "front"}))
DB = FlowEnd("10.0.0.2", "shop", "db-0", Labels({"app": "db"}))
OUTSIDE = FlowEnd("2001:db8::1", names=("api.example.com", "www.example.com"))
ALLOWED: Decision = RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, "shop/db", 0, Action.ACCEPT)
DENIED: Decision = Isolation(Direction.EGRESS, ("shop/default", "shop/web"))
NAMED: Decision = RuleDecision(Direction.EGRESS, Tier.ADMIN, "no-metadata", 2, Action.DENY, "metadata", is_rejected=True)

ACCEPTED_FLOW = Flow(WEB, DB, "TCP", 5432, FlowVerdict.ACCEPT, ingress=ALLOWED)
DENIED_FLOW = Flow(WEB, OUTSIDE, "UDP", 53, FlowVerdict.DENY, egress=DENIED)


def record(number: int = 1, flow: Flow = ACCEPTED_FLOW) -> FlowRecord:
    return FlowRecord(
        flow=flow,
        node="node-1",
        window_start_s=1_700_000_000.0,
        window_s=15.0,
        first_seen_s=1_700_000_001.25,
        last_seen_s=1_700_000_009.5,
        connections=number,
    )


def records(first: int, count: int) -> list[FlowRecord]:
    """Records with consecutive numbers, one pair of pods each."""
    return [
        record(number, ACCEPTED_FLOW._replace(source=WEB._replace(pod=f"web-{number}"))) for number in range(first, first + count)
    ]


def unencodable(number: int) -> FlowRecord:
    """A record with a text that is not Unicode."""
    bad = record(number)
    return replace(bad, flow=bad.flow._replace(source=WEB._replace(pod="\ud800")))
