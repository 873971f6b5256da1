"""Damaged snapshots: the pool rejects them, so no worker receives them, and workers need not validate every byte again."""

import json
import os
import sys

from pathlib import Path

from loadtest.testbed.box import Box
from netpolq.ipc import settings_document
from netpolq.settings import resolve

POOL = """
import sys
from netpolq_worker.__main__ import main
document, commands, answers = sys.argv[1:]
sys.exit(main([document], [sys.executable, "-m", "tests.support.publishing", commands, answers]))
"""


def test_the_pool_rejects_a_damaged_snapshot_and_the_next_one_reaches_the_worker(box: Box) -> None:
    commands, answers = box.directory / "commands", box.directory / "answers"
    commands.write_text("1 2! 3! 4")
    done = _run_pool(box, commands, answers)
    received = [json.loads(line) for line in answers.read_text().splitlines()]
    acknowledged = {line["acked"] for line in received if "acked" in line}
    assert 4 in acknowledged
    assert acknowledged <= {0, 1, 4}
    assert not [line for line in received if "refused" in line], "a worker received a damaged snapshot"
    assert "snapshot 2 rejected: checksum" in done
    assert "snapshot 3 rejected: checksum" in done


def test_workers_do_not_start_with_a_damaged_snapshot_file(box: Box) -> None:
    run_dir = box.directory / "run"
    run_dir.mkdir()
    (run_dir / "snapshot.bin").write_bytes(b"NETPOLQ\0" + os.urandom(4096))
    commands, answers = box.directory / "commands", box.directory / "answers"
    commands.write_text("9")
    done = _run_pool(box, commands, answers)
    received = [json.loads(line) for line in answers.read_text().splitlines()]
    assert received[0] == {"welcome": 0}
    assert {line["acked"] for line in received if "acked" in line} <= {0, 9}
    assert "ignoring the snapshot file" in done


def _run_pool(box: Box, commands: Path, answers: Path) -> str:
    """Run a real pool with one worker until its supervisor has all answers. Returns the log."""
    settings = resolve(["--run-dir", str(box.directory / "run"), "--workers=1"], {})
    pool = [sys.executable, "-c", POOL, settings_document.encode(settings), str(commands), str(answers)]
    return box.run(box.node.name, pool).stderr
