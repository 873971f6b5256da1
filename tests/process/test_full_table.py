"""A full conntrack table: reported before it is full, and no denied connection passes."""

import itertools

from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from netpolq.dataplane.host_checks import conntrack_usage
from tests.process.conftest import FRIEND, NODE, SERVER, STRANGER, assert_admitted
from tests.support.connections import ASSURED, insert

MAX_ENTRIES = 600_000
"""Entries that can be created within some seconds. The limit belongs to the machine, and the test does not change it."""


def metric(agent: Agent, name: str) -> float:
    return float(next(line for line in agent.metrics().splitlines() if line.startswith(f"{name} ")).split()[-1])


@pytest.mark.lifecycle
def test_a_full_table_is_reported_in_time_admits_no_denied_connection_and_does_no_lasting_harm(box: Box, folder: Path) -> None:
    """In fail-open mode, in which packets might pass. While the table is full, even a request for metrics gets no connection."""
    usage = conntrack_usage()
    assert usage is not None
    if usage.limit > MAX_ENTRIES:
        pytest.skip(f"the machine's table has room for {usage.limit} entries")
    probes = [
        Probe(client.name, box.address(SERVER.name, family), protocol, 80)
        for client in (FRIEND, STRANGER)
        for family in (4, 6)
        for protocol in ("TCP", "UDP")
    ]
    with Agent(box, folder, "--fail-open=true", "--workers=1") as agent:
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        nearly = usage.limit * 19 // 20
        insert(box, FRIEND.name, STRANGER.name, 4, nearly, status=ASSURED)
        agent.wait_until("the metric shows it", lambda: metric(agent, "netpolq_conntrack_entries") >= nearly)
        agent.wait_until("it is logged", lambda: f"of {usage.limit} entries" in agent.log.read_text())
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        dropped = metric(agent, "netpolq_conntrack_dropped_total")
        numbers = itertools.count(nearly, usage.limit)

        def no_client_is_admitted() -> bool:
            # Repeatedly, because the kernel evicts closing connections from a table that is nearly full.
            with pytest.raises(OSError, match="Cannot allocate memory"):
                insert(box, FRIEND.name, STRANGER.name, 4, usage.limit, first=next(numbers), status=ASSURED)
            reached = {result.probe.source for result in box.probe(probes) if result.reached}
            assert STRANGER.name not in reached
            return not reached

        agent.wait_until("the kernel drops packets that it has no room to track", no_client_is_admitted)
        assert box.run(NODE.name, ["conntrack", "-F"]).returncode == 0
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        agent.wait_until("losses are counted", lambda: metric(agent, "netpolq_conntrack_dropped_total") >= dropped + len(probes))
        agent.wait_until("there is room again", lambda: metric(agent, "netpolq_conntrack_entries") < nearly)
        assert metric(agent, "netpolq_unjudged_packets_total") == 0
