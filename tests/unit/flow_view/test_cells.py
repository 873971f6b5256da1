"""The cells of a flow's line."""

import io

import pytest

from rich.console import Console

from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flow_view import terminal
from netpolq.flow_view.cells import DESTINATION, PORT, REASON, SOURCE, Column, cell, columns, end, moment, port, reason
from netpolq.flows.record import OTHER_ADDRESSES, FlowEnd, FlowVerdict
from tests.unit.flow_view.records import DB, FLOW, START_S, WEB, merged

RULE = RuleDecision(Direction.EGRESS, Tier.ADMIN, "updates", 0, Action.ACCEPT, "all")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (WEB, "shop/web-0"),
        (FlowEnd("192.0.2.7", names=("a.example",)), "a.example"),
        (FlowEnd("192.0.2.7", names=("a.example", "b.example", "c.example")), "a.example (and 2 more names)"),
        (FlowEnd("192.0.2.7"), "192.0.2.7"),
        (FlowEnd(OTHER_ADDRESSES), "(other addresses)"),
    ],
)
def test_an_end_has_the_best_name_that_there_is(found: FlowEnd, text: str) -> None:
    assert end(found) == text


@pytest.mark.parametrize(
    ("protocol", "number", "text"),
    [("TCP", 80, "80/TCP"), ("UDP", None, "*/UDP"), ("ICMP", None, "ICMP"), ("47", None, "47"), ("other", None, "other")],
)
def test_ports(protocol: str, number: int | None, text: str) -> None:
    assert port(FLOW._replace(protocol=protocol, port=number)) == text


def test_reasons_name_both_directions_all_isolating_policies_and_audit() -> None:
    both = FLOW._replace(egress=RULE)
    assert reason(both) == "egress allowed by admin updates, spec.egress[0] (all); ingress isolated by shop/db, shop/strict"
    assert reason(FLOW._replace(ingress=None)) == "no policy decides"
    audit = Isolation(Direction.EGRESS, ("shop/new",))
    would_deny = FLOW._replace(verdict=FlowVerdict.WOULD_DENY, egress=RULE, ingress=None, audit_egress=audit)
    assert reason(would_deny) == "egress allowed by admin updates, spec.egress[0] (all); audit: egress isolated by shop/new"
    assert reason(FLOW._replace(verdict=FlowVerdict.WOULD_ACCEPT)).endswith("shop/strict; audit: no policy decides")


def test_moments_have_a_date_when_they_are_another_day_s() -> None:
    assert len(moment(START_S, START_S + 60)) == len("08:00:00")
    assert len(moment(START_S, START_S + 2 * 86400)) == len("2027-01-15 08:00:00")
    assert moment(1e300, START_S) == "?"


def test_columns() -> None:
    assert "NODE" in [column.title for column in columns(is_wide=False, is_cluster=True)]
    assert "NODE" not in [column.title for column in columns(is_wide=False, is_cluster=False)]
    wide = [column.title for column in columns(is_wide=True, is_cluster=False)]
    assert {"NODE", "FIRST SEEN", "SOURCE ADDRESS", "DESTINATION ADDRESS", "PACKETS", "BYTES"} <= set(wide)


EVIL = "web\x1b[2J\r\n\u202e[red]x[/red]"


@pytest.mark.parametrize("column", [SOURCE, DESTINATION, PORT, REASON])
def test_no_character_of_a_name_reaches_the_terminal_as_a_control(column: Column) -> None:
    flow = FLOW._replace(
        source=WEB._replace(pod=EVIL),
        destination=DB._replace(pod="", names=(EVIL,)),
        protocol=EVIL,
        ingress=Isolation(Direction.INGRESS, (EVIL,)),
    )
    text = cell(column, merged(flow), START_S)
    assert text.isprintable()
    assert "[red]" in text


@pytest.mark.parametrize("is_cut", [False, True])
def test_markup_in_a_name_is_shown_as_it_is(is_cut: bool) -> None:
    chosen = columns(is_wide=False, is_cluster=False)
    table = terminal._table(
        chosen, [merged(FLOW._replace(source=WEB._replace(pod=":smile:[red]x[/red]")))], START_S, is_cut=is_cut
    )
    printed = io.StringIO()
    Console(file=printed, width=300, force_terminal=True, markup=False, emoji=False, highlight=False).print(table)
    assert "shop/:smile:[red]x[/red]" in printed.getvalue()
