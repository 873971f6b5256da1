"""The archive of a support bundle and its parts, without an agent."""

import io
import json
import os
import stat
import subprocess
import sys
import tarfile

from collections.abc import Callable
from pathlib import Path

import pytest

from netpolq import cli
from netpolq.addresses import parse_address
from netpolq.errors import ExitCode, NetpolqError, SnapshotError
from netpolq.ipc.run_dir import SNAPSHOT_FILE
from netpolq.snapshot import memfd
from netpolq.supervisor.support_bundle import archive as archives
from netpolq.supervisor.support_bundle import parts as bundle_parts
from netpolq.supervisor.support_bundle.archive import ERRORS, Archive, cleaned
from netpolq.supervisor.support_bundle.parts import parts
from tests.support.compiled import encode, ingress_policy

FOLDER = "netpolq-support-here-20260102T030405Z"


def files(data: bytes) -> dict[str, bytes]:
    """The contents of an archive by path."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            assert (member.mode, member.uid, member.gid) == (0o600, 0, 0)
            found[member.name] = content.read()
        return found


def raising(error: Exception) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def reader(name: str, run_dir: Path, *, environ: dict[str, str] | None = None, log: Path | None = None) -> Callable[[], bytes]:
    return dict(parts(run_dir, environ or {}, log))[name]


def test_parts_that_cannot_be_read_are_listed_and_the_others_are_there() -> None:
    stream = io.BytesIO()
    with Archive(stream, folder=FOLDER, now_s=1e9) as archive:
        archive.add("a.txt", raising(NetpolqError("no agent\nanswers")))
        archive.add("b.txt", lambda: b"content")
        archive.add("c.txt", raising(FileNotFoundError(2, "No such file or directory", "/proc/none")))
        archive.add("d.txt", raising(SnapshotError("not a snapshot")))
        archive.add("e.txt", raising(subprocess.TimeoutExpired(["nft"], 30)))
        archive.add("f.txt", raising(TimeoutError()))
    found = files(stream.getvalue())
    assert found.keys() == {f"{FOLDER}/b.txt", f"{FOLDER}/{ERRORS}"}
    assert found[f"{FOLDER}/b.txt"] == b"content"
    assert found[f"{FOLDER}/{ERRORS}"].decode().splitlines() == [
        "a.txt: no agent\\nanswers",
        "c.txt: /proc/none: No such file or directory",
        "d.txt: not a snapshot",
        "e.txt: Command '['nft']' timed out after 30 seconds",
        "f.txt: TimeoutError",
    ]
    assert (archive.parts, list(archive.errors)) == (["b.txt"], ["a.txt", "c.txt", "d.txt", "e.txt", "f.txt"])


def test_without_errors_there_is_no_list_of_them() -> None:
    stream = io.BytesIO()
    with Archive(stream, folder=FOLDER, now_s=0.0) as archive:
        archive.add("a.txt", lambda: b"")
    assert files(stream.getvalue()) == {f"{FOLDER}/a.txt": b""}


def test_a_defect_is_no_unreadable_part() -> None:
    with pytest.raises(ZeroDivisionError), Archive(io.BytesIO(), folder=FOLDER, now_s=0.0) as archive:
        archive.add("a.txt", lambda: bytes(1 // 0))


def test_long_parts_are_cut_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_PART_BYTES", 4)
    assert cleaned(b"1234") == b"1234"
    assert cleaned(b"12345") == b"1234\n[cut: the first 4 of 5 bytes]\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'"location": "https://admin:hunter2@api:6443"', b'"location": "https://[removed]@api:6443"'),
        (b"proxy http://token@proxy/ and http://other/", b"proxy http://[removed]@proxy/ and http://other/"),
        (b"Authorization: Bearer eyJhbGciOi.J9-_x=, more", b"Authorization: Bearer [removed], more"),
        (b"https://api:6443 mail user@example.com", b"https://api:6443 mail user@example.com"),
    ],
)
def test_tokens_and_passwords_in_urls_are_removed(content: bytes, expected: bytes) -> None:
    assert cleaned(content) == expected


def test_the_snapshot_is_told_in_numbers(tmp_path: Path) -> None:
    pods = tuple(map(parse_address, ("10.0.0.1", "10.0.0.2", "10.0.0.3")))
    descriptor = memfd.seal(encode(ingress_policy("secret/policy", endpoints=pods), version=9, created_ns=1_700_000_000 * 10**9))
    size = os.fstat(descriptor).st_size
    memfd.save(tmp_path / SNAPSHOT_FILE, descriptor)
    os.close(descriptor)
    text = reader("snapshot.json", tmp_path)()
    found = json.loads(text)
    assert (found["version"], found["created"], found["bytes"], found["is_newest"]) == (
        9,
        "2023-11-14T22:13:20+00:00",
        size,
        False,
    )
    assert found["selected_addresses"] == 3
    assert found["isolated_addresses"] == {"egress": 0, "ingress": 3}
    assert found["sections"]["decisions"]["entries"] >= 1
    assert b"secret" not in text
    memfd.mark(tmp_path / SNAPSHOT_FILE, is_newest=True)
    assert json.loads(reader("snapshot.json", tmp_path)())["is_newest"]


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 1000])
def test_a_spoiled_snapshot_is_an_error_of_its_part(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SNAPSHOT_FILE).write_bytes(content)
    with pytest.raises(SnapshotError):
        reader("snapshot.json", tmp_path)()


def test_only_the_variables_of_the_agent_are_taken(tmp_path: Path) -> None:
    environ = {
        "NETPOLQ_RUN_DIR": "/run/x",
        "NETPOLQ_KUBECONFIG": "/etc/kubeconfig",
        "NETPOLQ_SERVICE_HOST": "10.96.0.1",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    found = json.loads(reader("environment.json", tmp_path, environ=environ)())
    assert found == {"NETPOLQ_RUN_DIR": "/run/x", "NETPOLQ_KUBECONFIG": "/etc/kubeconfig"}


def test_versions_have_those_of_the_libraries_that_the_agent_needs(tmp_path: Path) -> None:
    found = json.loads(reader("versions.json", tmp_path)())
    assert {"netpolq", "python", "kernel", "machine", "nft", "kernel_build", "libraries"} == found.keys()
    assert found["kernel"] == os.uname().release
    assert found["libraries"]["aiohttp"][0].isdigit()
    assert "pytest" not in found["libraries"]


def test_the_last_lines_of_a_log_are_whole_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    assert reader("agent.log", tmp_path, log=log)() == b"one\ntwo\nthree\n"
    monkeypatch.setattr(bundle_parts, "MAX_LOG_BYTES", 8)
    assert reader("agent.log", tmp_path, log=log)() == b"[cut: the last 6 of 14 bytes]\nthree\n"


def test_a_log_that_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "pipe", "not a regular file"), (tmp_path, "not a regular file|Is a directory")):
        with pytest.raises((NetpolqError, OSError), match=reason):
            reader("agent.log", tmp_path, log=path)()
    assert "agent.log" not in dict(parts(tmp_path, {}, None))


# --- the command ------------------------------------------------------------------------------------------------------------------


def test_without_an_agent_the_bundle_has_what_the_machine_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the file has host and time, and the file is for this user alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "no/de 1")
    assert cli.main(["support-bundle", "--run-dir", str(tmp_path / "run")]) == ExitCode.FAILED
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("netpolq-support-no-de-1-2")
    assert path.name.endswith("Z.tar.gz")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = files(path.read_bytes())
    names = {name.partition("/")[2] for name in found}
    assert {name.partition("/")[0] for name in found} == {path.name.removesuffix(".tar.gz")}
    assert {"versions.json", "environment.json", ERRORS} <= names
    assert "status.json" not in names
    printed = capsys.readouterr()
    assert "status.json could not be read: no agent answers on" in printed.out
    assert f"{path.name} has " in printed.out
    assert printed.err == ""


def test_an_existing_file_and_a_link_stay_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        assert cli.main(["support-bundle", "--output", str(tmp_path / name), "--run-dir", str(tmp_path)]) == ExitCode.FAILED
        assert "exists and is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_does_not_exist_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["support-bundle", "-o", str(tmp_path / "none" / "x.tar.gz")]) == ExitCode.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be created: No such file or directory" in line


@pytest.mark.parametrize("arguments", [["now"], ["--workers=2"], ["--log"], ["--run-dir=relative"]])
def test_wrong_arguments_are_refused_before_a_file_is_made(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["support-bundle", *arguments]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_cannot_be_completed_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Archive, "_write", full)
    assert cli.main(["support-bundle", "--output", str(tmp_path / "x"), "--run-dir", str(tmp_path)]) == ExitCode.FAILED
    assert "cannot be written and was removed: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_standard_output_gets_the_archive_and_nothing_else(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-m", "netpolq", "support-bundle", "--output", "-", "--run-dir", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.returncode == ExitCode.FAILED
    assert any(name.endswith("/versions.json") for name in files(done.stdout))
    assert b"standard output has " in done.stderr
