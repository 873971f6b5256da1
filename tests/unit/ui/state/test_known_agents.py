"""The states of agents."""

from dataclasses import replace

import pytest

from netpolq.supervisor.flows_report import FlowsHead
from netpolq.supervisor.status import Status
from netpolq.ui.demonstration.status import made_up_status
from netpolq.ui.state.known_agents import KnownAgents
from netpolq.ui.state.node_states import MAX_POINTS
from tests.support.flow_records import record

NOW_S = 1_700_000_010.0


def head(node: str = "node-1", **fields: int) -> FlowsHead:
    counts = {"next": 1, "missed": 0, "records": 1, "max_records": 9, "unrecorded": 0, "lost": 0, "dropped_early": 0} | fields
    return FlowsHead(node=node, started_s=NOW_S, **counts)


def status(packets: int) -> Status:
    return made_up_status("node-1", pods=4, packets=packets, records=1, latency_s=0.01, rejected=[], objects={})


@pytest.fixture
def agents() -> KnownAgents:
    return KnownAgents(NOW_S)


def test_an_agent_is_missing_until_it_answers_and_when_it_fails(agents: KnownAgents) -> None:
    agents.found("node-1", "netpolq-abc")
    missing = {"node": "node-1", "reason": "it has not answered yet"}
    assert agents.agents_fields() == {"total": 1, "missing": [missing]}
    agents.head("node-1", head())
    assert agents.agents_fields() == {"total": 1, "missing": []}
    agents.failed("node-1", "no answer", NOW_S)
    version = agents.version
    agents.failed("node-1", "no answer", NOW_S + 1)
    assert agents.version == version, "the same problem is told once"
    assert agents.agents_fields()["missing"] == [{"node": "node-1", "reason": "no answer"}]
    agents.head("node-1", head())
    assert agents.agents_fields()["missing"] == []
    agents.gone(["node-1"])
    assert agents.agents_fields() == {"total": 0, "missing": []}


def test_an_agent_gets_the_name_of_its_node_when_it_is_known(agents: KnownAgents) -> None:
    agents.found("the agent on 'x'")
    agents.renamed("the agent on 'x'", "node-1")
    assert list(agents.nodes) == ["node-1"]


def test_rates_are_those_between_two_readings_and_none_across_a_restart(agents: KnownAgents) -> None:
    for seconds, packets in ((0, 1000), (5, 1100), (10, 20)):
        agents.flow(replace(record(10), last_seen_s=NOW_S), NOW_S)
        agents.status("node-1", status(packets), NOW_S + seconds)
    history = agents.nodes["node-1"].fields()["history"]
    assert history == {
        "at": [NOW_S, NOW_S + 5, NOW_S + 10],
        "packets_per_s": [None, 20.0, None],
        "latency_s": [0.01] * 3,
        "connections_per_s": [None, 2.0, 2.0],
    }


def test_a_failure_is_one_gap_in_the_series(agents: KnownAgents) -> None:
    agents.head("node-1", head())
    agents.status("node-1", status(1), NOW_S)
    for seconds in (1, 2, 3):
        agents.failed("node-1", f"problem {seconds}", NOW_S + seconds)
    assert len(agents.nodes["node-1"].points) == 2


def test_series_are_bounded(agents: KnownAgents) -> None:
    for seconds in range(2 * MAX_POINTS):
        agents.status("node-1", status(seconds), NOW_S + seconds)
    assert len(agents.nodes["node-1"].points) == MAX_POINTS


def test_what_is_too_old_is_dropped_once_a_minute(agents: KnownAgents) -> None:
    agents.flow(replace(record(), last_seen_s=NOW_S), NOW_S)
    agents.tick(NOW_S + 1)
    agents.tick(NOW_S + 3600 * 2)
    assert not agents.history.flows
