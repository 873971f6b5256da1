"""The folder of CNI results on a real file system: what a scan reads, when, and what it refuses."""

import errno
import json
import os
import socket
import tempfile
import time

from collections.abc import Callable
from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.sources.cni_results import folder as folder_module
from netpolq.sources.cni_results.folder import INCOMPLETE_NS, MAX_FILE_BYTES, Content, ResultsFolder
from tests.support.cni_results import loopback_document, result_document, write_result

LATER_NS = 10**12
"""The time of the scans is not that of the files, so that no file counts as just written."""

WEB = result_document("app/web", "u1", "10.1.0.7")


class Folder:
    """A folder of a test, and its scans."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = 0
        self._folder = ResultsFolder(str(path))

    def scan(self, after_ns: int = 0, *, wall_ns: int = LATER_NS) -> Content:
        self.now_ns += after_ns
        return self._folder.scan(self.now_ns, wall_ns)

    def pods(self, after_ns: int = 0) -> list[str]:
        return sorted(file.result.name for file in self.scan(after_ns).results)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "results"
    path.mkdir()
    return Folder(path)


def test_files_come_change_and_go(folder: Folder) -> None:
    assert folder.scan() == Content()
    path = write_result(folder.path, WEB)
    write_result(folder.path, loopback_document("app/web", "u1"))
    (only,) = folder.scan().results
    assert only.result.name == "web"
    assert only.modified_ns == path.stat().st_mtime_ns
    write_result(folder.path, {**WEB, "containerId": "s1", "result": {"ips": [{"address": "10.1.0.123/24"}]}})
    (changed,) = folder.scan().results
    assert changed.result.addresses != only.result.addresses
    path.unlink()
    assert folder.scan() == Content()


def test_a_missing_folder_is_no_problem_and_is_never_created(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cni" / "results")
    assert folder.scan() == Content(is_present=False)
    assert not list(tmp_path.iterdir())
    folder.path.mkdir(parents=True)
    write_result(folder.path, WEB)
    assert folder.pods() == ["web"]
    (folder.path / "net-s1-eth0").unlink()
    folder.path.rmdir()
    assert folder.scan() == Content(is_present=False)


def test_a_file_in_the_place_of_the_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "results").touch()
    content = Folder(tmp_path / "results").scan()
    assert content.problem == "the folder cannot be read: Not a directory"


def test_a_file_is_read_again_only_if_it_has_changed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(folder.path, WEB)
    read: list[bytes] = []

    def counting(data: bytes) -> None:
        read.append(data)

    monkeypatch.setattr(folder_module, "read_result", counting)
    folder.scan()
    folder.scan()
    assert len(read) == 1
    write_result(folder.path, {**WEB, "netns": "/another"})
    folder.scan()
    assert len(read) == 2


def test_a_file_that_has_just_changed_is_read_again(folder: Folder) -> None:
    """Before Linux 6.13 another change within a tick of the clock leaves no trace: same size, same time."""
    path = write_result(folder.path, WEB)
    for number in range(10, 60):
        with path.open("r+b") as file:
            file.write(json.dumps(result_document("app/web", "u1", f"10.1.0.{number}")).encode())
        (only,) = folder.scan(wall_ns=time.time_ns()).results
        assert only.result.addresses == (parse_address(f"10.1.0.{number}"),)


def test_a_file_whose_device_fails_is_read_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(folder.path, WEB)

    def failing(_path: str, _status: os.stat_result) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "_read", failing)
        assert folder.scan().unusable == {"net-s1-eth0": "Input/output error"}
    assert folder.pods() == ["web"]


def test_a_file_that_is_being_written_is_a_problem_only_after_some_time(folder: Folder) -> None:
    path = write_result(folder.path, WEB)
    whole = path.read_bytes()
    path.write_bytes(b"")
    begun = folder.scan()
    assert (begun.results, begun.unusable) == ((), {})
    assert begun.rescan_after_ns == INCOMPLETE_NS
    path.write_bytes(whole[:-1])
    assert folder.scan(INCOMPLETE_NS - 1).unusable == {}
    assert folder.scan(INCOMPLETE_NS - 1).unusable == {}
    late = folder.scan(1)
    assert late.unusable == {"net-s1-eth0": "is not JSON"}
    assert late.rescan_after_ns is None
    path.write_bytes(whole)
    assert folder.pods() == ["web"]


def test_a_valid_file_that_is_truncated_gives_no_address(folder: Folder) -> None:
    path = write_result(folder.path, WEB)
    assert folder.pods() == ["web"]
    path.write_bytes(b"")
    assert folder.pods() == []


def test_a_file_that_is_renamed_into_its_place_is_read(folder: Folder) -> None:
    hidden = folder.path / ".net-s1-eth0.tmp"
    hidden.write_text(json.dumps(WEB))
    assert folder.pods() == []
    hidden.rename(folder.path / "net-s1-eth0")
    assert folder.pods() == ["web"]


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _link(path: Path) -> None:
    target = path.parent.parent / "outside"
    target.write_text(json.dumps(WEB))
    path.symlink_to(target)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "huge": (_huge, "is larger than 2 MiB"),
    "deep": (lambda path: path.write_bytes(b"[" * MAX_FILE_BYTES), "is not JSON"),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 100), "is not JSON"),
    "another document": (lambda path: path.write_text('{"kind": "secret"}'), "kind is not what libcni writes"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "device": (lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)), "is not a regular file"),
    "socket": (_socket, "is not a regular file"),
    "directory": (lambda path: path.mkdir(), "is not a regular file"),
    "symbolic link": (_link, "is not a regular file"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), "is not a regular file"),
    "link to itself": (lambda path: path.symlink_to(path.name), "is not a regular file"),
}


@pytest.mark.parametrize(("make", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_named_and_hides_no_other(folder: Folder, make: Callable[[Path], object], reason: str) -> None:
    make(folder.path / "hostile")
    write_result(folder.path, WEB)
    folder.scan()
    content = folder.scan(INCOMPLETE_NS)
    assert content.unusable == {"hostile": reason}
    assert content.example == f"hostile: {reason}"
    assert [file.result.name for file in content.results] == ["web"]


def test_a_name_of_any_bytes_is_printable_in_the_report(folder: Folder) -> None:
    (folder.path / os.fsdecode(b"\xff\n\x1b[2J")).mkdir()
    (name,) = folder.scan().unusable
    assert name == r"\udcff\n\x1b[2J"


def test_beyond_the_bound_the_newest_files_count_and_the_others_are_reported(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MAX_FILES", 3)
    pods = [result_document(f"app/p{number}", "u", "10.1.0.1", sandbox=f"s{number}") for number in range(5)]
    paths = [write_result(folder.path, pod) for pod in pods]
    for number, path in enumerate(paths, 1):
        os.utime(path, ns=(0, number * 10**9))
    assert folder.pods() == ["p2", "p3", "p4"]
    assert folder.scan().problem == "more than 3 files: the 2 oldest are not read"
    paths[-1].unlink()
    assert folder.pods() == ["p1", "p2", "p3"]


def test_thousands_of_files_are_read(folder: Folder) -> None:
    for number in range(3000):
        write_result(folder.path, result_document(f"app/p{number}", "u", "10.1.0.1", sandbox=f"s{number}"))
    assert len(folder.scan().results) == 3000


def as_nobody(scan: Callable[[], Content]) -> Content:
    """The scan of a user that may not read files of root."""
    os.seteuid(65534)
    try:
        return scan()
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_what_may_not_be_read_is_a_problem_until_it_may_be() -> None:
    with tempfile.TemporaryDirectory(prefix="npq-") as made:
        folder = Folder(Path(made))
        path = write_result(folder.path, WEB)
        assert as_nobody(folder.scan).problem == "the folder cannot be read: Permission denied"
        folder.path.chmod(0o755)
        assert as_nobody(folder.scan) == Content(unusable={"net-s1-eth0": "Permission denied"})
        path.chmod(0o644)
        assert [file.result.name for file in as_nobody(folder.scan).results] == ["web"]
