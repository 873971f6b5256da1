"""The count of connections includes those that the kernel answers."""

import socket

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from tests.process.conftest import FRIEND, SERVER, STRANGER

ROUND = 25
ROUNDS = 4
FIRST_PORT = 20000


def counted(agent: Agent) -> Mapping[tuple[str, str], float]:
    """Connections by verdict and by `answered_by`."""
    return {
        (sample.labels["verdict"], sample.labels["answered_by"]): sample.value
        for family in text_string_to_metric_families(agent.metrics())
        for sample in family.samples
        if sample.name == "netpolq_connections_total"
    }


def connect(box: Box, client: Host, source_port: int) -> None:
    """Send one datagram, the only one of its connection."""
    with box.inside(client.name, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)) as end:
        end.bind(("", source_port))
        end.sendto(b"x", (SERVER.address(4), 80))


def total(agent: Agent, verdict: str) -> float:
    return sum(count for (of, _answered_by), count in counted(agent).items() if of == verdict)


def test_every_connection_is_counted_once_whether_a_worker_or_the_kernel_answers_it(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--workers=2", "--strict-mode=false", "--verdict-cache=on") as agent:
        for number in range(ROUND * ROUNDS):
            for client in (FRIEND, STRANGER):
                connect(box, client, FIRST_PORT + number)
            if (number + 1) % ROUND == 0:
                # The next round finds the verdicts that the kernel has received meanwhile.
                for verdict in ("accept", "drop"):
                    agent.wait_until(f"all of {verdict} are counted", partial(is_total, agent, verdict, number + 1))
        found = counted(agent)
        assert found.keys() == {(verdict, by) for verdict in ("accept", "drop") for by in ("worker", "kernel")}
        assert all(count > 0 for count in found.values()), found
        assert {verdict: total(agent, verdict) for verdict in ("accept", "drop")} == dict.fromkeys(
            ("accept", "drop"), ROUND * ROUNDS
        )


def is_total(agent: Agent, verdict: str, wanted: int) -> bool:
    return total(agent, verdict) >= wanted
