"""The lines of a running agent about denied packets, with `--log-denied`."""

import json
import socket

from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq_worker.worker.denied_log import PAIR_BURST_LINES
from tests.process.conftest import SERVER, STRANGER, assert_admitted

FLAGS = ("--workers=1", "--fail-open=false", "--strict-mode=false", "--logging-format=json", "--log-denied")
FLOOD = 2000


def packet_lines(agent: Agent) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in agent.log.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry["component"] == "packet"]


def test_denied_packets_are_logged_with_pods_and_policy_and_accepted_ones_are_not(box: Box, folder: Path) -> None:
    with Agent(box, folder, *FLAGS) as agent:
        assert_admitted(box, "friend", families=(4, 6))
        agent.wait_until("both are logged", lambda: len(packet_lines(agent)) >= 2)
        lines = packet_lines(agent)
    logged = [{key: line[key] for key in ("verdict", "reason", "ingress", "source_pod", "destination_pod")} for line in lines]
    assert logged == 2 * [
        {
            "verdict": "drop",
            "reason": "denied",
            "ingress": {"isolated_by": ["app/server"]},
            "source_pod": "app/stranger",
            "destination_pod": "app/server",
        }
    ]
    assert {line["source_ip"] for line in lines} == set(STRANGER.addresses)


def test_a_flood_of_one_pair_leaves_room_for_another_and_all_reach_the_worker(box: Box, folder: Path) -> None:
    """The verdict cache has no entry for the denied pair, so the worker counts every packet of the flood, which is to one port.

    The stranger is denied over both families, as two pairs. The second pair is logged during the flood of the first.
    """
    with Agent(box, folder, "--verdict-cache=on", *FLAGS) as agent:
        for _ in range(4):
            assert_admitted(box, "friend")
        agent.wait_until("the kernel has accepted connections", lambda: agent.status()["verdict_cache"]["entries"] > 0)
        evaluated = agent.status()["workers"][0]["packets"]
        for _ in range(FLOOD // 100):
            with box.inside(STRANGER.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
                for _number in range(100):
                    end.sendto(b"x", (box.address(SERVER.name, 4), 80))
        with box.inside(STRANGER.name, lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as end:
            end.sendto(b"x", (box.address(SERVER.name, 6), 80))
        agent.wait_until("all are evaluated", lambda: agent.status()["workers"][0]["packets"] >= evaluated + FLOOD + 1)
        agent.wait_until("the other pair is logged", lambda: any(":" in str(line["source_ip"]) for line in packet_lines(agent)))
        noisy = [line for line in packet_lines(agent) if line["source_ip"] == STRANGER.addresses[0] and "verdict" in line]
        assert PAIR_BURST_LINES <= len(noisy) <= PAIR_BURST_LINES + 2
        assert agent.status()["verdict_cache"]["entries"] <= 8, "a few accepted connections"
