"""Which folders are fit to be the run directory."""

import os

from pathlib import Path

import pytest

from netpolq.ipc.run_dir import FILES, SNAPSHOT_FILE, prepare

OTHER_UID = 65534
NAMES = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "below" / "run"


def test_it_is_made_for_its_user_alone(run_dir: Path) -> None:
    prepare(run_dir)
    assert run_dir.stat().st_mode & 0o777 == 0o700
    run_dir.chmod(0o755)
    (run_dir / SNAPSHOT_FILE).touch()
    (run_dir / "unknown").symlink_to("/etc/passwd")  # a name that the agent does not use
    prepare(run_dir)
    assert run_dir.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_folder_is_refused_and_one_on_the_way_is_not(run_dir: Path, tmp_path: Path) -> None:
    """/var/run is a link on every system."""
    prepare(run_dir)
    (tmp_path / "var").symlink_to(run_dir.parent)
    prepare(tmp_path / "var" / "run")
    (tmp_path / "link").symlink_to(run_dir)
    run_dir.chmod(0o755)
    with pytest.raises(OSError, match="symbolic link"):
        prepare(tmp_path / "link")
    assert run_dir.stat().st_mode & 0o777 == 0o755


def test_another_users_folder_is_refused_and_left_alone(run_dir: Path) -> None:
    run_dir.mkdir(parents=True, mode=0o755)
    os.chown(run_dir, OTHER_UID, OTHER_UID)
    with pytest.raises(PermissionError, match=f"user {OTHER_UID}"):
        prepare(run_dir)
    assert run_dir.stat().st_mode & 0o777 == 0o755


@NAMES
def test_a_link_in_the_folder_is_refused(run_dir: Path, name: str) -> None:
    """Through it the agent would write, or read, elsewhere."""
    prepare(run_dir)
    for target in ("/etc/passwd", "nowhere"):
        (run_dir / name).symlink_to(target)
        with pytest.raises(OSError, match="symbolic link") as caught:
            prepare(run_dir)
        assert caught.value.filename == str(run_dir / name)
        (run_dir / name).unlink()


@NAMES
def test_another_users_file_in_the_folder_is_refused(run_dir: Path, name: str) -> None:
    """It could be a snapshot of that user's making."""
    prepare(run_dir)
    (run_dir / name).touch()
    os.chown(run_dir / name, OTHER_UID, OTHER_UID)
    with pytest.raises(PermissionError, match=f"user {OTHER_UID}"):
        prepare(run_dir)
