"""The watch on a real folder of CNI results, which comes, goes, is replaced and overflows."""

import asyncio
import subprocess
import sys
import time

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netpolq.addresses import format_address
from netpolq.model import Pod, Update
from netpolq.sources.cni_results.early_addresses import EarlyAddresses
from netpolq.sources.cni_results.folder import Content, ResultsFolder
from netpolq.sources.cni_results.watch import CniResults
from netpolq.store import Store
from tests.support.cni_results import result_document, write_result

NODE = "node-1"
DEADLINE_S = 30
WEB = result_document("app/web", "u1", "10.1.0.7")


class Watched:
    """A watch with a pod that waits for its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store()
        self._is_applied = asyncio.Event()
        self.results = CniResults(folder, EarlyAddresses(NODE, self.store.pods_with_address), self._apply)
        self.observed_ns: list[int] = []
        pod = Pod(namespace="app", name="web", labels={}, ips=(), node_name=NODE, running=False, uid="u1")
        self.results.on_update(Update(upserted=(pod,), ignored={}, observed_ns=0))

    def _apply(self, update: Update) -> None:
        self.observed_ns.append(update.observed_ns)
        self.store.apply(update)
        self._is_applied.set()

    @property
    def addresses(self) -> list[str]:
        return list(map(format_address, self.store.pods["app", "web"].ips))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until an update has made something true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._is_applied.clear()
                await self._is_applied.wait()

    async def until_known(self, *addresses: str) -> None:
        await self.until(lambda: self.addresses == list(addresses))

    async def until_scanned(self) -> None:
        """Wait until the watch has seen the folder."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.results.content.is_present:  # noqa: ASYNC110  # a scan that finds nothing sends no event
                await asyncio.sleep(0.001)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path / "cni" / "results")
    task = asyncio.create_task(watched.results.run())
    yield watched
    assert not task.done()
    task.cancel()


async def test_a_file_counts_as_soon_as_it_is_written_and_until_it_is_removed(watched: Watched) -> None:
    before_ns = time.monotonic_ns()
    watched.folder.mkdir(parents=True)
    await watched.until_scanned()
    path = write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")
    assert before_ns < watched.observed_ns[-1] < time.monotonic_ns()
    path.unlink()
    await watched.until_known()


async def test_a_folder_that_comes_later_is_watched(watched: Watched) -> None:
    """Its parent, too, may be missing. The watch creates neither."""
    await asyncio.sleep(0)
    assert not watched.folder.parent.exists()
    watched.folder.parent.mkdir()
    watched.folder.mkdir(mode=0o700)
    write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")
    assert watched.results.problem is None


async def test_a_folder_may_be_named_by_a_relative_path_or_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    watched = Watched(Path("real/../link"))
    task = asyncio.create_task(watched.results.run())
    await watched.until_scanned()
    write_result(tmp_path / "real", WEB)
    await watched.until_known("10.1.0.7")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("other")
    await watched.until_known()
    task.cancel()


async def test_a_folder_that_is_removed_and_made_again_is_watched_again(watched: Watched) -> None:
    watched.folder.mkdir(parents=True)
    path = write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")
    path.unlink()
    watched.folder.rmdir()
    await watched.until_known()
    watched.folder.mkdir()
    write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")


async def test_a_folder_that_is_replaced_is_read_from_then_on(watched: Watched) -> None:
    watched.folder.mkdir(parents=True)
    write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")
    other = watched.folder.with_name("other")
    other.mkdir()
    write_result(other, result_document("app/web", "u1", "10.1.0.8"))
    watched.folder.rename(watched.folder.with_name("old"))
    other.rename(watched.folder)
    await watched.until_known("10.1.0.8")
    write_result(watched.folder, result_document("app/web", "u1", "10.1.0.99"))
    await watched.until_known("10.1.0.99")


async def test_a_file_that_is_written_during_a_scan_is_found(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, is_written = ResultsFolder.scan, False

    def scan_then_write(self: ResultsFolder, now_ns: int, wall_ns: int) -> Content:
        nonlocal is_written
        content = scan(self, now_ns, wall_ns)
        if any(watched.folder.glob("first")) and not is_written:
            is_written = bool(write_result(watched.folder, WEB))
        return content

    watched.folder.mkdir(parents=True)
    await watched.until_scanned()
    monkeypatch.setattr(ResultsFolder, "scan", scan_then_write)
    (watched.folder / "first").mkdir()
    await watched.until_known("10.1.0.7")


async def test_a_file_that_stays_incomplete_is_reported_without_another_event(watched: Watched) -> None:
    watched.folder.mkdir(parents=True)
    (watched.folder / "net-s1-eth0").write_text("{")
    await watched.until_scanned()
    async with asyncio.timeout(DEADLINE_S / 2):
        while not watched.results.content.unusable:  # noqa: ASYNC110  # operators read it; no task waits for it
            await asyncio.sleep(0.01)


async def test_a_file_behind_more_events_than_the_kernel_keeps_is_found(watched: Watched) -> None:
    """The queue has room for 16384 events by default; what comes after them is lost."""
    watched.folder.mkdir(parents=True)
    await watched.until_scanned()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    noise = watched.folder / ".noise"
    for _ in range(limit // 4 + 1):  # made, opened, closed, removed
        noise.touch()
        noise.unlink()
    write_result(watched.folder, WEB)
    await watched.until_known("10.1.0.7")


async def test_a_thousand_files_do_not_block_the_event_loop(tmp_path: Path) -> None:
    for number in range(1000):
        write_result(tmp_path, result_document(f"app/p{number}", "u", "10.1.1.1", sandbox=f"s{number}"))
    write_result(tmp_path, WEB)
    watched = Watched(tmp_path)
    task = asyncio.create_task(watched.results.run())
    turns = 0
    while not watched.addresses:
        assert not task.done()
        await asyncio.sleep(0)
        turns += 1
    task.cancel()
    assert turns > 20


_WATCHER = """
import asyncio, logging, pathlib, sys
from netpolq.addresses import format_address
from netpolq.model import Pod, Update
from netpolq.sources.cni_results.early_addresses import EarlyAddresses
from netpolq.sources.cni_results.watch import CniResults
from netpolq.store import Store
from tests.support.cni_results import result_document, write_result

logging.basicConfig(format="%(message)s")
folder = pathlib.Path(sys.argv[1])
store = Store()
step = 0

def apply(update):
    global step
    store.apply(update)
    found = [format_address(address) for address in store.pods["app", "web"].ips]
    step += 1
    print(step, found, results.problem, flush=True)
    next_step(step)

results = CniResults(folder, EarlyAddresses("node", store.pods_with_address), apply)

def next_step(step):
    STEPS

pod = Pod(namespace="app", name="web", labels={}, ips=(), node_name="node", running=False, uid="u1")
results.on_update(Update(upserted=(pod,), ignored={}, observed_ns=0))
asyncio.run(results.run())
"""

_WRITE = """
    if step == 3:
        raise SystemExit
    if step > 1:
        write_result(folder, result_document("app/web", "u1", f"10.1.0.8"))
"""

_UNMOUNT = """
    import subprocess
    if step == 2:
        subprocess.run(["umount", "--lazy", folder], check=True)
    if step == 3:
        write_result(folder, result_document("app/web", "u1", "10.1.0.8"))
    if step == 4:
        raise SystemExit
"""


def run(steps: str, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    script = _WATCHER.replace("    STEPS", steps.strip("\n"))
    return subprocess.run(
        [*argv, sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@pytest.mark.parametrize(
    ("limit", "sysctl"),
    [("max_inotify_instances", "fs.inotify.max_user_instances"), ("max_inotify_watches", "fs.inotify.max_user_watches")],
)
def test_the_folder_is_scanned_regularly_where_inotify_is_used_up(tmp_path: Path, limit: str, sysctl: str) -> None:
    """The limits apply to a user namespace of the test."""
    write_result(tmp_path, WEB)
    script = f'echo 0 > /proc/sys/user/{limit} && exec "$@"'
    done = run(_WRITE, tmp_path, "unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    assert done.returncode == 0, done.stderr
    _before, first, second = done.stdout.splitlines()
    assert "10.1.0.7" in first
    assert "10.1.0.8" in second
    assert sysctl in second


def test_a_folder_that_is_unmounted_is_watched_again(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none "$0" && cp "$0".json "$0"/net-s1-eth0 && exec "$@"'
    folder = tmp_path / "results"
    folder.mkdir()
    write_result(tmp_path, WEB).rename(tmp_path / "results.json")
    done = run(_UNMOUNT, folder, "unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(folder))
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["[]", "['10.1.0.7']", "[]", "['10.1.0.8']"]
