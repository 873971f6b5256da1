"""The copy of the newest snapshot in the run directory."""

import asyncio
import os
import subprocess

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from netpolq.errors import SnapshotError
from netpolq.snapshot import memfd
from netpolq.snapshot.ir import CompiledDelta
from netpolq.snapshot.reader import SnapshotReader
from netpolq.supervisor import snapshot_file
from netpolq.supervisor.snapshot_file import SnapshotFile
from tests.support.compiled import encode
from tests.support.polling import until


def give(kept: SnapshotFile, version: int) -> None:
    """As the publisher does: say that one is about to be sent, send it, have it kept."""
    kept.outdate()
    descriptor = memfd.seal(encode(CompiledDelta(), version=version))
    kept.keep(descriptor)
    os.close(descriptor)


def version_in(path: Path) -> int:
    return SnapshotReader(memfd.load(path)).version


def is_kept(path: Path, version: int) -> bool:
    """Whether the next start would use this version."""
    try:
        return version_in(path) == version
    except (OSError, SnapshotError):
        return False


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system with room for one snapshot and a little more, instead of a directory."""
    blocks = len(encode(CompiledDelta())) // 4096 + 4
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"nr_blocks={blocks}", "netpolq-test", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


async def test_no_start_uses_a_version_that_another_was_sent_after(tmp_path: Path) -> None:
    """Whatever ends all processes between the sending of a version and its copy: the older file is refused.

    It may be the version before a client was denied.
    """
    path = tmp_path / "snapshot.bin"
    kept = SnapshotFile(path)
    kept.begin()
    give(kept, 1)
    await until(lambda: is_kept(path, 1))
    kept.outdate()  # version 2 is about to be sent
    with pytest.raises(SnapshotError, match="newer"):
        memfd.load(path)
    for version in range(2, 30):
        give(kept, version)
        await asyncio.sleep(0.02)
        assert not any(is_kept(path, older) for older in range(version))
    await until(lambda: is_kept(path, 29))
    await kept.leave()
    assert is_kept(path, 29)


async def test_a_full_disk_outdates_the_older_file_and_is_told_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The older file has its block, so it can be marked; the newest is written as soon as there is room for it."""
    with small_disk(tmp_path):
        path, filler = tmp_path / "snapshot.bin", tmp_path / "filler"
        kept = SnapshotFile(path)
        kept.begin()
        give(kept, 1)
        await until(lambda: is_kept(path, 1))
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        give(kept, 2)
        await until(lambda: kept.problem is not None)
        assert "No space left on device" in str(kept.problem)
        assert not is_kept(path, 1)
        filler.unlink()
        await until(lambda: is_kept(path, 2))
        await until(lambda: kept.problem is None)
        assert caplog.text.count("No space left") == 1
        await kept.leave()


async def test_without_inodes_or_writable_file_system_no_older_file_is_used_and_that_is_told(tmp_path: Path) -> None:
    """A file system that becomes read-only keeps the older file as it is: then all there is to do is to say so."""
    with small_disk(tmp_path):
        path = tmp_path / "snapshot.bin"
        kept = SnapshotFile(path)
        kept.begin()
        give(kept, 1)
        await until(lambda: is_kept(path, 1))
        remount(tmp_path, "nr_inodes=2")
        give(kept, 2)
        await until(lambda: kept.problem is not None)
        assert not is_kept(path, 1)
        remount(tmp_path, "nr_inodes=100")
        await until(lambda: is_kept(path, 2))
        await until(lambda: kept.problem is None)
        remount(tmp_path, "ro")
        kept.outdate()
        assert kept.problem is not None
        assert "remove it before the next start" in kept.problem
        remount(tmp_path, "rw")
        give(kept, 3)
        await until(lambda: is_kept(path, 3))
        await kept.leave()


@pytest.mark.parametrize("what", ["removed", "folder removed", "cut", "replaced"])
async def test_a_kept_file_that_another_program_spoils_comes_back(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run" / "snapshot.bin"
    path.parent.mkdir()
    kept = SnapshotFile(path)
    kept.begin()
    give(kept, 1)
    await until(lambda: is_kept(path, 1))
    match what:
        case "cut":
            os.truncate(path, 100)
        case "replaced":
            path.unlink()
            path.write_bytes(b"something else")
        case _:
            path.unlink()
    if what == "folder removed":
        path.parent.rmdir()
    await until(lambda: is_kept(path, 1))
    await kept.leave()


async def test_the_first_is_written_at_once_and_the_newest_when_the_supervisor_leaves(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    kept = SnapshotFile(path)
    kept.begin()
    give(kept, 1)
    await until(lambda: is_kept(path, 1))
    for version in range(2, 40):
        give(kept, version)
        await asyncio.sleep(0)
    await kept.leave()
    assert version_in(path) == 39
    assert list(tmp_path.iterdir()) == [path]


async def test_nothing_is_written_while_another_process_may_write(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    for begins in (False, True):
        kept = SnapshotFile(path)
        give(kept, 1)
        give(kept, 2)
        await asyncio.sleep(0.05)
        assert not path.exists()
        if begins:
            kept.begin()
        await kept.leave()
        assert path.exists() is begins
    assert version_in(path) == 2


async def test_a_burst_is_written_as_few_times_as_seconds_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = memfd.save

    def counting(path: Path, descriptor: int) -> None:
        save(path, descriptor)
        memfd.mark(path, is_newest=True)
        written.append(version_in(path))

    monkeypatch.setattr(memfd, "save", counting)
    monkeypatch.setattr(snapshot_file, "SAVE_INTERVAL_S", 0.2)
    kept = SnapshotFile(tmp_path / "snapshot.bin")
    kept.begin()
    for version in range(1, 61):
        give(kept, version)
        await asyncio.sleep(0.01)
    await kept.leave()
    assert written == sorted(written)
    assert written[-1] == 60
    assert len(written) <= 12


async def test_a_folder_that_cannot_be_written_is_told_and_harms_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept = SnapshotFile(tmp_path / "file" / "snapshot.bin")
    kept.begin()
    give(kept, 1)
    await kept.leave()
    assert "the next start will have no snapshot" in caplog.text
    assert kept.problem is not None
    await SnapshotFile(tmp_path / "never").leave()
