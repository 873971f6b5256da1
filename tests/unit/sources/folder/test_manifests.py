"""The manifest folder source: the update that each change of the folder causes. Real files, real inotify."""

import asyncio

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from netpolq.errors import BootError
from netpolq.model import Object, Update
from netpolq.sources.folder import contents
from netpolq.sources.folder.open_file import OpenFile, open_file
from netpolq.sources.folder.scan import Scan, scan
from netpolq.sources.folder.source import ManifestFolder
from netpolq.store import Store
from tests.support.manifest_texts import BAD_RULE, complaints, namespace, policy

DEADLINE_S = 20.0


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
            await asyncio.sleep(0.01)  # long enough for a scan in between
            file.write_text(namespace("a", v=str(version)))
            backup.unlink()
            await seen.until(has_label("a", str(version)))
        assert seen.ever_deleted() == []
        assert all(update.rejections == () for update in seen.updates)


@pytest.mark.parametrize("mode", ["w", "r+"])
async def test_half_written_content_is_never_delivered(tmp_path: Path, mode: str) -> None:
    """The writer pauses where what it has written is valid, and that is not used."""
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


async def test_a_broken_file_is_reported_until_it_is_repaired(tmp_path: Path) -> None:
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


async def test_a_swap_during_a_scan_is_never_delivered_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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

    @contextmanager
    def swapping_open(path: str) -> Iterator[OpenFile]:
        with open_file(path) as opened:
            yield opened
        if path.endswith("a.yaml") and swaps:
            swap(swaps.pop())

    async with watching(tmp_path) as seen:
        await seen.proof(tmp_path)
        monkeypatch.setattr(contents, "open_file", swapping_open)
        swap("1")
        await seen.until(has_label("b", "2"))
        assert swaps == []
        assert [len(update.upserted) for update in seen.updates] == [2, 1, 2]


async def test_a_file_that_comes_before_its_new_folder_is_watched_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written after the scan of the folder and before the watch on it."""
    late = tmp_path / "sub" / "a.yaml"

    def scan_then_write(folder: str) -> Scan:
        found = scan(folder)
        if str(late.parent) in found.directories and not late.exists():
            late.write_text(namespace("a"))
        return found

    async with watching(tmp_path) as seen:
        monkeypatch.setattr(contents, "scan", scan_then_write)
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
    """More events than the kernel keeps, while no process reads them: the overflow event itself triggers a scan."""
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


async def test_a_policy_in_a_small_file_is_delivered_before_a_large_file_is_parsed(tmp_path: Path) -> None:
    """A large file takes seconds, and a deny must not wait for it."""
    async with watching(tmp_path) as seen:
        (tmp_path / "a.yaml").write_text("---\n".join(namespace(f"n{number}") for number in range(10_000)))
        (tmp_path / "b.yaml").write_text(policy("web"))
        await seen.until(lambda store: bool(store.policies))
        assert not seen.store.namespaces
        await seen.until(lambda store: len(store.namespaces) == 10_000)
