"""Filters of flows."""

import pytest

from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flows.filter import FlowFilter, policies_of
from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowVerdict

WEB, DB = FlowEnd("10.0.0.3", "shop", "web-0"), FlowEnd("10.0.0.2", "data", "db-0")
SITE = FlowEnd("192.0.2.7", names=("www.example.com",))
ALLOWED = RuleDecision(Direction.EGRESS, Tier.ADMIN, "allow-updates", 0, Action.ACCEPT)

DENIED = Flow(WEB, DB, "TCP", 5432, FlowVerdict.DENY, ingress=Isolation(Direction.INGRESS, ("data/db", "data/strict")))
TO_SITE = Flow(WEB, SITE, "TCP", 443, FlowVerdict.ACCEPT, egress=ALLOWED)
AUDITED = Flow(DB, WEB, "UDP", 53, FlowVerdict.WOULD_DENY, audit_egress=Isolation(Direction.EGRESS, ("data/audit",)))
PING = Flow(SITE, DB, "ICMP", None, FlowVerdict.ACCEPT)
EVERY_PORT = Flow(SITE._replace(address=OTHER_ADDRESSES, names=()), DB, "TCP", None, FlowVerdict.DENY)
FLOWS = {"denied": DENIED, "site": TO_SITE, "audited": AUDITED, "ping": PING, "every port": EVERY_PORT}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (FlowFilter(), "denied site audited ping every-port"),
        (FlowFilter(denied=True), "denied audited every-port"),
        (FlowFilter(pod="shop/web-0"), "denied site audited"),
        (FlowFilter(pod="shop/web-*"), "denied site audited"),
        (FlowFilter(pod="shop/*"), "denied site audited"),
        (FlowFilter(pod="shop/web"), ""),
        (FlowFilter(pod="data/web-0"), ""),
        (FlowFilter(namespace="data"), "denied audited ping every-port"),
        (FlowFilter(source="shop"), "denied site"),
        (FlowFilter(source="data/db-*"), "audited"),
        (FlowFilter(destination="shop"), "audited"),
        (FlowFilter(destination="www.example.com"), "site"),
        (FlowFilter(destination="www.example.com."), "site"),
        (FlowFilter(destination="*.example.com"), "site"),
        (FlowFilter(destination="*.www.example.com"), ""),
        (FlowFilter(source="192.0.2.0/24"), "ping"),
        (FlowFilter(source="192.0.2.7"), "ping"),
        (FlowFilter(source="2001:db8::/32"), ""),
        (FlowFilter(policy="data/strict"), "denied"),
        (FlowFilter(policy="data/audit"), "audited"),
        (FlowFilter(policy="allow-updates"), "site"),
        (FlowFilter(port="443"), "site"),
        (FlowFilter(port="443/tcp"), "site"),
        (FlowFilter(port="443/UDP"), ""),
        (FlowFilter(port="TCP"), "denied site every-port"),
        (FlowFilter(port="icmp"), "ping"),
        (FlowFilter(source="shop", destination="data", port="5432", denied=True, policy="data/db"), "denied"),
    ],
)
def test_a_filter_selects(wanted: FlowFilter, expected: str) -> None:
    wanted.check()
    assert " ".join(name.replace(" ", "-") for name, flow in FLOWS.items() if wanted.matches(flow)) == expected
    assert FlowFilter.from_query(wanted.to_query()) == wanted


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"pod": "web-0"}, "pod"),
        ({"pod": "shop/"}, "pod"),
        ({"pod": "/web"}, "pod"),
        ({"pod": "Shop/web"}, "pod"),
        ({"pod": "shop/*web"}, "pod"),
        ({"pod": "a.b/web"}, "pod"),
        ({"namespace": "a/b"}, "namespace"),
        ({"namespace": "a.b"}, "namespace"),
        ({"source": "shop/web/0"}, "source"),
        ({"source": "10.0.0.1/33"}, "source"),
        ({"source": "fd00::/129"}, "source"),
        ({"destination": "ex ample"}, "destination"),
        ({"port": "65536"}, "port"),
        ({"port": "80/"}, "port"),
        ({"port": "-1"}, "port"),
        ({"denied": "false"}, "denied"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_field(query: dict[str, str], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        FlowFilter.from_query(query)


def test_the_policies_of_a_flow_are_all_that_decide_or_would() -> None:
    flow = DENIED._replace(egress=ALLOWED, audit_ingress=Isolation(Direction.INGRESS, ("x/y",)))
    assert policies_of(flow) == {"allow-updates", "data/db", "data/strict", "x/y"}
