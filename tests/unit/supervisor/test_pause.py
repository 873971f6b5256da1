"""The pause between two snapshots."""

import asyncio

import pytest

from netpolq.supervisor import enforcer
from netpolq.supervisor.enforcer import pause
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import Noticed, Published, WorkerReported
from tests.support.progress import progress_of


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Version 1 is published. The interval is longer than any test."""
    monkeypatch.setattr(enforcer, "PUBLISH_INTERVAL_S", 3600.0)
    progress = progress_of(workers=2)
    progress.send(Published(1, None))
    return progress


async def is_over(pausing: asyncio.Task[None]) -> bool:
    await asyncio.sleep(0.02)
    return pausing.done()


async def test_a_change_that_a_packet_waits_for_is_published_when_workers_use_the_last_version(progress: Progress) -> None:
    pausing = asyncio.create_task(pause(progress, 0.0))
    for event in (Noticed(1), WorkerReported(0, 1), Noticed(2, is_awaited=True)):
        progress.send(event)
        assert not await is_over(pausing)
    progress.send(WorkerReported(1, 1))
    assert await is_over(pausing)


async def test_another_change_waits_for_the_interval(progress: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in (0, 1):
        progress.send(WorkerReported(slot, 1))
    progress.send(Noticed(1))
    pausing = asyncio.create_task(pause(progress, 0.0))
    assert not await is_over(pausing)
    pausing.cancel()
    monkeypatch.setattr(enforcer, "PUBLISH_INTERVAL_S", 0.001)
    async with asyncio.timeout(10):
        await pause(progress, 0.0)


async def test_large_snapshots_leave_half_of_the_time(progress: Progress) -> None:
    for slot in (0, 1):
        progress.send(WorkerReported(slot, 1))
    progress.send(Noticed(1, is_awaited=True))
    pausing = asyncio.create_task(pause(progress, 1800.0))
    assert not await is_over(pausing)
    pausing.cancel()
