"""The copy of the newest snapshot in the run directory."""

import asyncio
import os

from pathlib import Path

import pytest

from netpolq.snapshot import region
from netpolq.snapshot.view import SnapshotView
from netpolq.supervisor import keeper
from netpolq.supervisor.keeper import Keeper
from tests.support.images import Image, encode


def give(kept: Keeper, version: int) -> None:
    descriptor = region.seal(encode(Image(), version=version, created_ns=0))
    kept.keep(descriptor)
    os.close(descriptor)


def version_in(path: Path) -> int:
    return SnapshotView(region.load(path)).version


async def test_the_first_is_written_at_once_and_the_newest_when_the_supervisor_leaves(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    kept = Keeper(path)
    kept.begin()
    give(kept, 1)
    async with asyncio.timeout(5):
        while not path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert version_in(path) == 1
    for version in range(2, 40):
        give(kept, version)
        await asyncio.sleep(0)
    await kept.leave()
    assert version_in(path) == 39
    assert list(tmp_path.iterdir()) == [path]


async def test_nothing_is_written_while_somebody_else_may_write(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    for begins in (False, True):
        kept = Keeper(path)
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
    save = region.save

    def counting(path: Path, descriptor: int) -> None:
        save(path, descriptor)
        written.append(version_in(path))

    monkeypatch.setattr(region, "save", counting)
    monkeypatch.setattr(keeper, "SAVE_INTERVAL_S", 0.2)
    kept = Keeper(tmp_path / "snapshot.bin")
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
    kept = Keeper(tmp_path / "gone" / "snapshot.bin")
    kept.begin()
    give(kept, 1)
    await kept.leave()
    assert "the next start will have no snapshot" in caplog.text
    await Keeper(tmp_path / "never").leave()
