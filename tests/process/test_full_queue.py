"""A full queue: more packets than it holds, while the worker stands still."""

import signal
import socket

from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq_worker.worker.nfqueue import QUEUE_PACKETS
from tests.process.conftest import FRIEND, SERVER

MORE = 500
PORT = 9
_SILENT = f"table inet silent {{ chain incoming {{ type filter hook prerouting priority raw; udp dport {PORT} drop; }}; }}"
"""Drops the datagrams at the server: answers would be queued too."""


def unjudged(agent: Agent) -> int:
    """-1 before the ruleset's counters were read."""
    lines = [line for line in agent.metrics().splitlines() if line.startswith("netpolq_unjudged_packets_total")]
    return int(float(lines[0].split()[-1])) if lines else -1


@pytest.mark.parametrize(("mode", "dropped", "passed"), [("true", 0, MORE), ("false", MORE, 0)], ids=["fail-open", "fail-closed"])
def test_the_queue_is_full_before_the_buffer_and_each_mode_has_its_own_counter(
    box: Box, folder: Path, mode: str, dropped: int, passed: int
) -> None:
    flags = (f"--fail-open={mode}", "--workers=1", "--verdict-cache=off", "--strict-mode=false")
    assert box.run(SERVER.name, ["nft", "-f", "-"], stdin=_SILENT).returncode == 0
    with Agent(box, folder, *flags) as agent:
        worker = agent.status()["workers"][0]["pid"]
        with box.inside(FRIEND.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.connect((box.address(SERVER.name, 4), PORT))
            agent.kill(worker, signal.SIGSTOP)
            try:
                # Until the worker answers one, each datagram is the first of its connection.
                sender.send(bytes(1000))
                agent.wait_until("neighbours have found each other", lambda: agent.packets_queued() == 1)
                for _ in range(QUEUE_PACKETS - 1 + MORE):
                    sender.send(bytes(1000))
                agent.wait_until("the queue is full", lambda: agent.queues()[0].queue_total == QUEUE_PACKETS)
                agent.wait_until("the packets that passed are counted", lambda: unjudged(agent) == passed)
                queue = agent.queues()[0]
                assert (queue.queue_dropped, queue.user_dropped) == (dropped, 0)
                assert queue.id_sequence == QUEUE_PACKETS
            finally:
                agent.kill(worker, signal.SIGCONT)
        agent.wait_until("all waiting packets are evaluated", lambda: agent.queues()[0].queue_total == 0)
        agent.wait_until("and counted", lambda: agent.status()["workers"][0]["packets"] == QUEUE_PACKETS)
        assert unjudged(agent) == passed
