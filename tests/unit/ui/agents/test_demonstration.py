"""The demonstration: the same with the same seed, with verdicts that its policies give."""

import asyncio
import time

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import PROTOCOL_NAMES, Verdict
from netpolq.flows import record as flow_record
from netpolq.flows.record import FlowRecord, FlowVerdict
from netpolq.policy.reference import ReferenceEvaluator
from netpolq.ui.agents import demonstration
from netpolq.ui.agents.demonstration import MISSING_NODE, NODES, Demonstration
from netpolq.ui.demonstration.traffic import Traffic
from netpolq.ui.state.known_agents import KnownAgents
from tests.support.polling import until

START_S = 1_700_000_000.0
_PROTOCOLS = {name: number for number, name in PROTOCOL_NAMES.items()}


@pytest.fixture(scope="module")
def source() -> Demonstration:
    return Demonstration()


def an_hour(source: Demonstration, seed: int) -> list[FlowRecord]:
    return list(Traffic(source._known, seed).records(START_S, START_S + 3600))


def test_the_seed_decides_everything(source: Demonstration) -> None:
    assert an_hour(source, 1) == an_hour(source, 1)
    assert an_hour(source, 1) != an_hour(source, 2)


def test_records_are_such_as_agents_write(source: Demonstration) -> None:
    for record in an_hour(source, 1):
        assert flow_record.decode(flow_record.encode(record)) == record


def test_the_verdict_of_each_connection_is_that_of_the_reference_evaluator(source: Demonstration) -> None:
    """A connection is denied if an agent denies it."""
    evaluator = ReferenceEvaluator(source._known.store)
    verdicts: dict[tuple[str, str, int], bool] = {}
    records = an_hour(source, 1)
    for flow in (record.flow for record in records):
        key = flow.source.address, flow.destination.address, flow.port or 0
        verdicts[key] = verdicts.get(key, True) and flow.verdict.is_enforced_accept
    for (client, server, port), is_accepted in verdicts.items():
        protocol = _PROTOCOLS["UDP" if port == 53 else "TCP"]
        explained = evaluator.explain(parse_address(client), parse_address(server), protocol, port)
        assert (explained.verdict is Verdict.ACCEPT) == is_accepted, (client, server, port)
    assert {record.flow.verdict for record in records} == {FlowVerdict.ACCEPT, FlowVerdict.DENY, FlowVerdict.WOULD_DENY}
    assert {record.node for record in records} == set(NODES)


async def run_for(source: Demonstration, agents: KnownAgents) -> None:
    task = asyncio.create_task(source.run(agents))
    try:
        await until(lambda: len(agents.nodes) == len(NODES) and any(state.status for state in agents.nodes.values()))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_hour_before_the_start_is_there_at_once(source: Demonstration) -> None:
    agents = KnownAgents(time.time())
    await run_for(source, agents)
    assert len({kept.flow.verdict for kept in agents.history.flows.values()}) == 3
    assert min(kept.first_seen_s for kept in agents.history.flows.values()) < time.time() - 3000


async def test_one_agent_goes_missing(source: Demonstration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "MISSING_FROM_S", 0)
    agents = KnownAgents(time.time())
    await run_for(source, agents)
    missing = agents.agents_fields()["missing"]
    assert isinstance(missing, list)
    assert [one["node"] for one in missing] == [MISSING_NODE]
    assert agents.nodes[MISSING_NODE].status is None
