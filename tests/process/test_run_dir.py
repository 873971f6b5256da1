"""The run directory in the hands of other programs: emptied, removed, replaced by a link, or another user's."""

import os

from pathlib import Path

import pytest

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.errors import ExitCode, SnapshotError
from netpolq.snapshot.memfd import load
from netpolq.snapshot.reader import SnapshotReader
from tests.process.conftest import admit, assert_admitted
from tests.process.test_start import assert_one_line, run_to_the_end

NOBODY = 65534
OURS = ("takeover.key", "status.sock", "snapshot.bin")


def is_whole(run_dir: Path) -> bool:
    """Whether all that the agent keeps in the folder is there."""
    return all((run_dir / name).exists() for name in OURS)


@pytest.mark.parametrize("what", ["all", "the folder", "status.sock"])
def test_what_another_program_removes_comes_back(box: Box, folder: Path, closed_agent: Agent, what: str) -> None:
    """Cleaning jobs empty /run while an agent runs: verdicts and counters go on, and within seconds socket, key and snapshot are back."""
    run_dir = closed_agent.run_dir
    closed_agent.wait_until("all is there", lambda: is_whole(run_dir))
    key = (run_dir / "takeover.key").read_text()
    assert_admitted(box, "friend")
    counted = closed_agent.metrics().count("packet_count{")
    for path in run_dir.iterdir():
        if what in {"all", "the folder", path.name}:
            path.unlink()
    if what == "the folder":
        run_dir.rmdir()
    assert_admitted(box, "friend")
    assert closed_agent.metrics().count("packet_count{") >= counted > 0
    closed_agent.wait_until("all is there again", lambda: is_whole(run_dir))
    assert (run_dir / "takeover.key").read_text() == key
    assert run_dir.stat().st_mode & 0o777 == 0o700
    before = closed_agent.status()
    admit(folder, "stranger")
    closed_agent.wait_until_enforced(before)
    assert_admitted(box, "stranger")


def test_another_users_folder_is_refused(box: Box, folder: Path) -> None:
    """That user could have the agent judge by a snapshot of its making."""
    run_dir = box.directory / "run"
    run_dir.mkdir(mode=0o777)
    os.chown(run_dir, NOBODY, NOBODY)
    assert_one_line(run_to_the_end(box, "--manifests", str(folder)), ExitCode.BOOT, "--run-dir", str(run_dir), f"user {NOBODY}")
    assert list(run_dir.iterdir()) == []


def test_all_processes_killed_right_after_a_change_leave_no_older_snapshot_to_start_by(
    box: Box, folder: Path, closed_agent: Agent
) -> None:
    """The copy of a version may be a second late; meanwhile the older one is refused, and nothing is admitted by it."""
    path = closed_agent.run_dir / "snapshot.bin"
    closed_agent.wait_until("it is kept", path.exists)
    newest = 0
    for app in ("stranger", "friend", "stranger"):
        before = closed_agent.status()
        admit(folder, app)
        newest = closed_agent.wait_until_enforced(before)["in_force_version"]
    closed_agent.kill_all()
    try:
        kept = SnapshotReader(load(path)).version
    except SnapshotError as error:
        assert "newer one was published" in str(error)  # noqa: PT017  # or the newest was written in time
    else:
        assert kept == newest
    closed_agent.start()
    assert_admitted(box, "stranger")
