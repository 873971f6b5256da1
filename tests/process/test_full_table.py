"""The kernel's connection table is full: told before it is, and no way around a policy."""

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
"""As many as can be made in some seconds. The limit is the machine's, and not changed for a test."""


def metric(agent: Agent, name: str) -> float:
    return float(next(line for line in agent.metrics().splitlines() if line.startswith(f"{name} ")).split()[-1])


def test_a_full_table_is_told_in_time_and_admits_nobody_and_does_no_lasting_harm(box: Box, folder: Path) -> None:
    """Failing open, because then something could pass. While it is full nobody can ask for metrics either: that takes a connection."""
    usage = conntrack_usage()
    assert usage is not None
    if usage.limit > MAX_ENTRIES:
        pytest.skip(f"the machine's table has {usage.limit} places")
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
        agent.wait_until("it is told", lambda: metric(agent, "netpolq_conntrack_entries") >= nearly)
        agent.wait_until("it is warned of", lambda: f"of {usage.limit} connections" in agent.log.read_text())
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        dropped = metric(agent, "netpolq_conntrack_dropped_total")
        numbers = itertools.count(nearly, usage.limit)

        def nobody_gets_in() -> bool:
            # Again and again, because the kernel goes through a table that is nearly full and throws out what is being closed.
            with pytest.raises(OSError, match="Cannot allocate memory"):
                insert(box, FRIEND.name, STRANGER.name, 4, usage.limit, first=next(numbers), status=ASSURED)
            reached = {result.probe.source for result in box.probe(probes) if result.reached}
            assert STRANGER.name not in reached
            return not reached

        agent.wait_until("the kernel drops what it has no room to track", nobody_gets_in)
        assert box.run(NODE.name, ["conntrack", "-F"]).returncode == 0
        assert_admitted(box, "friend", families=(4, 6), protocols=("TCP", "UDP"))
        agent.wait_until("losses are counted", lambda: metric(agent, "netpolq_conntrack_dropped_total") >= dropped + len(probes))
        agent.wait_until("there is room again", lambda: metric(agent, "netpolq_conntrack_entries") < nearly)
        assert metric(agent, "netpolq_unjudged_packets_total") == 0
