"""Flows of a running agent: what workers record, and what the status socket answers."""

import socket
import time

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Direction, Tier
from netpolq.errors import NetpolqError
from netpolq.flows.record import FlowRecord, FlowVerdict, decode
from netpolq.supervisor import flows_report, status_client
from netpolq.supervisor.flows_report import FlowsHead
from tests.process.conftest import FRIEND, SERVER, STRANGER, assert_admitted


def flows_of(agent: Agent, query: str = "since=3600") -> tuple[FlowsHead, list[FlowRecord]]:
    return flows_report.decode(status_client.request(agent.run_dir, "GET", f"/flows?{query}"))


def wait_for(agent: Agent, wanted: Callable[[list[FlowRecord]], bool], query: str = "since=3600") -> list[FlowRecord]:
    agent.wait_until("the flows are recorded", lambda: wanted(flows_of(agent, query)[1]))
    return flows_of(agent, query)[1]


def test_flows_name_the_pods_the_port_and_what_decided(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1", "--fail-open=false") as agent:
        assert_admitted(box, "friend", families=(4, 6))
        found = wait_for(
            agent, lambda records: len({(record.flow.verdict, record.flow.source.address) for record in records}) >= 4
        )
        head, _records = flows_of(agent)
        assert head.lost == 0
        assert head.unrecorded == 0
        assert [record for record in found if record.flow.verdict not in {FlowVerdict.ACCEPT, FlowVerdict.DENY}] == []
        for record in found:
            flow = record.flow
            assert (flow.destination.pod_name, flow.protocol, flow.port) == ("app/server", "TCP", 80)
            assert flow.egress is None
            assert record.connections >= 1
            assert record.window_start_s <= record.last_seen_s < record.window_start_s + record.window_s
            if flow.verdict is FlowVerdict.ACCEPT:
                assert flow.source.pod_name == "app/friend"
                assert isinstance(flow.ingress, RuleDecision)
                assert (flow.ingress.tier, flow.ingress.policy) == (Tier.NETWORK_POLICY, "app/server")
            else:
                assert flow.source.pod_name == "app/stranger"
                assert flow.ingress == Isolation(Direction.INGRESS, ("app/server",))
        _head, denied = flows_of(agent, "since=3600&denied=true")
        assert {record.flow.source.pod_name for record in denied} == {"app/stranger"}
        with pytest.raises(NetpolqError, match="400: colour: unknown"):
            flows_of(agent, "since=3600&colour=red")


def test_each_connection_is_counted_once_also_where_kernel_and_flow_cache_answer(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=2", "--verdict-cache=off") as agent:
        for _number in range(50):
            with box.inside(STRANGER.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
                end.sendto(b"x", (box.address(SERVER.name, 4), 4000))
        found = wait_for(agent, lambda records: sum(record.connections for record in records) >= 50)
        assert sum(record.connections for record in found) == 50
        assert {(record.flow.protocol, record.flow.verdict) for record in found} == {("UDP", FlowVerdict.DENY)}


@pytest.mark.parametrize("port", [80, 4000])
def test_what_the_kernel_answers_is_counted_too(box: Box, folder: Path, port: int) -> None:
    """The stranger is denied on every port, the friend on none."""
    attempts = 60
    with Agent(box, folder, "--workers=1", "--verdict-cache-ttl=8") as agent:
        for number in range(attempts):
            for client in (FRIEND, STRANGER):
                with box.inside(client.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
                    end.bind(("", 20_000 + number))  # a random port may come twice, and is the same connection then
                    end.sendto(b"x", (box.address(SERVER.name, 4), port))
                    time.sleep(0.005)  # so that hints reach the kernel between attempts
        evaluated = agent.status()["workers"][0]["packets"]
        assert evaluated < 2 * attempts, "the kernel has answered none"

        def counted() -> dict[tuple[str, FlowVerdict], int]:
            found: dict[tuple[str, FlowVerdict], int] = {}
            for record in flows_of(agent)[1]:
                key = record.flow.source.pod_name, record.flow.verdict
                found[key] = found.get(key, 0) + record.connections
            return found

        agent.wait_until("all are counted", lambda: sum(counted().values()) >= 2 * attempts)
        assert counted() == {(FRIEND.name, FlowVerdict.ACCEPT): attempts, (STRANGER.name, FlowVerdict.DENY): attempts}
        agent.wait_until("no decision is left in the kernel", lambda: agent.status()["verdict_cache"]["entries"] == 0)
        assert sum(counted().values()) == 2 * attempts


def test_flows_that_are_off_or_denied_only(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1", "--flows=denied") as agent:
        assert_admitted(box, "friend", families=(4, 6))
        found = wait_for(agent, lambda records: len({record.flow.source.address for record in records}) == 2)
        assert {record.flow.verdict for record in found} == {FlowVerdict.DENY}
    with Agent(box, folder, "--workers=1", "--flows=off") as agent:
        agent.wait_until("ready", agent.is_ready)
        with pytest.raises(NetpolqError, match="flows are off: run the agent with --flows on"):
            flows_of(agent)


def test_following_gives_each_connection_once(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=1") as agent:
        head, records = flows_of(agent, "after=now")
        assert records == []
        assert_admitted(box, "friend", families=(4,))
        seen: list[FlowRecord] = []
        number = head.next

        def more() -> bool:
            nonlocal number
            head, records = flows_of(agent, f"after={number}")
            assert head.missed == 0
            number = head.next
            seen.extend(records)
            return {record.flow.source.pod_name for record in seen} == {"app/friend", "app/stranger"}

        agent.wait_until("both are seen", more)
        total = sum(record.connections for record in flows_of(agent)[1])
        assert sum(record.connections for record in seen) == total


def test_an_agent_that_stops_exports_the_flows_of_its_last_window(box: Box, folder: Path) -> None:
    exported = box.directory / "flows.jsonl"
    with Agent(box, folder, "--workers=1", f"--flow-export-file={exported}") as agent:
        assert_admitted(box, "friend", families=(4, 6))
        served = wait_for(agent, lambda records: len({record.flow for record in records}) >= 4)
        connections = sum(record.connections for record in served)
        agent.stop()
    found = [decode(line) for line in exported.read_bytes().splitlines()]
    assert {record.flow for record in found} == {record.flow for record in served}
    assert sum(record.connections for record in found) >= connections
