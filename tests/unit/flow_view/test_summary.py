"""What is missing in the flows that were shown."""

from dataclasses import replace

from netpolq.flow_view.summary import Summary
from netpolq.supervisor.flows_report import FlowsHead
from tests.unit.flow_view.records import START_S

HEAD = FlowsHead(
    node="node-1", started_s=START_S, next=5, missed=0, records=5, max_records=100, unrecorded=0, lost=0, dropped_early=0
)


def lines(*heads: FlowsHead, since_s: float | None = START_S + 1) -> list[str]:
    summary = Summary()
    for head in heads:
        summary.add(head.node, head)
    return list(summary.lines(since_s, START_S + 60))


def test_nothing_is_said_where_nothing_is_missing() -> None:
    assert lines(HEAD) == []
    assert lines(HEAD, since_s=None) == []


def test_each_kind_of_loss_has_a_line_with_the_newest_sums_of_all_agents() -> None:
    one = replace(HEAD, unrecorded=1, lost=2, damaged=5, dropped_early=3, missed=4)
    found = lines(one, replace(one, unrecorded=5), replace(one, node="node-2", missed=0))
    assert [line.split()[0] for line in found] == ["6", "4", "10", "6", "8"]
    assert ["unrecorded" in line or "record" in line for line in found[:4]] == [True] * 4


def test_a_history_that_is_shorter_than_asked_for_is_named_for_some_agents() -> None:
    heads = [replace(HEAD, node=f"node-{number}") for number in range(1, 8)]
    found = lines(*heads, since_s=START_S - 1)
    assert found[0].startswith("the agent on node-1 knows flows only since ")
    assert len(found) == 6
    assert found[-1] == "2 more agents have started meanwhile"
