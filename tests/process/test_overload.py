"""Overload: more new connections than a worker can evaluate. Every packet is accounted for, and the agent recovers."""

import re
import signal
import socket

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from tests.process.conftest import FRIEND, MODES, SERVER, STRANGER, assert_admitted, worker_of

EACH = 3_000
"""Packets of each client in one burst: together 1.5 times the length of the queue, sent within a fraction of the time after which the
pool kills a stopped worker."""
BURSTS = 3
PORT = 9
GROWTH_BYTES = 12 << 20
_COUNTING = f"""table inet seen {{
    counter arrived {{ }}
    chain incoming {{ type filter hook prerouting priority raw; udp dport {PORT} counter name arrived drop; }}
}}"""
"""Counts and drops the datagrams at the server: an answer would be one more packet."""


class PacketCounts(NamedTuple):
    """Counts of the packets by result.

    `accepted`, `denied`: by workers; `unjudged`: passed without a verdict; `dropped`: without a decision.
    """

    delivered: int
    accepted: int
    denied: int
    unjudged: int
    dropped: int


def packet_counts(box: Box, agent: Agent, mode: str) -> PacketCounts:
    listed = box.run(SERVER.name, ["nft", "list", "counter", "inet", "seen", "arrived"]).stdout
    delivered = re.search(r"packets (\d+)", listed)
    assert delivered is not None, listed
    counts = {name: int(float(value)) for name, value in re.findall(r"^([a-z]\S*) (\S+)$", agent.metrics(), re.MULTILINE)}
    accepted, denied = (
        counts.get(f'packet_count{{family="IPv4",protocol="UDP",verdict="{verdict}"}}', 0) for verdict in ("accept", "drop")
    )
    queue = agent.queues()[0]
    dropped = queue.queue_dropped + queue.user_dropped
    # On a slow machine, the pool may kill workers that seem to hang.
    dropped += counts.get('netpolq_failed_packets_total{cause="suspect"}', 0)
    dropped += counts.get('netpolq_failed_packets_total{cause="orphaned"}', 0) if mode == "false" else 0
    return PacketCounts(int(delivered[1]), accepted, denied, counts["netpolq_unjudged_packets_total"], dropped)


@MODES
def test_every_packet_is_delivered_denied_or_dropped_and_counted_and_memory_does_not_grow(
    box: Box, folder: Path, mode: str
) -> None:
    """The worker is stopped during each burst, so that a third of the packets finds no room in the queue."""
    assert box.run(SERVER.name, ["nft", "-f", "-"], stdin=_COUNTING).returncode == 0
    memory = []
    with Agent(box, folder, f"--fail-open={mode}", "--workers=1", "--verdict-cache=off") as agent:
        assert_admitted(box, "friend")
        # The agent reads them once a second, and may have done so just before the rules were there.
        agent.wait_until("the ruleset's counters are read", lambda: "netpolq_unjudged_packets_total" in agent.metrics())
        for number in range(BURSTS):
            worker = worker_of(agent)
            agent.kill(worker, signal.SIGSTOP)
            try:
                send_burst(box, 1024 + number * EACH)
            finally:
                with suppress(ProcessLookupError):
                    agent.kill(worker, signal.SIGCONT)
            agent.wait_until("there is room again", lambda: agent.queues()[0].queue_total == 0)
            assert_admitted(box, "friend")  # at once, as before the burst
            memory.append(psutil.Process(worker_of(agent)).memory_full_info().uss)
        sent = 2 * BURSTS * EACH

        def is_accounted_for() -> bool:
            now = packet_counts(box, agent, mode)
            return now.accepted + now.denied + now.unjudged + now.dropped >= sent

        agent.wait_until("all is accounted for", is_accounted_for)
        found = packet_counts(box, agent, mode)
        assert sent == found.delivered + found.denied + found.dropped
        assert found.delivered == found.accepted + found.unjudged
        assert min(found.accepted, found.denied) > 0
        assert (found.unjudged > 0, found.dropped > 0) == ((True, False) if mode == "true" else (False, True))
        assert agent.queues()[0].queue_total == 0
        assert max(memory) < memory[0] + GROWTH_BYTES


def send_burst(box: Box, first_port: int) -> None:
    """Send the first packet of `EACH` connections from each client."""
    address = box.address(SERVER.name, 4), PORT

    def send() -> None:
        for port in range(first_port, first_port + EACH):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind(("", port))
                sender.sendto(b"first and last", address)

    for client in (FRIEND, STRANGER):
        box.inside(client.name, send)
