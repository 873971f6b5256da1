"""Repeated scans of a manifest folder. Time is an argument, so the tests do not depend on the machine."""

import os
import time

from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from netpolq.model import NetworkPolicy, Update
from netpolq.policy.selectors import matches
from netpolq.sources.folder.contents import ABANDONED_NS, INLINE_BYTES, STABLE_NS, VANISHED_NS, FolderContents, ScanResult
from netpolq.sources.folder.open_file import Writers
from netpolq.sources.folder.scan import Scan
from netpolq.store import Store
from tests.support.manifest_texts import BAD_RULE, names, namespace, policy

P = ParamSpec("P")
T = TypeVar("T")

STEP_NS = 60_000_000


class Scans:
    """Folder contents scanned step by step."""

    def __init__(self, folder: Path, background: Executor | None = None) -> None:
        self.contents = FolderContents(str(folder), STABLE_NS, background)
        self.result = ScanResult(scan=Scan())
        self.now_ns = 0
        self.store = Store()

    def after(self, later_ns: int = STEP_NS) -> Update | None:
        self.now_ns += later_ns
        self.result = self.contents.refresh(self.now_ns)
        update = self.contents.update(self.now_ns)
        if update is not None:
            self.store.apply(update)
        return update


def age(*paths: Path) -> None:
    """Make files look older than a tick of the clock, so that reading them once is enough."""
    for path in paths:
        os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("broken", "isolated"),
    [
        ("key: [", {"a", "default"}),
        ("", {"a", "default"}),
        ("\0", {"a", "default"}),
        ("kind: NetworkPolicy\nmetadata: {namespace: shop, name: {{ x }}}", {"shop"}),
        (namespace("a", team="x") + "---\n" + policy("web", BAD_RULE), {"default"}),
        (namespace("a", team="x") + "---\n" + policy("web") + "---\n" + policy("other", BAD_RULE), {"default"}),
    ],
)
def test_a_broken_file_keeps_its_last_good_content_and_isolates_what_it_may_concern_until_it_is_repaired(
    tmp_path: Path, broken: str, isolated: set[str]
) -> None:
    """Isolates what the file concerned before, if its new text does not name the namespace."""
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    scans = Scans(tmp_path)
    scans.after()
    before = dict(scans.store.policies)
    file.write_text(broken)
    update = scans.after()
    assert update is not None
    assert update.deleted == ()
    added = [item for item in update.upserted if isinstance(item, NetworkPolicy)]
    assert len(added) == len(update.upserted)
    assert {item.namespace for item in added} == isolated
    assert all((item.ingress, item.egress) == ((), ()) for item in added)
    assert all(scans.store.policies[key] == item for key, item in before.items())
    assert scans.store.namespaces["a"].labels.get("team") is None
    assert all(one.consequence.startswith("the file's last good content stays in force") for one in update.rejections)
    assert not any(one.leaves_open for one in update.rejections)
    file.write_text(namespace("a"))
    scans.after()
    assert (scans.store.policies, scans.store.rejections) == ({}, ())


def test_a_pod_in_a_broken_file_is_isolated_alone_and_a_new_pod_is_known(tmp_path: Path) -> None:
    """The pod keeps its last good labels, and carries another by which one policy selects it."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\nstatus: {{podIP: 10.0.0.{host}}}\n"
    good = text.format(name="web", labels="{app: web}", host=1)
    file = tmp_path / "a.yaml"
    file.write_text(good)
    scans = Scans(tmp_path)
    scans.after()
    file.write_text(text.format(name="web", labels="{app: 1}", host=1) + "---\n" + text.format(name="new", labels="{}", host=2))
    scans.after()
    (isolating,) = scans.store.policies.values()
    selected = [name for (_, name), pod in scans.store.pods.items() if matches(isolating.pod_selector, pod.labels)]
    assert selected == ["web"]
    assert scans.store.pods["default", "web"].labels["app"] == "web"
    assert ("default", "new") in scans.store.pods


@pytest.mark.parametrize("is_first", [True, False])
def test_a_pod_that_is_twice_in_a_broken_file_is_isolated_if_either_is_not_readable(tmp_path: Path, is_first: bool) -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {labels}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    good, bad = text.format(labels="{app: web}"), text.format(labels="{app: 1}")
    file = tmp_path / "a.yaml"
    file.write_text(good)
    scans = Scans(tmp_path)
    scans.after()
    file.write_text("---\n".join([bad, good] if is_first else [good, bad]))
    scans.after()
    (isolating,) = scans.store.policies.values()
    assert matches(isolating.pod_selector, scans.store.pods["default", "web"].labels)


def test_a_policy_that_is_twice_in_a_broken_file_isolates_the_pods_of_both(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    scans = Scans(tmp_path)
    scans.after()
    twice = [policy("web"), policy("web").replace("app: web", "app: db")]
    file.write_text("---\n".join([*twice, policy("other", BAD_RULE)]))
    scans.after()
    selectors = [item.pod_selector for item in scans.store.policies.values() if not item.ingress]
    for app in ("web", "db"):
        assert any(matches(selector, {"app": app}) for selector in selectors)


def test_what_was_readable_of_a_broken_file_is_not_lost_when_it_breaks_further(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(policy("web", BAD_RULE))
    scans = Scans(tmp_path)
    scans.after()
    file.write_text("key: [")
    update = scans.after()
    assert update is not None
    assert update.deleted == ()
    assert ("default", "web") in scans.store.policies
    file.write_text(policy("web"))
    scans.after()
    assert len(scans.store.policies["default", "web"].ingress) == 1
    assert scans.store.rejections == ()


def test_a_file_that_is_missing_for_a_moment_is_not_deleted(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    scans = Scans(tmp_path)
    scans.after()
    file.unlink()
    assert scans.after(1) is None
    assert scans.after(VANISHED_NS - 1) is None
    file.write_text(namespace("a"))
    assert scans.after(1) is None
    file.unlink()
    assert scans.after(1) is None
    update = scans.after(VANISHED_NS)
    assert update is not None
    assert [str(key) for key in update.deleted] == ["Namespace a"]


def test_a_renamed_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    scans = Scans(tmp_path)
    scans.after()
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert scans.after() is None
    assert scans.after() is None


@pytest.mark.parametrize("half", [namespace("a"), "", "key: ["])
def test_a_file_held_open_for_writing_is_not_used_while_it_lacks_what_it_had(tmp_path: Path, half: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    scans = Scans(tmp_path)
    scans.after()
    with file.open("w") as writer:
        writer.write(half)
        writer.flush()
        assert scans.after() is None
        update = scans.after(STABLE_NS[Writers.SOME])
        assert update is not None
        assert (update.upserted, update.deleted) == ((), ())
        assert "still open for writing" in update.rejections[0].message
        assert scans.after(ABANDONED_NS // 2) is None
        writer.write("\n---\n" + policy("other"))
        writer.flush()
        update = scans.after(ABANDONED_NS // 2)
        assert update is None
    scans.after()
    is_whole = half != "key: ["
    assert (scans.store.rejections == ()) is is_whole
    assert [name for _, name in sorted(scans.store.policies) if "(" not in name] == ["other" if is_whole else "web"]


def test_a_file_held_open_without_a_change_is_used_after_half_a_minute(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    scans = Scans(tmp_path)
    scans.after()
    with file.open("w") as writer:
        writer.write(namespace("a"))
        writer.flush()
        scans.after()
        scans.after(STABLE_NS[Writers.SOME])
        scans.after(ABANDONED_NS)
        assert scans.store.policies == {}


def test_a_file_held_open_that_gained_objects_is_used_once_it_is_stable(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    scans = Scans(tmp_path)
    scans.after()
    with file.open("a") as writer:
        writer.write("---\n" + policy("web"))
        writer.flush()
        assert scans.after() is None
        scans.after(STABLE_NS[Writers.SOME])
        assert ("default", "web") in scans.store.policies


def test_a_change_that_leaves_size_and_times_as_they_were_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("aaa"))
    age(file)
    scans = Scans(tmp_path)
    scans.after()
    time.sleep(0.02)  # for another change time: the kernel's clock for files ticks every few milliseconds
    file.write_text(namespace("bbb"))
    age(file)
    update = scans.after()
    assert update is not None
    assert names(update) == ["Namespace bbb"]


def test_a_folder_that_is_gone_unreadable_or_emptied_by_replacement_keeps_everything_in_force(tmp_path: Path) -> None:
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    (folder / "a.yaml").write_text(namespace("a"))
    scans = Scans(folder)
    scans.after()
    folder.rename(away)
    update = scans.after()
    assert update is not None
    assert update.deleted == ()
    assert "cannot be read" in update.rejections[0].message
    folder.mkdir()
    update = scans.after()
    assert update is not None
    assert update.deleted == ()
    assert "replaced by an empty folder" in update.rejections[0].message
    folder.rmdir()
    away.rename(folder)
    update = scans.after()
    assert update is not None
    assert (update.upserted, update.deleted, update.rejections) == ((), (), ())


def test_a_folder_link_that_leads_nowhere_keeps_what_was_below_it(tmp_path: Path) -> None:
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    target.mkdir()
    (target / "a.yaml").write_text(namespace("a"))
    (folder / "sub").symlink_to(target)
    scans = Scans(folder)
    scans.after()
    target.rename(tmp_path / "elsewhere")
    update = scans.after()
    assert update is not None
    assert update.deleted == ()
    assert scans.after() is None
    (folder / "sub").unlink()
    scans.after()
    scans.after()
    assert scans.store.namespaces == {}


class Beside(Executor):
    """An executor that parses only on request of the test."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], None]] = []

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[T] = Future()
        self._waiting.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future

    def finish(self) -> int:
        """Do all that waits; returns how much it was."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()
        return len(waiting)


def padded(text: str) -> str:
    """The same manifest, too large to be parsed within a scan."""
    return text + "#" * (INLINE_BYTES + 1) + "\n"


def test_a_policy_in_a_small_file_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    beside = Beside()
    scans = Scans(tmp_path, beside)
    scans.after()
    (tmp_path / "a-large.yaml").write_text(padded(namespace("a")))
    (tmp_path / "b.yaml").write_text(policy("web"))
    scans.after()
    assert ("default", "web") in scans.store.policies
    assert scans.store.namespaces == {}
    assert beside.finish() == 1
    scans.after()
    assert list(scans.store.namespaces) == ["a"]


def test_what_moves_to_a_large_file_is_never_missing(tmp_path: Path) -> None:
    """It leaves the small file, which is parsed at once, or a file that is removed, only when the large one has been parsed."""
    beside = Beside()
    scans = Scans(tmp_path, beside)
    (tmp_path / "a.yaml").write_text(policy("web") + "---\n" + policy("db"))
    (tmp_path / "b.yaml").write_text(policy("gone"))
    scans.after()
    large = tmp_path / "c.yaml"
    large.write_text(padded(policy("web") + "---\n" + policy("gone")))
    (tmp_path / "a.yaml").write_text(policy("db"))
    (tmp_path / "b.yaml").unlink()
    for _ in range(3):
        scans.after()
        assert {name for _, name in scans.store.policies} == {"web", "db", "gone"}
    assert beside.finish() == 1
    for _ in range(3):
        update = scans.after()
        assert update is None or update.deleted == ()
    large.write_text(padded(policy("web")))
    scans.after()
    assert beside.finish() == 1
    scans.after()
    assert {name for _, name in scans.store.policies} == {"web", "db"}


def test_large_files_that_change_together_are_used_together(tmp_path: Path) -> None:
    """Each takes away what another brings, so that none may be used first; and none is parsed twice."""
    beside = Beside()
    scans = Scans(tmp_path, beside)
    files = [tmp_path / f"{number}.yaml" for number in range(3)]
    for number, file in enumerate(files):
        file.write_text(padded(policy(f"p{number}")))
    age(*files)
    scans.after()
    assert beside.finish() == 3
    scans.after()
    assert not scans.result.is_parsing
    for number, file in enumerate(files):
        file.write_text(padded(policy(f"p{(number + 1) % 3}")))
    age(*files)
    scans.after()
    assert beside.finish() == 3
    update = scans.after()
    assert update is None or update.deleted == ()
    assert beside.finish() == 0
    assert (len(scans.store.policies), scans.store.rejections, scans.result.is_parsing) == (3, (), False)


def test_what_moves_to_a_large_file_is_not_missing_while_that_is_written_and_a_writer_without_end_holds_nothing_back(
    tmp_path: Path,
) -> None:
    scans = Scans(tmp_path, Beside())
    small, large = tmp_path / "a.yaml", tmp_path / "b.yaml"
    small.write_text(policy("web") + "---\n" + policy("db"))
    scans.after()
    with large.open("w") as writer:
        writer.write(padded(""))
        writer.flush()
        small.write_text(policy("db"))
        scans.after(ABANDONED_NS * 2)
        assert {name for _, name in scans.store.policies} == {"web", "db"}
        for _ in range(4):
            writer.write("#")
            writer.flush()
            scans.after(ABANDONED_NS // 3)
        assert {name for _, name in scans.store.policies} == {"db"}


def test_a_file_that_was_never_good_and_breaks_further_reports_each_problem_once(tmp_path: Path) -> None:
    """Its placeholders isolate already, and are no duplicates of themselves."""
    file = tmp_path / "a.yaml"
    file.write_text(policy("web") + "---\n" + policy("Bad") + "---\nkey: [\nnamespace: shop\n")
    scans = Scans(tmp_path)
    scans.after()
    assert len(scans.store.rejections) == 2
    file.write_text(policy("Bad") + "---\nkey: [\nnamespace: shop\n")
    scans.after()
    assert [rejection.document for rejection in scans.store.rejections] == [1, 2]
    isolated = {name for (_, name), item in scans.store.policies.items() if not item.ingress}
    assert {"(unreadable part of a.yaml)", "(unnamed 1 of a.yaml)"} <= isolated
    assert ("default", "web") in scans.store.policies
