"""Merged flows."""

from netpolq.flow_view.merge import MergedFlows
from tests.unit.flow_view.records import FLOW, START_S, record


def test_the_windows_of_a_flow_are_one_line_for_each_node() -> None:
    flows = MergedFlows()
    for window in (2, 0, 1):
        flows.add(record(window=window, connections=10))
    flows.add(record(window=5, node="node-2"))
    one, other = flows.newest_last()
    assert (one.connections, one.first_seen_s, one.last_seen_s) == (30, START_S + 1, START_S + 32)
    assert (one.node, other.node, other.connections) == ("node-1", "node-2", 1)


def test_traffic_is_summed_where_it_is_known() -> None:
    flows = MergedFlows()
    for packets in (None, 3, None, 4):
        flows.add(record(packets=packets))
    flows.add(record(FLOW._replace(port=1)))
    assert [(one.packets, one.octets) for one in flows.newest_last()] == [(7, 7), (None, None)]


def test_of_too_many_flows_the_oldest_are_left_out() -> None:
    flows = MergedFlows(max_flows=100)
    for number in range(250):
        flows.add(record(FLOW._replace(port=number), window=number))
    ports = [one.flow.port for one in flows.newest_last()]
    assert ports == list(range(250 - len(ports), 250))
    assert 90 <= len(ports) <= 100
    assert flows.left_out == 250 - len(ports)
