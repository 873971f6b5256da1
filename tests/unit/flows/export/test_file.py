"""The file of flow records: whole lines whatever happens to disk and file, rotation, and records that wait for a repair."""

import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import stat
import subprocess
import sys
import threading
import time

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netpolq.flows.export.file import FileExporter
from netpolq.flows.export.rotating_file import RotatingFile
from netpolq.flows.record import decode, encode
from tests.support.exporting import running
from tests.support.flow_records import record, records, unencodable
from tests.support.polling import until

LINE = len(encode(record(10))) + 1
"""Bytes of a record with a number of two digits."""


def exporter_of(path: Path, *, max_bytes: int = 1 << 20, keep: int = 4, capacity: int = 1000) -> FileExporter:
    return FileExporter(path, max_bytes=max_bytes, keep=keep, capacity=capacity, retry_s=0.01)


def numbers(*paths: Path) -> list[int]:
    return [decode(line).connections for path in paths for line in path.read_bytes().splitlines()]


async def test_records_are_lines_of_a_file_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    async with running(exporter_of(path)) as exporter:
        exporter.offer(records(1, 3))
        exporter.offer(records(4, 2))
        await until(lambda: exporter.counts.exported == 5)
    assert [decode(line) for line in path.read_bytes().splitlines()] == records(1, 5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (exporter.waiting, exporter.problem) == (0, None)


async def test_each_window_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that follows the file sees no half window, and no line of another process in one."""
    writes: list[int] = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(data.count(b"\n"))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    async with running(exporter_of(tmp_path / "flows.json")) as exporter:
        exporter.offer(records(1, 500))
        exporter.offer(records(501, 7))
        await until(lambda: exporter.counts.exported == 507)
    assert [lines for lines in writes if lines] == [500, 7]


async def test_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    for first in (1, 3):
        async with running(exporter_of(path)) as exporter:
            exporter.offer(records(first, 2))
    assert numbers(path) == [1, 2, 3, 4]


async def test_what_waits_is_written_when_the_agent_ends(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    exporter = exporter_of(path)
    task = asyncio.create_task(exporter.run())
    await asyncio.sleep(0)
    for first in range(1, 100, 10):
        exporter.offer(records(first, 10))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert numbers(path) == list(range(1, 101))


async def test_a_window_that_is_being_written_when_the_agent_ends_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, begun, append = tmp_path / "flows.json", threading.Event(), RotatingFile.append

    def slow(file: RotatingFile, data: bytes) -> None:
        begun.set()
        time.sleep(0.05)
        append(file, data)

    monkeypatch.setattr(RotatingFile, "append", slow)
    async with running(exporter_of(path)) as exporter:
        exporter.offer(records(1, 3))
        await until(begun.is_set)
    assert numbers(path) == [1, 2, 3]
    assert exporter.counts.exported == 3


# --- rotation ---------------------------------------------------------------------------------------------------------------------


async def write_windows(path: Path, count: int, *, max_bytes: int, keep: int) -> None:
    async with running(exporter_of(path, max_bytes=max_bytes, keep=keep)) as exporter:
        for number in range(10, 10 + count):
            exporter.offer([record(number)])
        await until(lambda: exporter.counts.exported == count)


async def test_a_file_does_not_grow_beyond_its_limit_and_the_newest_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    await write_windows(path, 15, max_bytes=3 * LINE, keep=2)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["flows.json", "flows.json.1", "flows.json.2"]
    assert [numbers(tmp_path / name) for name in ("flows.json.2", "flows.json.1", "flows.json")] == [
        [16, 17, 18],
        [19, 20, 21],
        [22, 23, 24],
    ]
    assert all(stat.S_IMODE(found.stat().st_mode) == 0o600 for found in tmp_path.iterdir())


async def test_none_is_kept_with_0(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    await write_windows(path, 4, max_bytes=3 * LINE, keep=0)
    assert [found.name for found in tmp_path.iterdir()] == ["flows.json"]
    assert numbers(path) == [13]


async def test_a_window_larger_than_the_limit_is_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    async with running(exporter_of(path, max_bytes=3 * LINE)) as exporter:
        for first, count in ((10, 1), (11, 20), (31, 1)):
            exporter.offer(records(first, count))
        await until(lambda: exporter.counts.exported == 22)
    assert [len(numbers(path.with_name(name))) for name in ("flows.json.2", "flows.json.1", "flows.json")] == [1, 20, 1]


# --- what other programs do to the file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["moved", "removed", "truncated", "replaced"])
async def test_a_file_that_another_program_changes_loses_no_later_record(tmp_path: Path, how: str) -> None:
    path, old = tmp_path / "flows.json", tmp_path / "old"
    async with running(exporter_of(path)) as exporter:
        exporter.offer(records(1, 5))
        await until(lambda: exporter.counts.exported == 5)
        match how:
            case "moved":
                path.rename(old)
            case "removed":
                path.unlink()
            case "truncated":  # copytruncate of logrotate
                os.truncate(path, 0)
            case "replaced":
                other = tmp_path / "other"
                other.write_bytes(b"")
                other.rename(path)
        exporter.offer(records(6, 2))
        await until(lambda: exporter.counts.exported == 7)
    assert numbers(path) == [6, 7]
    assert how != "moved" or numbers(old) == [1, 2, 3, 4, 5]


def test_two_agents_write_the_same_file_during_a_takeover(tmp_path: Path) -> None:
    """Rotation, too: each line is there once and whole."""
    path = tmp_path / "flows.json"
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.support.exporting import running\n"
        "from tests.support.flow_records import records\n"
        "from tests.unit.flows.export.test_file import exporter_of\n"
        "async def main(path, first):\n"
        "    async with running(exporter_of(path, max_bytes=20000, keep=1000)) as exporter:\n"
        "        for start in range(first, first + 400, 4):\n"
        "            exporter.offer(records(start, 4))\n"
        "            while exporter.waiting:\n"
        "                await asyncio.sleep(0)\n"
        "asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))\n"
    )
    agents = [subprocess.Popen([sys.executable, "-c", program, path, str(first)]) for first in (1000, 2000)]
    assert [agent.wait(60) for agent in agents] == [0, 0]
    found = sorted(numbers(*tmp_path.iterdir()))
    assert found == [*range(1000, 1400), *range(2000, 2400)]
    assert len(list(tmp_path.iterdir())) > 3


# --- faults -----------------------------------------------------------------------------------------------------------------------


async def fails_then_works(exporter: FileExporter, reason: str, repair: Callable[[], object], found: Path) -> None:
    """The records wait while the problem is reported, and are written after the repair."""
    async with running(exporter):
        exporter.offer(records(1, 3))
        await until(lambda: exporter.problem)
        assert exporter.problem is not None
        assert reason in exporter.problem
        assert exporter.target in exporter.problem
        assert exporter.waiting == 3
        repair()
        await until(lambda: not exporter.waiting)
        assert not exporter.problem
    assert numbers(found) == [1, 2, 3]
    assert exporter.counts.as_mapping() == {"exported": 3, "lost": 0, "rejected": 0}


async def test_a_missing_folder_is_reported_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "flows.json"
    await fails_then_works(exporter_of(path), "its folder does not exist", path.parent.mkdir, path)


async def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    path, victim = tmp_path / "flows.json", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    await fails_then_works(exporter_of(path), "it is a symbolic link", path.unlink, path)
    assert victim.read_text() == "precious"


async def test_a_file_with_a_second_name_is_not_written(tmp_path: Path) -> None:
    path, victim = tmp_path / "flows.json", tmp_path / "victim"
    victim.write_text("precious")
    path.hardlink_to(victim)
    await fails_then_works(exporter_of(path), "hard link", path.unlink, path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("make", "reason"), [(os.mkfifo, "not a regular file"), (Path.mkdir, "folder")], ids=["fifo", "folder"])
async def test_what_is_no_regular_file_is_not_written(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "flows.json"
    make(path)
    repair = path.rmdir if path.is_dir() else path.unlink
    await fails_then_works(exporter_of(path), reason, repair, path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
async def test_a_file_of_another_user_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    path.touch()
    os.chown(path, 65534, 65534)
    await fails_then_works(exporter_of(path), "it belongs to user 65534", path.unlink, path)


async def test_a_file_that_another_process_locks_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await fails_then_works(exporter_of(path), "another process keeps it locked", file.close, path)


@contextlib.contextmanager
def file_size_limit(limit: int) -> Iterator[Callable[[], None]]:
    """As a full disk, but for every file of this process: writes end after some bytes, and then fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_write_that_ends_early_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    async with running(exporter_of(path)) as exporter:
        exporter.offer([record(10)])
        await until(lambda: exporter.counts.exported == 1)
        with file_size_limit(2 * LINE + 20) as repair:
            exporter.offer([record(11), record(12), record(13)])
            await until(lambda: exporter.problem)
            assert exporter.problem is not None
            assert "RLIMIT_FSIZE" in exporter.problem
            assert path.stat().st_size == LINE, "one line and a part of another are taken back"
            repair()
        await until(lambda: not exporter.waiting)
    assert numbers(path) == [10, 11, 12, 13]


FULL_DISK = """
import asyncio, os, subprocess, sys
from pathlib import Path
from tests.support.exporting import running
from tests.support.flow_records import records
from tests.support.polling import until
from tests.unit.flows.export.test_file import exporter_of, numbers

async def main(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    path, ballast = folder / "flows.json", folder / "ballast"
    async with running(exporter_of(path, capacity=300)) as exporter:
        exporter.offer(records(1, 10))
        await until(lambda: exporter.counts.exported == 10)
        ballast.write_bytes(bytes(44 * 1024))
        size = path.stat().st_size
        for first in range(11, 511, 50):
            exporter.offer(records(first, 50))
        await until(lambda: exporter.problem)
        assert "the disk is full" in exporter.problem, exporter.problem
        assert path.stat().st_size == size, "no part of the window stays"
        assert exporter.waiting <= 300
        lost = exporter.counts.lost
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True)
        await until(lambda: not exporter.waiting)
        assert not exporter.problem
    found = numbers(path)
    assert found == sorted(set(found)) and len(found) == 510 - lost and found[-1] == 510, (len(found), lost)
    assert lost == exporter.counts.lost == 200, lost
    print("done")

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_is_reported_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """A real file system of 64 KiB, in a mount namespace of its own."""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.mark.parametrize("length", [1, 10, LINE - 2])
async def test_the_rest_of_a_line_that_a_killed_process_left_is_removed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "flows.json"
    path.write_bytes(encode(record(1)) + b"\n" + encode(record(2))[:length])
    async with running(exporter_of(path)) as exporter:
        exporter.offer([record(3)])
    assert numbers(path) == [1, 3]


async def test_a_last_line_of_another_program_is_ended_and_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    path.write_bytes(b"notes")
    async with running(exporter_of(path)) as exporter:
        exporter.offer([record(3)])
    assert path.read_bytes().splitlines() == [b"notes", encode(record(3))]


async def test_a_record_without_a_json_form_does_not_hold_up_the_others(tmp_path: Path) -> None:
    path = tmp_path / "flows.json"
    async with running(exporter_of(path)) as exporter:
        exporter.offer([record(1), unencodable(2), record(3)])
        await until(lambda: not exporter.waiting)
        assert exporter.problem is not None
    assert numbers(path) == [1, 3]
    assert exporter.counts.as_mapping() == {"exported": 2, "lost": 0, "rejected": 1}


async def test_a_disk_that_does_not_answer_blocks_neither_the_event_loop_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write hangs in its thread. What comes meanwhile waits, and the end of the agent does not wait for it."""
    monkeypatch.setattr("netpolq.flows.export.exporter.LAST_SEND_S", 0.05)
    monkeypatch.setattr("netpolq.flows.export.file._SLOW_S", 0.0)
    reader, writer = os.pipe()
    path = tmp_path / "flows.json"
    exporter = exporter_of(path, capacity=100)
    monkeypatch.setattr(os, "write", lambda _fd, data: len(data) if os.read(reader, 1) else 0)
    async with running(exporter):
        exporter.offer(records(1, 10))
        await until(lambda: exporter.problem)
        assert exporter.problem is not None
        assert "a write has not ended" in exporter.problem
        for first in range(11, 1011, 100):
            exporter.offer(records(first, 100))
        assert exporter.waiting <= 110
    assert exporter.waiting == 100
    monkeypatch.undo()
    os.write(writer, b"x" * 20)
    os.close(writer)
    await asyncio.get_running_loop().shutdown_default_executor()
    os.close(reader)
    exporter._file.close()


async def test_a_problem_that_stays_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "missing" / "flows.json"
    with caplog.at_level(logging.INFO, logger="flow-export"):
        async with running(exporter_of(path)) as exporter:
            exporter.offer(records(1, 3))
            await until(lambda: exporter.problem)
            await asyncio.sleep(0.1)
            path.parent.mkdir()
            await until(lambda: not exporter.waiting)
    assert [(line.levelname, line.getMessage()) for line in caplog.records] == [
        ("WARNING", f"flow export to {path}: its folder does not exist"),
        ("INFO", f"flow export to {path}: flow records are exported again"),
    ]
