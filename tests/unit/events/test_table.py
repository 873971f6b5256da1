"""Series of denials and their limits, with the time as an argument."""

import itertools

from dataclasses import replace

from netpolq.decision import Decision, Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.events.limits import Bucket, Limits
from netpolq.events.series import OTHER_PEERS, PodIdentity, Reason
from netpolq.events.table import EventTable, Write
from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.model import Labels

DB = FlowEnd("10.0.0.2", "shop", "db-0")
INGRESS: Decision = Isolation(Direction.INGRESS, ("shop/db",))
EGRESS: Decision = Isolation(Direction.EGRESS, ("shop/default",))
ALLOWED: Decision = RuleDecision(Direction.INGRESS, Tier.NETWORK_POLICY, "shop/db", 0, Action.ACCEPT)
UNLIMITED = Limits(pod_burst=100_000, node_burst=100_000, update_s=0.0)


def web(number: int = 1, workload: str = "web") -> FlowEnd:
    """A pod of a Deployment."""
    return FlowEnd(f"10.0.1.{number}", "shop", f"{workload}-abc-{number}", Labels({"pod-template-hash": "abc"}))


def outside(number: int) -> FlowEnd:
    return FlowEnd(f"203.0.{number >> 8}.{number & 255}")


def denied(source: FlowEnd, destination: FlowEnd = DB, decision: Decision = INGRESS, port: int | None = 5432) -> Flow:
    is_egress = decision.direction is Direction.EGRESS
    return Flow(
        source,
        destination,
        "TCP",
        port,
        FlowVerdict.DENY,
        egress=decision if is_egress else None,
        ingress=None if is_egress else decision,
    )


class Tables:
    """A table, in a cluster whose pods are all of this node unless they are in `foreign`."""

    def __init__(self, limits: Limits = UNLIMITED) -> None:
        self.foreign: set[str] = set()
        self.created = "2026-01-01T00:00:00Z"
        tokens = itertools.count(1)
        self.table = EventTable(self._local, lambda: next(tokens), 0.0, limits)

    def _local(self, namespace: str, name: str) -> PodIdentity | None:
        return None if name in self.foreign else PodIdentity(namespace, name, self.created)

    def note(self, flow: Flow, now: float = 0.0, connections: int = 1) -> None:
        self.table.note(flow, 1000.0 + now, 1000.0 + now, connections, now)

    def writes(self, now: float) -> list[Write]:
        """What is written now, each with success."""
        found = []
        while (write := self.table.next_write(now)) is not None:
            self.table.on_written(write, now)
            found.append(write)
        return found


def peers(writes: list[Write]) -> list[str]:
    return [write.key.peer for write in writes]


def test_an_ingress_denial_is_about_the_destination_and_an_egress_denial_about_the_source() -> None:
    tables = Tables()
    tables.note(denied(web()))
    tables.note(denied(web(), DB, EGRESS))
    first, second = tables.writes(0.0)
    assert (first.key.pod.name, first.key.direction, first.key.peer) == ("db-0", Direction.INGRESS, "shop/web")
    assert (second.key.pod.name, second.key.direction, second.key.peer) == ("web-abc-1", Direction.EGRESS, "shop/db-0")


def test_only_pods_of_this_node_have_events() -> None:
    tables = Tables()
    tables.foreign = {"db-0"}
    tables.note(denied(web()))
    assert tables.writes(0.0) == []


def test_accepted_connections_and_those_that_audit_would_accept_in_another_way_are_no_event() -> None:
    tables = Tables()
    tables.note(denied(web(), decision=ALLOWED)._replace(verdict=FlowVerdict.ACCEPT))
    tables.note(denied(web(), decision=ALLOWED))
    assert tables.writes(0.0) == []


def test_what_a_policy_in_audit_would_deny_has_a_reason_of_its_own_and_a_denial_stays_one() -> None:
    tables = Tables()
    tables.note(Flow(web(), DB, "TCP", 1, FlowVerdict.WOULD_DENY, ingress=ALLOWED, audit_ingress=INGRESS))
    tables.note(denied(web())._replace(verdict=FlowVerdict.WOULD_ACCEPT, audit_ingress=ALLOWED))
    assert [write.key.reason for write in tables.writes(0.0)] == [Reason.WOULD_DENY, Reason.DENIED]


def test_connections_of_one_workload_are_one_series_that_is_updated() -> None:
    tables = Tables(replace(UNLIMITED, update_s=60.0))
    tables.note(denied(web(1)), now=0.0)
    tables.note(denied(web(2)), now=1.0, connections=3)
    (first,) = tables.writes(1.0)
    assert (first.is_new, first.connections, first.first_s, first.last_s) == (True, 4, 1000.0, 1001.0)
    tables.note(denied(web(1), port=80), now=2.0)
    assert tables.writes(60.9) == [], "at most one update a minute"
    (update,) = tables.writes(61.0)
    assert (update.is_new, update.connections, update.token) == (False, 5, first.token)
    assert update.message == (
        "ingress from shop/web (10.0.1.1 and 1 more) to TCP 5432 and TCP 80 denied: isolated by shop/db (5 connections in 2 s)"
    )
    assert tables.writes(1000.0) == []


def test_connections_during_a_write_lead_to_an_update() -> None:
    tables = Tables()
    tables.note(denied(web()))
    write = tables.table.next_write(0.0)
    assert write is not None
    tables.note(denied(web()))
    assert tables.table.next_write(0.0) is None, "one request for a series at a time"
    tables.table.on_written(write, 0.0)
    (update,) = tables.writes(0.0)
    assert (update.is_new, update.connections) == (False, 2)


def test_more_than_eight_addresses_outside_are_one_event_for_each_pod() -> None:
    tables = Tables()
    for number in range(45):
        tables.note(denied(outside(number)))
    tables.note(denied(outside(3)))
    tables.note(denied(outside(99), web()))
    found = tables.writes(0.0)
    assert peers(found) == [
        *(outside(number).address for number in (0, 1, 2, 4, 5, 6, 7)),
        OTHER_PEERS,
        "203.0.0.3",
        "203.0.0.99",
    ]
    others = next(write for write in found if write.key.peer == OTHER_PEERS)
    assert others.message == "ingress from 37 other addresses to TCP 5432 denied: isolated by shop/db (37 connections in 1 s)"
    assert next(write for write in found if write.key.peer == "203.0.0.3").connections == 2


def test_any_number_of_addresses_takes_nine_series_and_is_counted_up_to_a_bound() -> None:
    tables = Tables()
    for number in range(2000):
        tables.note(denied(outside(number)))
    assert len(tables.table) == 9
    assert "from more than 256 other addresses" in tables.writes(0.0)[-1].message


def test_when_addresses_outside_are_dropped_others_take_their_place() -> None:
    tables = Tables()
    for number in range(9):
        tables.note(denied(outside(number)))
    tables.writes(0.0)
    assert tables.writes(601.0) == []
    assert len(tables.table) == 0
    tables.note(denied(outside(77)), now=602.0)
    assert peers(tables.writes(602.0)) == ["203.0.0.77"]


def test_a_name_stands_for_its_addresses() -> None:
    tables = Tables()
    for number in range(20):
        end = outside(number)._replace(names=("api.example.com", "www.example.com"))
        tables.note(denied(web(), end, EGRESS))
    (write,) = tables.writes(0.0)
    assert write.message.startswith(
        "egress to api.example.com (203.0.0.0 and 19 more) on TCP 5432 denied: isolated by shop/default"
    )


def test_a_pod_gets_five_events_at_once_and_then_one_in_ten_seconds() -> None:
    tables = Tables(Limits())
    for number in range(8):
        tables.note(denied(web(workload=f"w{number}")))
    assert peers(tables.writes(0.0)) == [f"shop/w{number}" for number in range(5)]
    assert tables.writes(9.9) == []
    assert peers(tables.writes(10.0)) == ["shop/w5"]
    assert peers(tables.writes(20.0)) == ["shop/w6"]
    tables.note(denied(web(), web(9)), now=20.0)
    assert [write.key.pod.name for write in tables.writes(20.0)] == ["web-abc-9"], "another pod has a limit of its own"


def test_a_node_writes_twenty_at_once_and_then_five_in_a_second() -> None:
    tables = Tables(Limits())
    for number in range(40):
        tables.note(denied(web(), FlowEnd("10.0.0.9", "shop", f"pod-{number}")))
    assert len(tables.writes(0.0)) == 20
    assert len(tables.writes(1.0)) == 5
    assert len(tables.writes(2.0)) == 5


def test_what_waits_in_vain_is_dropped_and_counted() -> None:
    tables = Tables(Limits())
    for number in range(30):
        tables.note(denied(web(workload=f"w{number}")))
    written = len(tables.writes(0.0))
    for second in range(1, 122):
        written += len(tables.writes(float(second)))
    assert written == 5 + 12
    assert tables.table.suppressed == 30 - written
    assert len(tables.table) == written


def test_a_series_that_keeps_being_denied_waits_for_its_turn() -> None:
    tables = Tables(Limits())
    for second in range(200):
        for number in range(15):
            tables.note(denied(web(workload=f"w{number}")), now=float(second))
        tables.writes(float(second))
    assert tables.table.suppressed == 0


def test_the_table_keeps_the_series_that_were_denied_last() -> None:
    tables = Tables(replace(UNLIMITED, series=10))
    for number in range(10):
        tables.note(denied(web(workload=f"w{number}")))
    tables.note(denied(web(workload="w0")))
    tables.note(denied(web(workload="w10")))
    assert len(tables.table) == 10
    assert tables.table.suppressed == 1
    assert "shop/w1" not in peers(tables.writes(0.0)) != []


def test_a_full_table_keeps_the_series_of_a_request_under_way() -> None:
    tables = Tables(replace(UNLIMITED, series=1))
    tables.note(denied(web(workload="first")))
    write = tables.table.next_write(0.0)
    assert write is not None
    for number in range(3):
        tables.note(denied(web(workload=f"w{number}")))
    tables.table.on_written(write, 0.0)
    assert len(tables.table) <= 2


def test_a_failed_write_is_repeated_behind_others_under_the_same_name() -> None:
    tables = Tables()
    tables.note(denied(web(workload="a")), now=0.0)
    tables.note(denied(web(workload="b")), now=1.0)
    first = tables.table.next_write(1.0)
    assert first is not None
    tables.table.on_failed(first, 2.0)
    second, third = tables.writes(2.0)
    assert peers([second, third]) == ["shop/b", "shop/a"]
    assert third == first


def test_an_event_that_is_there_already_is_updated() -> None:
    tables = Tables(replace(UNLIMITED, update_s=60.0))
    tables.note(denied(web()))
    write = tables.table.next_write(0.0)
    assert write is not None
    tables.table.on_exists(write, 0.0)
    (update,) = tables.writes(0.0)
    assert not update.is_new


def test_an_event_that_has_expired_is_created_again_and_one_of_a_pod_that_is_gone_is_not() -> None:
    tables = Tables()
    tables.note(denied(web()))
    tables.writes(0.0)
    tables.note(denied(web()))
    update = tables.table.next_write(0.0)
    assert update is not None
    tables.table.on_gone(update, 0.0)
    again = tables.table.next_write(0.0)
    assert again is not None
    assert (again.is_new, again.connections) == (True, 2)
    tables.table.on_gone(again, 0.0)
    assert len(tables.table) == 0
    assert tables.table.suppressed == 0


def test_a_successor_of_the_same_name_is_another_pod() -> None:
    tables = Tables()
    tables.note(denied(web()))
    tables.created = "2026-01-02T00:00:00Z"
    tables.note(denied(web()))
    assert [write.is_new for write in tables.writes(0.0)] == [True, True]


def test_a_silent_series_ends_and_the_next_denial_begins_another() -> None:
    tables = Tables()
    tables.note(denied(web()), now=0.0)
    (first,) = tables.writes(0.0)
    assert tables.writes(600.0) == []
    assert len(tables.table) == 1
    assert tables.writes(600.1) == []
    assert len(tables.table) == 0
    tables.note(denied(web()), now=601.0)
    (second,) = tables.writes(601.0)
    assert second.is_new
    assert second.token != first.token


def test_a_bucket_fills_up_to_its_burst_and_survives_a_clock_that_stands() -> None:
    bucket = Bucket(10.0, 2, now=0.0)
    for _number in range(2):
        assert bucket.has_token(0.0)
        bucket.take(0.0)
    assert not bucket.has_token(9.0)
    assert bucket.has_token(10.0)
    assert not bucket.is_full(19.0)
    assert bucket.is_full(1000.0)
    for _number in range(2):
        assert bucket.has_token(1000.0)
        bucket.take(1000.0)
    assert not bucket.has_token(1000.0)
