"""What the page costs is measured on flows that are shown as meant."""

import random

import pytest

from loadtest import ui_costs


def test_every_agent_has_its_flows_between_workloads_that_know_each_other() -> None:
    records = ui_costs.made_up_records(random.Random(1), agents=3, flows=100, peers=4)
    assert len(records) == 300
    assert {record.node for record in records} == {"node-0", "node-1", "node-2"}
    history = ui_costs._history(records)
    assert sum(link.counts.since(0) for link in history.links.values()) == sum(record.connections for record in records)


def test_all_costs_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ui_costs.measure(agents=2, flows=50, peers=8, rounds=1)
    printed = capsys.readouterr().out
    for what in (
        "memory:",
        "taking in:",
        "map, an hour:",
        "flows, text of pods:",
        "change of map",
        "hits of rules:",
        "once a minute:",
    ):
        assert what in printed
