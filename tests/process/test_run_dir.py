"""Changes of the run directory by other programs: emptied, removed, or owned by another user."""

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

OTHER_USER = 65534
OURS = ("takeover.key", "status.sock", "snapshot.bin")


def is_whole(run_dir: Path) -> bool:
    """Whether the directory has all files of the agent."""
    return all((run_dir / name).exists() for name in OURS)


def accepted(agent: Agent) -> int:
    """Number of packets that workers have accepted."""
    lines = [line for line in agent.metrics().splitlines() if line.startswith("packet_count{") and 'verdict="accept"' in line]
    return sum(int(float(line.split()[-1])) for line in lines)


@pytest.mark.parametrize("what", ["all", "the folder", "status.sock"])
def test_files_that_another_program_removes_are_restored(box: Box, folder: Path, closed_agent: Agent, what: str) -> None:
    """After a cleanup job has emptied /run, verdicts and counters go on, and the agent restores socket, key and snapshot in seconds."""
    run_dir = closed_agent.run_dir
    closed_agent.wait_until("all is there", lambda: is_whole(run_dir))
    key = (run_dir / "takeover.key").read_text()
    assert_admitted(box, "friend")
    closed_agent.wait_until("the accepted packet is counted", lambda: accepted(closed_agent) == 1)
    for path in run_dir.iterdir():
        if what in {"all", "the folder", path.name}:
            path.unlink()
    if what == "the folder":
        run_dir.rmdir()
    assert_admitted(box, "friend")
    closed_agent.wait_until("the next accepted packet is counted", lambda: accepted(closed_agent) == 2)
    closed_agent.wait_until("all is there again", lambda: is_whole(run_dir))
    assert (run_dir / "takeover.key").read_text() == key
    assert run_dir.stat().st_mode & 0o777 == 0o700
    before = closed_agent.status()
    admit(folder, "stranger")
    closed_agent.wait_until_enforced(before)
    assert_admitted(box, "stranger")


def test_the_directory_of_another_user_is_refused(box: Box, folder: Path) -> None:
    """That user could make the agent evaluate with a snapshot of its own."""
    run_dir = box.directory / "run"
    run_dir.mkdir(mode=0o777)
    os.chown(run_dir, OTHER_USER, OTHER_USER)
    assert_one_line(
        run_to_the_end(box, "--manifests", str(folder)), ExitCode.BOOT, "--run-dir", str(run_dir), f"user {OTHER_USER}"
    )
    assert list(run_dir.iterdir()) == []


def test_all_processes_killed_right_after_a_change_leave_no_older_snapshot_to_start_with(
    box: Box, folder: Path, closed_agent: Agent
) -> None:
    """The file may be a second late. Meanwhile the older version is refused, and no connection is admitted by it."""
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
