"""The lines of a running agent about packets, at `--v=2`."""

import json
import re
import socket

from pathlib import Path

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq_worker.worker.packet_log import BURST_LINES
from tests.process.conftest import SERVER, STRANGER, assert_admitted

FLAGS = ("--workers=1", "--strict-mode=false", "--fail-open=false")
FLOOD = 2000


def connect(box: Box) -> None:
    """Connect friend and stranger over both families, twice: the later verdicts come from the flow cache."""
    for _ in range(2):
        assert_admitted(box, "friend", families=(4, 6))


def wait_for_lines(agent: Agent, pattern: str, count: int) -> list[str]:
    """Wait for `count` lines that match."""
    found: list[str] = []

    def are_there() -> bool:
        found[:] = [line for line in agent.log.read_text(encoding="utf-8").splitlines() if re.search(pattern, line)]
        return len(found) >= count

    agent.wait_until(f"{count} lines like {pattern!r}", are_there)
    return found


def test_text_lines_name_verdict_flow_pods_and_policy(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--v=2", *FLAGS) as agent:
        connect(box)
        lines = wait_for_lines(agent, r" INFO packet\[\d+\]: ", 8)
    assert len(lines) == 8, "one line for each first packet, and none for those that follow"
    logged = [re.sub(r":\d+ \(app/(friend|stranger)\)", r":PORT (app/\1)", line.split("]: ", 1)[1]) for line in lines]
    logged = [re.sub(r", \d+\.\d us$", "", line) for line in logged]
    assert sorted(logged) == sorted(
        2
        * [
            "accept TCP 10.71.1.2:PORT (app/friend) -> 10.71.1.1:80 (app/server): allowed, ingress allowed by app/server, spec.ingress[0]",
            "accept TCP [fd71:1::2]:PORT (app/friend) -> [fd71:1::1]:80 (app/server): "
            "allowed, ingress allowed by app/server, spec.ingress[0]",
            "drop TCP 10.71.1.3:PORT (app/stranger) -> 10.71.1.1:80 (app/server): denied, ingress isolated by app/server",
            "drop TCP [fd71:1::3]:PORT (app/stranger) -> [fd71:1::1]:80 (app/server): denied, ingress isolated by app/server",
        ]
    )


def test_json_lines_are_one_object_each_with_the_same_facts(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--v=2", "--logging-format=json", *FLAGS) as agent:
        connect(box)
        wait_for_lines(agent, '"component": "packet"', 8)
        lines = agent.log.read_text(encoding="utf-8").splitlines()
        version = agent.status()["snapshot_version"]
        killed = agent.status()["workers"][0]["pid"]
        agent.kill(killed)
        connect(box)
        later = [json.loads(line) for line in wait_for_lines(agent, '"component": "packet"', 16)[8:]]
    entries = [json.loads(line) for line in lines]
    packets = [entry for entry in entries if entry["component"] == "packet"]
    assert len(packets) == 8
    denied = next(entry for entry in packets if entry["source_ip"] == "fd71:1::3")
    assert {key: denied[key] for key in ("verdict", "reason", "direction", "ingress", "protocol", "source_pod", "snapshot")} == {
        "verdict": "drop",
        "reason": "denied",
        "direction": "ingress",
        "ingress": {"isolated_by": ["app/server"]},
        "protocol": "TCP",
        "source_pod": "app/stranger",
        "snapshot": version,
    }
    assert all(entry["processing_us"] > 0 for entry in packets)
    assert {entry["source_pod"] for entry in later} == {"app/friend", "app/stranger"}, "the replacement logs like its predecessor"
    assert killed not in {entry["pid"] for entry in later}


def test_every_packet_has_a_line_or_is_in_the_count_of_packets_without_one(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--v=2", "--logging-format=json", *FLAGS) as agent:
        with box.inside(STRANGER.name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as end:
            for number in range(FLOOD):
                end.sendto(b"x", (box.address(SERVER.name, 4), 1 + number))
        agent.wait_until("all are evaluated", lambda: agent.status()["workers"][0]["packets"] >= FLOOD)
        wait_for_lines(agent, '"suppressed"', 1)

        def logged() -> tuple[int, int]:
            entries = [json.loads(line) for line in agent.log.read_text(encoding="utf-8").splitlines()]
            packets = [entry for entry in entries if entry["component"] == "packet"]
            return sum("verdict" in entry for entry in packets), sum(entry.get("suppressed", 0) for entry in packets)

        agent.wait_until("every packet is accounted for", lambda: sum(logged()) >= FLOOD)
        lines, suppressed = logged()
        assert lines + suppressed == agent.status()["workers"][0]["packets"] == FLOOD
        assert BURST_LINES <= lines < FLOOD


def test_without_the_flag_packets_leave_no_line_and_the_snapshot_no_names(box: Box, folder: Path) -> None:
    with Agent(box, folder, "--v=1", *FLAGS) as agent:
        connect(box)
        agent.wait_until("all are counted", lambda: agent.status()["workers"][0]["packets"] >= 8)
        assert agent.status()["workers"][0]["packets"] == 8
        assert "packet[" not in agent.log.read_text(encoding="utf-8")
        assert b"app/friend" not in (agent.run_dir / "snapshot.bin").read_bytes()
