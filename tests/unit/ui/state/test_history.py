"""The history of flows: what it counts, what it forgets, and its bounds."""

from dataclasses import replace

from netpolq.flows.record import FlowRecord
from netpolq.ui.state.history import History
from netpolq.ui.state.minutes import minute_of
from tests.support.flow_records import ACCEPTED_FLOW, DENIED_FLOW, WEB, record, records

NOW_S = 1_700_000_010.0


def at(time_s: float, connections: int = 1, **fields: object) -> FlowRecord:
    found = replace(record(connections), first_seen_s=time_s, last_seen_s=time_s)
    return replace(found, **fields)  # type: ignore[arg-type]  # fields of a record


def total(history: History, since_s: float = NOW_S - 3600) -> int:
    of_links = sum(link.counts.since(minute_of(since_s)) for link in history.links.values())
    of_flows = sum(kept.since(minute_of(since_s)).connections for kept in history.flows.values())
    assert of_links == of_flows
    return of_links


def test_windows_of_a_flow_are_one_flow_with_the_sum_of_each_minute() -> None:
    history = History()
    for back_s in (0, 15, 200, 100):  # late records, too
        history.add(at(NOW_S - back_s, 2, packets=3, octets=100), NOW_S)
    history.add(at(NOW_S, 5), NOW_S)
    (kept,) = history.flows.values()
    assert (kept.first_seen_s, kept.last_seen_s) == (NOW_S - 200, NOW_S)
    assert kept.since(0) == (13, 12, 400)
    assert kept.since(minute_of(NOW_S - 60)) == (9, 6, 200)
    assert total(history, NOW_S - 60) == 9


def test_pods_of_a_workload_have_one_link_for_each_port_verdict_and_decision() -> None:
    history = History()
    for found in records(1, 50):
        history.add(found, NOW_S)
    history.add(record(1, ACCEPTED_FLOW._replace(port=80)), NOW_S)
    history.add(record(1, ACCEPTED_FLOW._replace(ingress=None)), NOW_S)
    assert (len(history.flows), len(history.links)) == (52, 3)
    history.workloads.name_all()
    assert {link.key.source.id for link in history.links.values()} == {"shop/web"}


def test_what_is_older_than_an_hour_is_neither_counted_nor_kept() -> None:
    history = History()
    history.add(at(NOW_S - 4000), NOW_S)
    assert not history.flows
    history.add(at(NOW_S), NOW_S)
    history.add(replace(at(NOW_S), flow=DENIED_FLOW), NOW_S)
    history.add(replace(at(NOW_S + 1800), flow=DENIED_FLOW), NOW_S + 1800)
    history.expire(NOW_S + 3700)
    (kept,) = history.flows.values()
    assert kept.flow == DENIED_FLOW
    assert len(kept.counts) == 4, "its first minute is dropped, too"
    assert total(history, NOW_S + 100) == 1
    history.expire(NOW_S + 9000)
    assert not history.flows
    assert not history.links


def test_a_time_to_come_counts_as_now() -> None:
    history = History()
    history.add(at(NOW_S + 86_400), NOW_S)
    (kept,) = history.flows.values()
    assert kept.last_seen_s == NOW_S


def test_a_node_that_tells_its_history_again_does_not_count_twice() -> None:
    history = History()
    told = [at(NOW_S - back_s, 2, node=node) for back_s in (0, 100, 1000) for node in ("node-1", "node-2")]
    for found in told:
        history.add(found, NOW_S)
    assert total(history) == 12
    history.forget_node("node-1")
    assert total(history) == 6
    for found in told:
        if found.node == "node-1":
            history.add(found, NOW_S)
    assert total(history) == 12


def test_flows_beyond_the_bound_are_counted_as_left_out() -> None:
    history = History(max_flows=10)
    for found in records(1, 20):
        history.add(found, NOW_S)
    assert len(history.flows) == 10
    assert history.left_out.since(0) == sum(range(11, 21))
    history.add(record(1, ACCEPTED_FLOW._replace(source=WEB._replace(pod="web-1"))), NOW_S)
    assert history.left_out.since(0) == sum(range(11, 21)), "a kept flow still counts"


def test_minutes_of_flows_beyond_the_bound_are_counted_as_left_out() -> None:
    history = History(max_flow_minutes=2)
    for minutes in range(4):
        history.add(at(NOW_S + 60 * minutes), NOW_S + 60 * minutes)
    history.add(at(NOW_S + 60), NOW_S + 300)
    assert total(history, NOW_S) == 3
    assert history.left_out.since(0) == 2


def test_counters_of_any_size_are_kept() -> None:
    history = History()
    for _ in range(3):
        history.add(at(NOW_S, 1 << 63, packets=1 << 63, octets=(1 << 63) - 1), NOW_S)
    (kept,) = history.flows.values()
    assert kept.since(0).connections == (1 << 64) - 2


def test_names_are_those_of_the_matrix_also_if_two_workloads_would_share_one() -> None:
    history = History()
    for pod, labels in (("web-1", {"app": "web"}), ("web-2", {"app": "web", "canary": "yes"})):
        end = WEB._replace(pod=pod, labels=type(WEB.labels)(labels))
        history.add(record(1, ACCEPTED_FLOW._replace(source=end)), NOW_S)
        history.add(record(1, ACCEPTED_FLOW._replace(source=end._replace(pod=f"{pod[:-1]}3"))), NOW_S)
    history.workloads.name_all()
    assert {link.key.source.id for link in history.links.values()} == {"shop/web (no other labels)", "shop/web (canary=yes)"}
