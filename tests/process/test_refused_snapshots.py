"""What the pool refuses never reaches a worker, which for that reason need not go through every byte again."""

import json
import os
import sys

from pathlib import Path

from loadtest.testbed.box import Box


def test_a_damaged_snapshot_ends_in_the_pool_and_the_next_one_reaches_the_worker(box: Box) -> None:
    commands, answers = box.directory / "commands", box.directory / "answers"
    commands.write_text("1 2! 3! 4")
    done = _run_pool(box, commands, answers)
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    acknowledged = {line["acked"] for line in told if "acked" in line}
    assert 4 in acknowledged
    assert acknowledged <= {0, 1, 4}
    assert not [line for line in told if "refused" in line], "no worker ever saw what it would have to refuse"
    assert "snapshot 2 rejected: checksum" in done
    assert "snapshot 3 rejected: checksum" in done


def test_a_kept_snapshot_that_is_damaged_is_not_what_workers_start_with(box: Box) -> None:
    run_dir = box.directory / "run"
    run_dir.mkdir()
    (run_dir / "snapshot.bin").write_bytes(b"NETPOLQ\0" + os.urandom(4096))
    commands, answers = box.directory / "commands", box.directory / "answers"
    commands.write_text("9")
    done = _run_pool(box, commands, answers)
    told = [json.loads(line) for line in answers.read_text().splitlines()]
    assert told[0] == {"welcome": 0}
    assert {line["acked"] for line in told if "acked" in line} <= {0, 9}
    assert "ignoring the snapshot file" in done


def _run_pool(box: Box, commands: Path, answers: Path) -> str:
    """Run a real pool with one worker until its supervisor has had its answers. Returns what it logged."""
    pool = [
        *(sys.executable, "-m", "netpolq_worker", "--run-dir", str(box.directory / "run"), "--queues", "100:100"),
        *("--fail-open", "--mark-mask", "0x70", "--"),
        *(sys.executable, "-m", "tests.support.publishing", str(commands), str(answers)),
    ]
    return box.run(box.node.name, pool).stderr
