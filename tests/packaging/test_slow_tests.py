"""Slow tests run when the files that they guard have changed: `.ci/changed`, and the selection of tests by its answer."""

import shutil
import subprocess
import sys

from pathlib import Path

import pytest

from loadtest.testbed.box import CHECKOUT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two slow tests, which have passed."""
    for name in ("a/one.py", "a/two.py", "b.txt", "unguarded.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".ci").mkdir()
    shutil.copy(CHECKOUT / ".ci/changed", tmp_path / ".ci/changed")
    (tmp_path / ".ci/guarded").write_text("# comment\nfirst a b.txt\nsecond b.txt\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    for name in ("first", "second"):
        assert changed(tmp_path, "--record", name) == []
    return tmp_path


def changed(repository: Path, *arguments: str) -> list[str]:
    done = subprocess.run([".ci/changed", *arguments], cwd=repository, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_nothing_runs_again_while_nothing_guarded_has_changed(repository: Path) -> None:
    (repository / "unguarded.txt").write_text("changed")
    assert changed(repository) == []


@pytest.mark.parametrize(("name", "expected"), [("a/one.py", ["first"]), ("b.txt", ["first", "second"]), ("a/new.py", ["first"])])
def test_a_changed_or_new_file_runs_the_tests_that_guard_it(repository: Path, name: str, expected: list[str]) -> None:
    (repository / name).write_text("changed")
    assert changed(repository) == expected


def test_a_removed_file_runs_the_tests_that_guard_it(repository: Path) -> None:
    (repository / "a/two.py").unlink()
    assert changed(repository) == ["first"]


def test_a_test_that_has_passed_again_is_recorded_beside_the_others(repository: Path) -> None:
    (repository / "b.txt").write_text("changed")
    changed(repository, "--record", "second")
    assert changed(repository) == ["first"]
    changed(repository, "--record", "first")
    assert changed(repository) == []


def test_without_a_record_every_slow_test_runs(repository: Path) -> None:
    (repository / ".ci/passed").unlink()
    assert changed(repository) == changed(repository, "--all") == ["first", "second"]


def test_an_unknown_name_is_an_error(repository: Path) -> None:
    done = subprocess.run([".ci/changed", "--record", "third"], cwd=repository, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, ".ci/guarded has no slow test named third\n")


@pytest.mark.parametrize(("slow", "selected"), [("image", True), ("", False), ("vm", False), (None, True)])
def test_a_slow_test_is_collected_when_it_is_named_and_when_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slow: str | None, *, selected: bool
) -> None:
    monkeypatch.delenv("NETPOLQ_TEST_SLOW", raising=False)
    if slow is not None:
        monkeypatch.setenv("NETPOLQ_TEST_SLOW", slow)
    arguments = ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(CHECKOUT)]
    assert pytest.main([*arguments, str(CHECKOUT / "tests/packaging/test_deploy_image.py")]) == pytest.ExitCode.OK
    collected = capsys.readouterr().out
    assert ("::test_the_steps_of_the_recipe_leave_a_program_that_runs" in collected) is selected
    assert "::test_the_linter_sees_a_fault" in collected


@pytest.mark.parametrize("guard", ["property", "caches", "truth"])
@pytest.mark.parametrize(("slow", "is_full"), [("{}", True), ("vm {}", True), ("vm image", False), ("", False), (None, True)])
def test_random_tests_have_their_full_size_when_it_is_asked_for_and_when_nothing_is_said(
    slow: str | None, guard: str, *, is_full: bool
) -> None:
    code = f"from tests.support.sizes import sized; print(sized(10, {guard!r}))"
    environment = {} if slow is None else {"NETPOLQ_TEST_SLOW": slow.format(guard)}
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) == (10 if is_full else 1)
