"""A run directory on a full file system: no packet and no counter is lost."""

import subprocess

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from loadtest.testbed.probe import Probe
from tests.process.conftest import FRIEND, STRANGER, admit, assert_admitted

_ROUNDS = 6
"""Rounds of connections, so that their times and with them the counters differ. Those of one round would fit into one block."""


@pytest.fixture
def small(box: Box) -> Iterator[Path]:
    """A run directory on a file system of one megabyte."""
    run_dir = box.directory / "run"
    run_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "netpolq-test", run_dir], check=True)
    yield run_dir
    subprocess.run(["umount", "--lazy", run_dir], check=True)


def fill(folder: Path) -> None:
    """Use up every block."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


@pytest.mark.usefixtures("small")
def test_workers_that_need_new_counters_go_on_without_disk_space(box: Box, folder: Path) -> None:
    """The first packet of a protocol, family or duration needs a new counter, and the disk has no block for it.

    With the sparse mapped files of prometheus_client, such a write would end each worker by SIGBUS, and its packets would be dropped.
    """
    with Agent(box, folder, "--fail-open=false", "--workers=1", "--strict-mode=false", "--verdict-cache=off") as agent:
        fill(agent.run_dir)
        workers = [worker["pid"] for worker in agent.status()["workers"]]
        probes = [
            Probe(client.name, box.address("app/server", family), protocol, 80)
            for client in (FRIEND, STRANGER)
            for family in (4, 6)
            for protocol in ("TCP", "UDP")
        ]
        for _ in range(_ROUNDS):
            assert [result.reached for result in box.probe(probes)] == [probe.source == FRIEND.name for probe in probes]
        before = agent.status()
        admit(folder, "stranger")
        agent.wait_until_enforced(before)
        assert_admitted(box, "stranger", families=(4, 6), protocols=("TCP", "UDP"))
        assert [worker["pid"] for worker in agent.status()["workers"]] == workers
        agent.kill(workers[0])
        agent.wait_until("another worker serves", lambda: agent.status()["workers"][0]["pid"] not in {0, workers[0]})
        assert_admitted(box, "stranger", families=(4, 6), protocols=("TCP", "UDP"))
        agent.wait_until(
            "packets are counted", lambda: 'packet_count{family="IPv6",protocol="UDP",verdict="drop"}' in agent.metrics()
        )
        assert "SIGBUS" not in agent.log.read_text()
        (agent.run_dir / "filler").unlink()
