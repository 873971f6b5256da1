"""The message of an Event."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.events.message import MAX_MESSAGE_BYTES, message_of
from netpolq.events.series import OTHER_PEERS, Key, PodIdentity, Reason, Series

POD = PodIdentity("shop", "db-0", "")
DB: Decision = Isolation(Direction.INGRESS, ("shop/db", "shop/default-deny"))
ADMIN: Decision = RuleDecision(Direction.EGRESS, Tier.ADMIN, "no-metadata", 2, Action.DENY, "metadata")


def series(
    decision: Decision = DB,
    peer: str = "shop/frontend",
    *,
    addresses: tuple[str, ...] = ("10.0.0.7",),
    ports: tuple[str, ...] = ("TCP 5432",),
    connections: int = 12,
    lasting_s: float = 300.0,
    reason: Reason = Reason.DENIED,
    is_outside: bool = False,
) -> Series:
    key = Key(POD, decision.direction, reason, peer, is_outside)
    found = Series(key, 1, decision, 0.0, lasting_s, seen_at=0.0, due_at=0.0, connections=connections)
    for address in addresses:
        found.note_address(address)
    for port in ports:
        found.note_port(port)
    return found


@pytest.mark.parametrize(
    ("given_series", "message"),
    [
        (
            series(),
            "ingress from shop/frontend (10.0.0.7) to TCP 5432 denied: isolated by shop/db, shop/default-deny (12 connections in 5 min)",
        ),
        (
            series(reason=Reason.WOULD_DENY, connections=1),
            "ingress from shop/frontend (10.0.0.7) to TCP 5432 would be denied: isolated by shop/db, shop/default-deny (1 connection)",
        ),
        (
            series(ADMIN, "169.254.169.254", addresses=("169.254.169.254",), is_outside=True, lasting_s=0.2),
            "egress to 169.254.169.254 on TCP 5432 denied: by admin no-metadata, spec.egress[2] (metadata) (12 connections in 1 s)",
        ),
        (
            series(peer=OTHER_PEERS, addresses=("192.0.2.1",), ports=("ICMP",), lasting_s=7200.0),
            "ingress from 1 other address to ICMP denied: isolated by shop/db, shop/default-deny (12 connections in 2 h)",
        ),
        (
            series(Isolation(Direction.INGRESS, tuple(f"shop/p{number}" for number in range(9))), ports=("TCP 80", "TCP 443")),
            "ingress from shop/frontend (10.0.0.7) to TCP 80 and TCP 443 denied: "
            "isolated by shop/p0, shop/p1, shop/p2, shop/p3, shop/p4 and 4 more (12 connections in 5 min)",
        ),
        (
            series(ports=tuple(f"TCP {port}" for port in range(1, 100))),
            "ingress from shop/frontend (10.0.0.7) to TCP 1, TCP 2, TCP 3, TCP 4, TCP 5 and others denied: "
            "isolated by shop/db, shop/default-deny (12 connections in 5 min)",
        ),
    ],
)
def test_the_message_names_the_peer_the_ports_what_denied_and_how_often(given_series: Series, message: str) -> None:
    assert message_of(given_series) == message


@given(st.text(max_size=300), st.lists(st.text(max_size=400), min_size=1, max_size=64), st.text(max_size=300))
def test_any_names_make_a_printable_message_of_limited_length(peer: str, policies: list[str], rule: str) -> None:
    decisions = (
        Isolation(Direction.INGRESS, tuple(policies)),
        RuleDecision(Direction.EGRESS, Tier.BASELINE, policies[0], 0, Action.DENY, rule),
    )
    for decision in decisions:
        message = message_of(series(decision, peer))
        assert len(message.encode()) <= MAX_MESSAGE_BYTES
        assert message.isprintable()
        assert message.endswith(" (12 connections in 5 min)")


def test_a_long_message_is_cut_before_the_number_of_connections() -> None:
    message = message_of(series(Isolation(Direction.INGRESS, tuple(f"shop/{'ü' * 300}-{number}" for number in range(5)))))
    assert 1020 < len(message.encode()) <= MAX_MESSAGE_BYTES
    assert message.endswith("ü… (12 connections in 5 min)")
