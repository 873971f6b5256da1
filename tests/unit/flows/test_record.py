"""The JSON form of flow records: what is encoded is decoded again, and what is not a record is an error that names the field."""

import json

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import format_address, parse_address
from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowRecord, FlowVerdict, decode, encode
from netpolq.model import Labels

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ADDRESSES = st.just(OTHER_ADDRESSES) | st.ip_addresses().map(
    lambda address: format_address(parse_address(str(IPv4Address(address) if address.version == 4 else IPv6Address(address))))
)
ENDS = st.builds(
    FlowEnd,
    ADDRESSES,
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=3).map(Labels),
    st.lists(TEXTS, max_size=3).map(tuple),
)
TIMES = st.integers(0, 4_000_000_000_000).map(lambda milliseconds: milliseconds / 1000)


def decisions(direction: Direction) -> st.SearchStrategy[Decision | None]:
    rule = st.builds(
        RuleDecision,
        st.just(direction),
        st.sampled_from(Tier),
        TEXTS,
        st.integers(0, 1 << 31),
        st.sampled_from((Action.ACCEPT, Action.DENY)),
        TEXTS,
        st.booleans(),
    )
    return st.none() | rule | st.builds(Isolation, st.just(direction), st.lists(TEXTS, max_size=4).map(tuple), st.booleans())


@st.composite
def records(draw: st.DrawFn) -> FlowRecord:
    verdict = draw(st.sampled_from(FlowVerdict))
    audit = verdict.is_changed_by_audit
    flow = Flow(
        source=draw(ENDS),
        destination=draw(ENDS),
        protocol=draw(TEXTS),
        port=draw(st.none() | st.integers(0, 0xFFFF)),
        verdict=verdict,
        egress=draw(decisions(Direction.EGRESS)),
        ingress=draw(decisions(Direction.INGRESS)),
        audit_egress=draw(decisions(Direction.EGRESS)) if audit else None,
        audit_ingress=draw(decisions(Direction.INGRESS)) if audit else None,
    )
    numbers = st.integers(0, 1 << 63)
    return FlowRecord(
        flow=flow,
        node=draw(TEXTS),
        window_start_s=draw(TIMES),
        window_s=draw(st.floats(0, 1e6)),
        first_seen_s=draw(TIMES),
        last_seen_s=draw(TIMES),
        connections=draw(numbers),
        packets=draw(st.none() | numbers),
        octets=draw(st.none() | numbers),
    )


@given(records())
def test_a_record_survives_the_way_and_is_one_line(record: FlowRecord) -> None:
    line = encode(record)
    assert b"\n" not in line
    assert decode(line) == record
    assert decode(line.decode()) == record


RECORD = FlowRecord(
    flow=Flow(
        FlowEnd("10.0.0.3", "shop", "web-0", Labels(app="web")),
        FlowEnd("10.0.0.2", "shop", "db-0"),
        "TCP",
        5432,
        FlowVerdict.WOULD_DENY,
        ingress=RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, "shop/db", 0, Action.ACCEPT, "from-web"),
        audit_ingress=Isolation(Direction.INGRESS, ("shop/strict",), is_rejected=True),
    ),
    node="node-1",
    window_start_s=1_800_000_000,
    window_s=15,
    first_seen_s=1_800_000_001.5,
    last_seen_s=1_800_000_002,
    connections=3,
)


def test_the_fields_of_a_record() -> None:
    assert json.loads(encode(RECORD)) == {
        "window_start": "2027-01-15T08:00:00.000Z",
        "window_s": 15,
        "first_seen": "2027-01-15T08:00:01.500Z",
        "last_seen": "2027-01-15T08:00:02.000Z",
        "node": "node-1",
        "verdict": "would-deny",
        "source": {"address": "10.0.0.3", "namespace": "shop", "pod": "web-0", "labels": {"app": "web"}, "names": []},
        "destination": {"address": "10.0.0.2", "namespace": "shop", "pod": "db-0", "labels": {}, "names": []},
        "protocol": "TCP",
        "port": 5432,
        "egress": None,
        "ingress": {"tier": "network-policy", "policy": "shop/db", "rule": 0, "rule_name": "from-web", "action": "accept"},
        "audit": {"egress": None, "ingress": {"isolated_by": ["shop/strict"], "deny_with": "reject"}},
        "connections": 3,
        "packets": None,
        "bytes": None,
    }


def test_port_zero_is_a_port() -> None:
    assert decode(encode(replace(RECORD, flow=RECORD.flow._replace(port=0)))).flow.port == 0


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    body = json.loads(encode(RECORD))
    change(body)
    return json.dumps(body)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda body: body.pop("source"), "field source: must be an object"),
        (lambda body: body["source"].update(address="10.0.0"), "field address: not an IP address"),
        (lambda body: body["destination"].update(labels={"a": 1}), "field destination.labels: must be an object of texts"),
        (lambda body: body["destination"].update(names="x"), "field destination.names: must be a list of texts"),
        (lambda body: body.update(port=65536), "field port: must be between 0 and 65535"),
        (lambda body: body.update(port=True), "field port: must be a number"),
        (lambda body: body.update(connections=-1), "field connections: must be between 0 and"),
        (lambda body: body.update(verdict="maybe"), "field verdict: 'maybe' is none of accept, deny, would-deny, would-accept"),
        (lambda body: body.update(last_seen="2027-01-15T08:00:00"), "field last_seen: .* has no time zone"),
        (lambda body: body.update(last_seen="yesterday"), "field last_seen: 'yesterday' is not a time"),
        (lambda body: body["ingress"].update(tier="x"), "field ingress: its tier must be one of"),
        (lambda body: body["audit"].update(egress=3), "field audit.egress: must be an object"),
    ],
)
def test_an_error_names_the_field(change: Callable[[dict[str, Any]], object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        decode(changed(change))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_json_is_a_value_error(body: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(json.dumps(body))


@given(
    field=st.sampled_from(sorted(json.loads(encode(RECORD)))),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just([])
    | st.just({})
    | st.datetimes().map(str),
)
def test_any_value_of_a_field_is_read_or_a_value_error(field: str, value: object) -> None:
    with suppress(ValueError):
        decode(changed(lambda body: body.update({field: value})))
