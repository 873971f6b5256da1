"""The manifest folder: what its files mean, and which changes are seen as what. Real files, real inotify."""

import asyncio
import json
import os
import time

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.errors import BootError, NetpolqError
from netpolq.model import NetworkPolicy, Object, Pod, Update
from netpolq.sources import folder_contents
from netpolq.sources.folder_contents import ABANDONED_NS, SETTLE_NS, VANISHED_NS, FolderContents
from netpolq.sources.folder_scan import Scan
from netpolq.sources.manifest_file import MAX_REJECTIONS, OpenFile, Writers
from netpolq.sources.manifests import ManifestFolder, load
from netpolq.store import Store

DEADLINE_S = 20.0
STEP_NS = 60_000_000


def namespace(name: str, **labels: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {json.dumps(labels)}\n"


def policy(name: str, rule: str = "{}") -> str:
    return (
        f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\n"
        f"spec:\n  podSelector: {{matchLabels: {{app: {name}}}}}\n  ingress: [{rule}]\n"
    )


BAD_RULE = "{ports: [{port: 0}]}"


def names(update: Update) -> list[str]:
    return [str(item.key) for item in update.upserted]


def complaints(update: Update) -> list[tuple[str, int, str]]:
    return [(rejection.origin, rejection.document, rejection.field) for rejection in update.rejections]


# --- what files mean


def test_every_manifest_below_the_folder_is_read_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.yml").write_text(namespace("b"))
    (tmp_path / "a.yaml").write_text(f"# header\n---\n{namespace('a1')}---\n---\n{namespace('a2')}")
    (tmp_path / "deep" / "er" / "c.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}})
    )
    (tmp_path / "d.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: ConfigMap\n")
    for unread in ("e.txt", "e.yaml~", "e.yaml.bak", ".e.yaml", "4913", ".hidden/e.yaml"):
        (tmp_path / unread).write_text(namespace("e"))
    update = load(tmp_path)
    assert names(update) == ["Namespace a1", "Namespace a2", "Namespace b", "Namespace c"]
    assert update.ignored == {"ConfigMap": 2}
    assert update.rejections == ()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.yaml", b"", "the file is empty"),
        ("a.json", b" \n", "the file is empty"),
        ("a.yaml", b"a: 1\nb: \xff\n", "line 2: not UTF-8 (byte 0xff)"),
        ("a.yaml", b"a: 1\nb: \x00\n", "line 2: a NUL byte"),
        ("a.yaml", b"\xff\xfea\x00", "the file is UTF-16 and must be UTF-8"),
        ("a.json", b'{"a": 1,\n"b": }', "line 2, column 6"),
        ("a.json", b"[" * 100_000, "line 1"),
        ("a.yaml", b"[" * 100_000, "nested more than 200 levels deep"),
        ("a.yaml", b"- " * 100_000, "nested more than 200 levels deep"),
        ("a.yaml", b"a: 1\n b: 2\n", "line 2, column 3: mapping values"),
        ("a.yaml", b"a: \x01", "control characters"),
        ("a.yaml", b"&a [*a]", "alias *a has no anchor before it"),
        ("a.yaml", b"? [a]\n: b", "a key must be a scalar"),
        ("a.json", b"null", "must be a kind"),
        ("a.yaml", b"text", "must be an object"),
    ],
)
def test_an_unreadable_file_is_reported_with_its_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (rejection,) = load(tmp_path).rejections
    assert rejection.origin == name
    assert message in rejection.message


def test_a_bomb_of_aliases_or_merge_keys_is_refused_at_once(tmp_path: Path) -> None:
    """Without a bound it would be 2^40 values."""
    listed = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    merged = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    (tmp_path / "a.yaml").write_text(listed)
    (tmp_path / "b.yaml").write_text(merged)
    assert [("aliases repeat" in rejection.message) for rejection in load(tmp_path).rejections] == [True, True]


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n- &one {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
        "- {<<: *one, metadata: {name: b}}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    assert names(load(tmp_path)) == ["Namespace a", "Namespace b"]


@pytest.mark.parametrize(
    ("scalar", "is_text"),
    [
        ("abc", True),
        ("'1'", True),
        ("!!str 1", True),
        ("2006-01-02", True),
        ("1.2.3", True),
        ("1", False),
        ("010", False),
        ("1e3", False),
        ("1_000", False),
        ("0x1f", False),
        ("1.5", False),
        ("yes", False),
        ("y", False),
        ("on", False),
    ],
)
def test_plain_scalars_are_typed_as_kubectl_types_them(tmp_path: Path, scalar: str, is_text: bool) -> None:
    """A label value must be a string: the API server refuses what kubectl would send it as a number or boolean."""
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{k: {scalar}}}}}\n")
    assert complaints(load(tmp_path)) == ([] if is_text else [("a.yaml", 1, "metadata.labels['k']")])


@pytest.mark.parametrize("address", ["fd00::1", "1:2:3:4:5:6:7:8", "10.0.0.1"])
def test_addresses_need_no_quotes(tmp_path: Path, address: str) -> None:
    """To a YAML 1.1 parser, digits between colons may be a number in base 60."""
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus:\n  podIP: {address}\n")
    (pod,) = load(tmp_path).upserted
    assert isinstance(pod, Pod)
    assert pod.ips == (parse_address(address),)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + namespace("a").encode())
    assert names(load(tmp_path)) == ["Namespace a"]


def test_on_first_sight_good_documents_are_used_and_a_bad_policy_isolates(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{namespace('a')}---\nkey: [\n---\n{policy('web', BAD_RULE)}---\n{namespace('b')}")
    update = load(tmp_path)
    assert names(update) == ["Namespace a", "NetworkPolicy default/web", "Namespace b"]
    web = update.upserted[1]
    assert isinstance(web, NetworkPolicy)
    assert web.ingress == ()
    assert complaints(update) == [("a.yaml", 2, ""), ("a.yaml", 3, "spec.ingress[0].ports[0].port")]
    assert update.rejections[1].key == "NetworkPolicy default/web"
    assert update.rejections[1].consequence == "isolates the pods it selects (Ingress) and admits nothing"


def test_policies_without_usable_names_all_isolate(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"{policy('Bad')}---\n{policy('Worse')}")
    assert len([item for item in load(tmp_path).upserted if isinstance(item, NetworkPolicy)]) == 4


def test_of_an_object_in_two_files_the_first_by_path_wins_and_both_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("one", team="a"))
    (tmp_path / "b.yaml").write_text(namespace("one", team="b"))
    update = load(tmp_path)
    (item,) = update.upserted
    assert not isinstance(item, NetworkPolicy)
    assert item.labels["team"] == "a"
    (rejection,) = update.rejections
    assert (rejection.origin, rejection.key, rejection.message) == ("b.yaml", "Namespace one", "is also in a.yaml document 1")


def test_links_are_followed_each_directory_is_read_once_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "x").write_text(namespace("x"))
    (outside / "y.yaml").write_text(namespace("why"))
    (folder / "real" / "z.yaml").write_text(namespace("z"))
    (folder / "x.yaml").symlink_to("../outside/x")
    (folder / "sub").symlink_to(outside)
    (folder / "real" / "loop").symlink_to("..")
    (folder / "self.yaml").symlink_to("self.yaml")
    (folder / "gone.yaml").symlink_to("nothing")
    update = load(folder)
    assert sorted(names(update)) == ["Namespace why", "Namespace x", "Namespace z"]
    assert [origin for origin, _, _ in complaints(update)] == ["gone.yaml", "self.yaml"]


def test_what_is_no_regular_file_is_reported_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "dir.yaml").mkdir()
    (tmp_path / "dir.yaml" / "b.yaml").write_text(namespace("b"))
    update = load(tmp_path)
    assert names(update) == ["Namespace b"]
    assert [rejection.message for rejection in update.rejections] == ["not a regular file"]


def test_file_names_of_any_bytes_are_shown_in_printable_form(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.yaml")).write_text("key: [")
    (rejection,) = load(tmp_path).rejections
    assert rejection.origin == r"\udcff\n.yaml"


def test_complaints_about_one_file_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\ntext\n" * (MAX_REJECTIONS + 7))
    rejections = load(tmp_path).rejections
    assert len(rejections) == MAX_REJECTIONS + 1
    assert "7 more" in rejections[-1].message


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetpolqError, match="No such file"):
        load(tmp_path / "none")


# --- what looking again means; time is given, so that nothing here depends on the machine


class Looking:
    """Folder contents looked at step by step."""

    def __init__(self, folder: Path) -> None:
        self.contents = FolderContents(str(folder), SETTLE_NS)
        self.now_ns = 0
        self.store = Store()

    def at(self, later_ns: int = STEP_NS) -> Update | None:
        self.now_ns += later_ns
        self.contents.look(self.now_ns)
        update = self.contents.update(self.now_ns)
        if update is not None:
            self.store.apply(update)
        return update


def age(*paths: Path) -> None:
    """Make files look older than a tick of the clock, so that reading them once is enough."""
    for path in paths:
        os.utime(path, ns=(1, 1))


def test_a_broken_file_keeps_its_last_good_content_and_a_repaired_one_is_forgiven(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    looking = Looking(tmp_path)
    looking.at()
    for broken in ("key: [", "", namespace("a", team="x") + "---\n" + policy("web", BAD_RULE), "\0"):
        file.write_text(broken)
        update = looking.at()
        assert update is not None
        assert (update.upserted, update.deleted) == ((), ())
        assert [rejection.consequence for rejection in update.rejections] == ["the file's last good content stays in force"]
    file.write_text(namespace("a"))
    update = looking.at()
    assert update is not None
    assert (names(update), [str(key) for key in update.deleted], update.rejections) == ([], ["NetworkPolicy default/web"], ())


def test_what_was_saved_from_a_broken_file_is_not_lost_when_it_breaks_further(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(policy("web", BAD_RULE))
    looking = Looking(tmp_path)
    looking.at()
    file.write_text("key: [")
    update = looking.at()
    assert update is not None
    assert update.deleted == ()
    assert ("default", "web") in looking.store.policies
    file.write_text(policy("web"))
    looking.at()
    assert len(looking.store.policies["default", "web"].ingress) == 1
    assert looking.store.rejections == ()


def test_a_file_that_is_missing_for_a_moment_is_not_deleted(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    looking = Looking(tmp_path)
    looking.at()
    file.unlink()
    assert looking.at(1) is None
    assert looking.at(VANISHED_NS - 1) is None
    file.write_text(namespace("a"))
    assert looking.at(1) is None
    file.unlink()
    assert looking.at(1) is None
    update = looking.at(VANISHED_NS)
    assert update is not None
    assert [str(key) for key in update.deleted] == ["Namespace a"]


def test_a_renamed_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    looking = Looking(tmp_path)
    looking.at()
    (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
    assert looking.at() is None
    assert looking.at() is None


@pytest.mark.parametrize("half", [namespace("a"), "", "key: ["])
def test_a_file_held_open_for_writing_is_not_taken_while_it_lacks_what_it_had(tmp_path: Path, half: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    looking = Looking(tmp_path)
    looking.at()
    with file.open("w") as writer:
        writer.write(half)
        writer.flush()
        assert looking.at() is None
        update = looking.at(SETTLE_NS[Writers.SOME])
        assert update is not None
        assert (update.upserted, update.deleted) == ((), ())
        assert "still open for writing" in update.rejections[0].message
        assert looking.at(ABANDONED_NS // 2) is None
        writer.write("\n---\n" + policy("other"))
        writer.flush()
        update = looking.at(ABANDONED_NS // 2)
        assert update is None
    looking.at()
    is_whole = half != "key: ["
    assert (looking.store.rejections == ()) is is_whole
    assert sorted(looking.store.policies) == [("default", "other" if is_whole else "web")]


def test_a_file_held_open_for_ever_is_taken_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a") + "---\n" + policy("web"))
    looking = Looking(tmp_path)
    looking.at()
    with file.open("w") as writer:
        writer.write(namespace("a"))
        writer.flush()
        looking.at()
        looking.at(SETTLE_NS[Writers.SOME])
        looking.at(ABANDONED_NS)
        assert looking.store.policies == {}


def test_a_file_held_open_that_gained_objects_is_taken_once_it_rests(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    looking = Looking(tmp_path)
    looking.at()
    with file.open("a") as writer:
        writer.write("---\n" + policy("web"))
        writer.flush()
        assert looking.at() is None
        looking.at(SETTLE_NS[Writers.SOME])
        assert ("default", "web") in looking.store.policies


def test_a_change_that_leaves_size_and_times_as_they_were_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("aaa"))
    age(file)
    looking = Looking(tmp_path)
    looking.at()
    time.sleep(0.02)  # for another change time: the kernel's clock for files ticks every few milliseconds
    file.write_text(namespace("bbb"))
    age(file)
    update = looking.at()
    assert update is not None
    assert names(update) == ["Namespace bbb"]


def test_a_folder_that_is_gone_unreadable_or_emptied_by_replacement_keeps_everything_in_force(tmp_path: Path) -> None:
    folder, away = tmp_path / "folder", tmp_path / "away"
    folder.mkdir()
    (folder / "a.yaml").write_text(namespace("a"))
    looking = Looking(folder)
    looking.at()
    folder.rename(away)
    update = looking.at()
    assert update is not None
    assert update.deleted == ()
    assert "cannot be read" in update.rejections[0].message
    folder.mkdir()
    update = looking.at()
    assert update is not None
    assert update.deleted == ()
    assert "replaced by an empty folder" in update.rejections[0].message
    folder.rmdir()
    away.rename(folder)
    update = looking.at()
    assert update is not None
    assert (update.upserted, update.deleted, update.rejections) == ((), (), ())


def test_a_folder_link_that_leads_nowhere_keeps_what_was_below_it(tmp_path: Path) -> None:
    folder, target = tmp_path / "folder", tmp_path / "target"
    folder.mkdir()
    target.mkdir()
    (target / "a.yaml").write_text(namespace("a"))
    (folder / "sub").symlink_to(target)
    looking = Looking(folder)
    looking.at()
    target.rename(tmp_path / "elsewhere")
    update = looking.at()
    assert update is not None
    assert update.deleted == ()
    assert looking.at() is None
    (folder / "sub").unlink()
    looking.at()
    looking.at()
    assert looking.store.namespaces == {}


# --- watching


class Watching:
    """A running source and what it delivered."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.store = Store()
        self._delivered = asyncio.Event()

    def deliver(self, update: Update) -> None:
        self.updates.append(update)
        self.store.apply(update)
        self._delivered.set()

    async def until(self, condition: Callable[[Store], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not (self.store.synced and condition(self.store)):
                self._delivered.clear()
                await self._delivered.wait()

    async def proof(self, folder: Path) -> None:
        """Wait until a change made now has been delivered: one made before would have been, too."""
        marker = folder / f"zz-marker-{len(self.updates)}.yaml"
        marker.write_text(namespace(marker.stem))
        await self.until(lambda store: marker.stem in store.namespaces)

    def ever_deleted(self) -> list[str]:
        return [str(key) for update in self.updates for key in update.deleted]

    def ever_upserted(self, name: str) -> list[Object]:
        return [item for update in self.updates for item in update.upserted if item.key.name == name]


@asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[Watching]:
    seen = Watching()
    task = asyncio.create_task(ManifestFolder(folder).run(seen.deliver))
    try:
        await seen.until(lambda _: True)
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def has(*expected: str) -> Callable[[Store], bool]:
    return lambda store: sorted(store.namespaces) == sorted(expected)


def has_label(name: str, value: str) -> Callable[[Store], bool]:
    return lambda store: name in store.namespaces and store.namespaces[name].labels.get("v") == value


async def test_the_first_delivery_is_the_complete_first_sync(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.yaml").write_text(namespace(f"n{number}"))
    async with watching(tmp_path) as seen:
        assert len(seen.updates[0].upserted) == 50
        await seen.proof(tmp_path)
        assert len(seen.updates) == 2


async def test_an_empty_folder_is_a_complete_first_sync_too(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        assert (seen.updates[0].upserted, seen.updates[0].rejections) == ((), ())


async def test_a_folder_missing_at_the_start_ends_the_source(tmp_path: Path) -> None:
    """Delivering nothing would withdraw every policy that is in force."""
    with pytest.raises(BootError, match="none"):
        await ManifestFolder(tmp_path / "none").run(lambda _: None)


async def test_an_edit_in_place_is_delivered_as_one_update(tmp_path: Path) -> None:
    """Truncating and writing again, as most programs do: no update is missing the object."""
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a", v="0") + "#" * 100_000)
    async with watching(tmp_path) as seen:
        for version in range(1, 20):
            file.write_text(namespace("a", v=str(version)) + "#" * 100_000)
            await seen.until(has_label("a", str(version)))
        assert seen.ever_deleted() == []
        assert len(seen.updates) == 20
        assert all(update.rejections == () for update in seen.updates)


async def test_an_edit_that_replaces_the_file_is_delivered(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a", v="0"))
    async with watching(tmp_path) as seen:
        for version in range(1, 20):
            (tmp_path / "a.yaml.tmp").write_text(namespace("a", v=str(version)))
            (tmp_path / "a.yaml.tmp").rename(file)
            await seen.until(has_label("a", str(version)))
        assert seen.ever_deleted() == []
        assert len(seen.updates) == 20


async def test_an_editor_that_moves_the_old_file_away_and_writes_a_new_one_deletes_nothing(tmp_path: Path) -> None:
    file, backup, probe = tmp_path / "a.yaml", tmp_path / "a.yaml~", tmp_path / "4913"
    file.write_text(namespace("a", v="0"))
    async with watching(tmp_path) as seen:
        for version in range(1, 6):
            probe.write_text("")
            probe.unlink()
            file.rename(backup)
            await asyncio.sleep(0.01)  # long enough to be looked at in between
            file.write_text(namespace("a", v=str(version)))
            backup.unlink()
            await seen.until(has_label("a", str(version)))
        assert seen.ever_deleted() == []
        assert all(update.rejections == () for update in seen.updates)


@pytest.mark.parametrize("mode", ["w", "r+"])
async def test_half_written_content_is_never_delivered(tmp_path: Path, mode: str) -> None:
    """The writer pauses where what it has written makes sense, and is not believed."""
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a", v="0") + "---\n" + namespace("b", v="0"))
    async with watching(tmp_path) as seen:
        with file.open(mode) as writer:
            for part in (namespace("a", v="1"), "---\n", namespace("b", v="1")):
                writer.write(part)
                writer.flush()
                await asyncio.sleep(0.1)
            await seen.proof(tmp_path)
            assert [update.deleted for update in seen.updates] == [(), ()]
            assert len(seen.ever_upserted("a")) == 1
            writer.truncate()
        await seen.until(has_label("b", "1"))
        assert len(seen.ever_upserted("a")) == len(seen.ever_upserted("b")) == 2
        assert all(update.rejections == () for update in seen.updates)


async def test_the_first_sync_waits_for_a_file_that_is_being_written(tmp_path: Path) -> None:
    seen = Watching()
    with (tmp_path / "a.yaml").open("w") as writer:
        writer.write(namespace("a"))
        writer.flush()
        task = asyncio.create_task(ManifestFolder(tmp_path).run(seen.deliver))
        await asyncio.sleep(0.2)
        assert seen.updates == []
        writer.write("---\n" + namespace("b"))
    await seen.until(has("a", "b"))
    assert len(seen.updates) == 1
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_deleted_file_takes_its_objects_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    (tmp_path / "b.yaml").write_text(namespace("b"))
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").unlink()
        await seen.until(has("b"))
        assert seen.ever_deleted() == ["Namespace a"]


async def test_new_folders_are_watched_however_deep_and_fast_they_come(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        deep = tmp_path
        for level in range(8):
            deep /= f"d{level}"
            deep.mkdir()
            (deep / "a.yaml").write_text(namespace(f"n{level}"))
        await seen.until(has(*(f"n{level}" for level in range(8))))
        (deep / "later.yaml").write_text(namespace("later"))
        await seen.until(lambda store: "later" in store.namespaces)
        (tmp_path / "d0").rename(tmp_path / "e0")
        await seen.proof(tmp_path)
        (tmp_path / "e0" / "d1" / "a.yaml").write_text(namespace("moved"))
        await seen.until(lambda store: "moved" in store.namespaces and "n1" not in store.namespaces)
        assert seen.ever_deleted() == ["Namespace n1"]


async def test_a_broken_file_is_reported_and_forgiven_once_repaired(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(policy("web"))
    async with watching(tmp_path) as seen:
        file.write_text(policy("web", BAD_RULE))
        await seen.until(lambda store: bool(store.rejections))
        assert complaints(seen.updates[-1]) == [("a.yaml", 1, "spec.ingress[0].ports[0].port")]
        assert len(seen.store.policies["default", "web"].ingress) == 1
        file.write_text(policy("web"))
        await seen.until(lambda store: not store.rejections)
        assert len(seen.ever_upserted("web")) == 1


async def test_a_mounted_config_map_is_swapped_in_one_update(tmp_path: Path) -> None:
    """As the kubelet does it: a new timestamped directory, `..data` renamed onto it, the old one removed."""

    def publish(version: int) -> None:
        fresh = tmp_path / f"..2026_{version}"
        fresh.mkdir()
        for name in ("a", "b"):
            (fresh / f"{name}.yaml").write_text(namespace(name, v=str(version)))
        (tmp_path / "..data_tmp").symlink_to(fresh.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish(0)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    async with watching(tmp_path) as seen:
        for version in range(1, 6):
            publish(version)
            for file in (tmp_path / f"..2026_{version - 1}").iterdir():
                file.unlink()
            (tmp_path / f"..2026_{version - 1}").rmdir()
            await seen.until(has_label("b", str(version)))
        assert [len(update.upserted) for update in seen.updates] == [2] * 6
        assert seen.ever_deleted() == []
        assert all(update.rejections == () for update in seen.updates)


async def test_a_swap_in_the_middle_of_looking_is_never_delivered_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` is read before the swap and `b` after it; what is delivered belongs together all the same."""
    for version in ("0", "1", "2"):
        (tmp_path / f"..{version}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"..{version}" / f"{name}.yaml").write_text(namespace(name, v=version))
    (tmp_path / "..data").symlink_to("..0")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")

    def swap(version: str) -> None:
        (tmp_path / "..tmp").symlink_to(f"..{version}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    swaps = ["2"]
    real_open = folder_contents.open_file

    @contextmanager
    def swapping_open(path: str) -> Iterator[OpenFile]:
        with real_open(path) as opened:
            yield opened
        if path.endswith("a.yaml") and swaps:
            swap(swaps.pop())

    async with watching(tmp_path) as seen:
        await seen.proof(tmp_path)
        monkeypatch.setattr(folder_contents, "open_file", swapping_open)
        swap("1")
        await seen.until(has_label("b", "2"))
        assert swaps == []
        assert [len(update.upserted) for update in seen.updates] == [2, 1, 2]


async def test_a_file_that_comes_before_its_new_folder_is_watched_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written after the folder was looked at and before a watch is there to tell of it."""
    real_scan = folder_contents.scan
    late = tmp_path / "sub" / "a.yaml"

    def scan_then_write(folder: str) -> Scan:
        found = real_scan(folder)
        if str(late.parent) in found.directories and not late.exists():
            late.write_text(namespace("a"))
        return found

    async with watching(tmp_path) as seen:
        monkeypatch.setattr(folder_contents, "scan", scan_then_write)
        late.parent.mkdir()
        await seen.until(has("a"))


async def test_a_config_map_outside_the_folder_is_followed_through_every_link(tmp_path: Path) -> None:
    folder, mount = tmp_path / "folder", tmp_path / "mount"
    folder.mkdir()
    for version in ("0", "1"):
        (mount / f"..{version}").mkdir(parents=True)
        (mount / f"..{version}" / "content").write_text(namespace("a", v=version))
    (mount / "..data").symlink_to("..0")
    (mount / "content").symlink_to("..data/content")
    (folder / "a.yaml").symlink_to("../mount/content")
    async with watching(folder) as seen:
        (mount / "..tmp").symlink_to("..1")
        (mount / "..tmp").rename(mount / "..data")
        await seen.until(has_label("a", "1"))
        (mount / "..1" / "content").write_text(namespace("a", v="2"))
        await seen.until(has_label("a", "2"))
        assert seen.ever_deleted() == []


async def test_the_folder_may_disappear_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.yaml").write_text(namespace("a"))
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "b.yaml").write_text(namespace("b"))
    async with watching(folder) as seen:
        folder.rename(tmp_path / "old")
        await seen.until(lambda store: bool(store.rejections))
        assert has("a")(seen.store)
        (tmp_path / "next").rename(folder)
        await seen.until(has("b"))
        await seen.until(lambda store: not store.rejections)
        (folder / "c.yaml").write_text(namespace("c"))
        await seen.until(has("b", "c"))
        assert seen.ever_deleted() == ["Namespace a"]


async def test_a_folder_that_is_a_link_may_be_pointed_elsewhere(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(namespace("a", v=version))
    (tmp_path / "link").symlink_to("1")
    async with watching(tmp_path / "link") as seen:
        (tmp_path / "tmp").symlink_to("2")
        (tmp_path / "tmp").rename(tmp_path / "link")
        await seen.until(has_label("a", "2"))
        assert seen.ever_deleted() == []


async def test_hundreds_of_files_at_once_are_few_updates(tmp_path: Path) -> None:
    async with watching(tmp_path) as seen:
        for number in range(400):
            (tmp_path / f"{number}.yaml").write_text(namespace(f"n{number}"))
        await seen.until(lambda store: len(store.namespaces) == 400)
        assert len(seen.updates) < 40
        for number in range(400):
            (tmp_path / f"{number}.yaml").unlink()
        await seen.until(has())


async def test_a_full_event_queue_loses_nothing(tmp_path: Path) -> None:
    """More events than the kernel keeps, while nobody reads them: the overflow itself says to look again."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    async with watching(tmp_path) as seen:
        for number in range(limit // 2 + 100):  # two events each, no two of them alike
            (tmp_path / f"x{number}").touch()
            (tmp_path / f"x{number}").unlink()
        (tmp_path / "a.yaml").write_text(namespace("a"))
        await seen.until(has("a"))


async def test_the_same_content_written_again_is_no_update(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").write_text(namespace("a"))
        (tmp_path / "other.txt").write_text("x")
        await seen.proof(tmp_path)
        assert len(seen.updates) == 2
