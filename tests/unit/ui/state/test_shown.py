"""What is shown of the history: filters, the graph, the list of flows, and hits of rules."""

import csv
import io

from dataclasses import replace
from itertools import product

import pytest

from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Action, Direction, Tier
from netpolq.flows.record import OTHER_END, Flow, FlowEnd, FlowVerdict
from netpolq.model import Labels
from netpolq.ui.state import graph as graph_module
from netpolq.ui.state.filters import Filters
from netpolq.ui.state.flow_list import csv_portions, flow_list
from netpolq.ui.state.graph import MAX_PORTS, graph
from netpolq.ui.state.history import History
from netpolq.ui.state.hits import hits
from tests.support import flow_records
from tests.support.flow_records import ALLOWED, record

NOW_S = 1_700_000_010.0


def of_stateful_set(end: FlowEnd) -> FlowEnd:
    """The same pod, with the label that tells its controller."""
    return end._replace(labels=Labels({**end.labels, "statefulset.kubernetes.io/pod-name": end.pod}))


WEB, DB = map(of_stateful_set, (flow_records.WEB, flow_records.DB))
ACCEPTED_FLOW = flow_records.ACCEPTED_FLOW._replace(source=WEB, destination=DB)
DENIED_FLOW = flow_records.DENIED_FLOW._replace(source=WEB)


def web(number: int) -> FlowEnd:
    return of_stateful_set(flow_records.WEB._replace(pod=f"web-{number}"))


def history_of(*flows: Flow, connections: int = 1, back_s: float = 1.0) -> History:
    history = History()
    add(history, *flows, connections=connections, back_s=back_s)
    return history


def add(history: History, *flows: Flow, connections: int = 1, back_s: float = 1.0) -> None:
    for flow in flows:
        found = replace(record(connections, flow), first_seen_s=NOW_S - back_s, last_seen_s=NOW_S - back_s)
        history.add(found, NOW_S)


def edges(history: History, **filters: object) -> list[dict[str, object]]:
    return graph(history, Filters(**filters), NOW_S).edges  # type: ignore[arg-type]  # fields of filters


def test_an_edge_has_the_ports_and_reasons_of_its_connections() -> None:
    history = history_of(ACCEPTED_FLOW, connections=12)
    add(history, *(ACCEPTED_FLOW._replace(port=port) for port in range(1000, 1010)))
    (edge,) = edges(history)
    assert edge["id"] == "shop/web|shop/db|accept"
    assert edge["connections"] == 22
    ports = edge["ports"]
    assert isinstance(ports, list)
    assert ports[0] == {"protocol": "TCP", "port": 5432, "connections": 12}
    assert (len(ports), edge["more_ports"]) == (MAX_PORTS, 3)
    assert edge["reasons"] == ["ingress allowed by shop/db, spec.ingress[0]"]


def test_workloads_names_and_the_outside_are_told_apart() -> None:
    history = history_of(ACCEPTED_FLOW, DENIED_FLOW, ACCEPTED_FLOW._replace(source=OTHER_END))
    add(history, ACCEPTED_FLOW._replace(source=FlowEnd("192.0.2.1")))
    nodes = {node["id"]: node for node in graph(history, Filters(), NOW_S).nodes}
    assert {identity: node["kind"] for identity, node in nodes.items()} == {
        "shop/web": "workload",
        "shop/db": "workload",
        "name:api.example.com": "name",
        "outside": "outside",
    }
    assert nodes["shop/web"] == {"id": "shop/web", "namespace": "shop", "name": "web", "kind": "workload", "pods": 1}
    assert nodes["name:api.example.com"]["name"] == "api.example.com"


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, {"accept", "deny"}),
        ({"verdicts": frozenset({FlowVerdict.DENY})}, {"deny"}),
        ({"namespaces": frozenset({"shop"})}, {"accept", "deny"}),
        ({"namespaces": frozenset({"other"})}, set()),
        ({"source": "shop/web"}, {"accept", "deny"}),
        ({"destination": "shop/db"}, {"accept"}),
        ({"destination": "shop"}, set()),
        ({"port": 53}, {"deny"}),
        ({"protocol": "TCP"}, {"accept"}),
        ({"text": "db-0"}, {"accept"}),
        ({"text": "default"}, {"deny"}),
        ({"text": "2001:db8"}, {"deny"}),
        ({"text": "nothing"}, set()),
        ({"since_s": 60}, {"deny"}),
    ],
)
def test_filters_select_edges_and_flows_alike(filters: dict[str, object], found: set[str]) -> None:
    history = history_of(ACCEPTED_FLOW, back_s=200)
    add(history, DENIED_FLOW)
    assert {edge["verdict"] for edge in edges(history, **filters)} == found
    listed = flow_list(history, Filters(**filters), NOW_S)  # type: ignore[arg-type]  # fields of filters
    assert {flow["verdict"] for flow in listed.flows} == found
    assert listed.total == len(found)
    assert listed.connections == len(found)


def test_a_text_that_only_some_pods_have_counts_their_connections() -> None:
    history = history_of(*(ACCEPTED_FLOW._replace(source=web(n)) for n in range(5)), connections=3)
    (edge,) = edges(history, text="web-4")
    assert edge["connections"] == 3


def test_windows_that_lie_behind_do_not_count() -> None:
    history = history_of(ACCEPTED_FLOW, connections=5, back_s=1000)
    add(history, ACCEPTED_FLOW, connections=2)
    assert [edge["connections"] for edge in edges(history)] == [2]
    assert [edge["connections"] for edge in edges(history, since_s=3600)] == [7]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("since", "7"),
        ("verdict", "drop"),
        ("port", "65536"),
        ("port", "x"),
        ("other", "1"),
        ("text", "x" * 3000),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"parameter '?{name}"):
        Filters.from_query([(name, value)])


def test_all_parameters_of_a_query_are_read() -> None:
    query = [("since", "900"), ("namespace", "a"), ("namespace", "b"), ("verdict", "deny"), ("text", " Web "), ("port", "53")]
    filters = Filters.from_query([*query, ("protocol", "udp"), ("source", "shop/web"), ("destination", "outside")])
    assert filters == Filters(
        since_s=900,
        namespaces=frozenset({"a", "b"}),
        verdicts=frozenset({FlowVerdict.DENY}),
        text="web",
        source="shop/web",
        destination="outside",
        port=53,
        protocol="UDP",
    )
    with pytest.raises(ValueError, match="too often"):
        Filters.from_query([("since", "60"), ("since", "60")])


def test_a_graph_that_is_too_large_shows_denied_edges_first_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "MAX_WORKLOADS", 4)
    history = History()
    for number in range(6):
        end = FlowEnd(f"10.1.0.{number}", "many", f"one{number}", Labels({"app": f"one{number}"}))
        add(history, ACCEPTED_FLOW._replace(source=end), connections=10 + number)
    add(history, DENIED_FLOW)
    found = graph(history, Filters(), NOW_S)
    assert [edge["id"] for edge in found.edges] == ["shop/web|name:api.example.com|deny", "many/one5|shop/db|accept"]
    assert found.connections == sum(range(10, 16)) + 1
    assert found.left_out == sum(range(10, 15))


def test_flows_come_newest_first_and_only_so_many() -> None:
    history = History()
    for number in range(10):
        add(history, ACCEPTED_FLOW._replace(source=web(number)), back_s=100 - number)
    found = flow_list(history, Filters(), NOW_S, 3)
    assert [flow["source"]["pod"] for flow in found.flows] == ["web-9", "web-8", "web-7"]  # type: ignore[index]
    assert found.total == 10
    (first, *_others) = found.flows
    again = flow_list(history, Filters(), NOW_S, 3).flows[0]
    assert first["id"] == again["id"]


def test_csv_has_all_flows_and_no_formulas() -> None:
    evil = WEB._replace(namespace="=cmd()", pod="x")
    history = history_of(ACCEPTED_FLOW, ACCEPTED_FLOW._replace(source=evil))
    rows = list(csv.DictReader(io.StringIO("".join(csv_portions(history, Filters(), NOW_S)))))
    assert {row["source"] for row in rows} == {"shop/web-1", "'=cmd()/x"}
    assert {row["connections"] for row in rows} == {"1"}


def test_hits_count_each_rule_and_each_isolating_policy() -> None:
    egress = RuleDecision(Direction.EGRESS, Tier.NETWORK_POLICY, "shop/web", 1, Action.ACCEPT)
    history = history_of(ACCEPTED_FLOW, ACCEPTED_FLOW._replace(egress=egress), connections=2)
    add(history, DENIED_FLOW, connections=5, back_s=3000)
    found = hits(history, NOW_S)
    assert found["shop/db"].rules[Direction.INGRESS, 0].connections == 4
    assert found["shop/web"].rules[Direction.EGRESS, 1].connections == 2
    assert found["shop/web"].isolated[Direction.EGRESS].connections == 5
    assert found["shop/web"].total.connections == 7
    assert found["shop/default"].isolated[Direction.EGRESS].last_s == NOW_S - 3000


def test_a_policy_in_audit_has_the_hits_that_it_would_have() -> None:
    audit = Isolation(Direction.INGRESS, ("shop/strict",))
    flow = Flow(WEB, DB, "TCP", 1, FlowVerdict.WOULD_DENY, None, ALLOWED, None, audit)
    found = hits(history_of(flow, connections=3), NOW_S)
    assert found["shop/strict"].isolated[Direction.INGRESS].connections == 3
    assert found["shop/db"].total.connections == 3
    same = Flow(WEB, DB, "TCP", 1, FlowVerdict.WOULD_DENY, None, ALLOWED, audit._replace(direction=Direction.EGRESS), ALLOWED)
    assert hits(history_of(same), NOW_S)["shop/db"].total.connections == 1, "the same decision counts once"


def test_sums_of_links_and_of_flows_agree() -> None:
    history = History()
    for number, (pod, port, back_s) in enumerate(product(range(5), (80, 443), (0, 90, 400, 2000))):
        flow = ACCEPTED_FLOW._replace(source=web(pod), port=port)
        add(history, flow, connections=number, back_s=back_s)
    for since_s in (60, 300, 900, 3600):
        listed = flow_list(history, Filters(since_s=since_s), NOW_S)
        assert sum(int(str(flow["connections"])) for flow in listed.flows) == listed.connections
        assert graph(history, Filters(since_s=since_s), NOW_S).connections == listed.connections
