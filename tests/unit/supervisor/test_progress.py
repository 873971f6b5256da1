"""The shared rollout: what wakes the parts that wait for it, and what is logged and measured."""

import asyncio

import pytest

from prometheus_client import CollectorRegistry

from netpolq.logs import DETAIL
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout import Rollout
from netpolq.supervisor.rollout_events import CompileStarted, Kept, Noticed, Published, SetsInstalled, WorkerReported
from netpolq.supervisor.timings import Timings
from tests.support.progress import progress_of


async def test_a_task_that_waits_for_a_condition_goes_on_when_it_holds() -> None:
    progress = progress_of(has_verdict_cache=False)
    waiting = asyncio.create_task(progress.until(lambda rollout: rollout.in_force_version >= 1))
    for event in (Published(1, None), SetsInstalled(1)):
        progress.send(event)
        await asyncio.sleep(0)
        assert not waiting.done()
    progress.send(WorkerReported(0, 1))
    async with asyncio.timeout(5):
        await waiting


async def test_a_condition_that_holds_already_is_not_waited_for() -> None:
    async with asyncio.timeout(5):
        await progress_of().until(lambda rollout: rollout.version == 0)


async def test_a_change_wakes_each_subscriber_and_a_report_without_news_wakes_none() -> None:
    progress = progress_of(workers=2)
    subscribers = [progress.subscribe(), progress.subscribe()]
    progress.send(WorkerReported(0, 1))
    assert not any(subscriber.is_set() for subscriber in subscribers)
    progress.send(WorkerReported(1, 1))
    assert all(subscriber.is_set() for subscriber in subscribers)


def test_a_version_in_force_is_measured_and_logged_with_its_changes(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    now_ns = 5_000_000
    rollout = Rollout(workers=(0,), has_verdict_cache=False, has_strict_mode=False)
    progress = Progress(rollout, Timings(registry), clock_ns=lambda: now_ns)
    caplog.set_level(DETAIL, "enforcer")
    for event in (Noticed(2_000_000), CompileStarted(), Published(1, None, "Pod x/a added"), SetsInstalled(1)):
        progress.send(event)
    assert progress.behind_s == 0.003
    now_ns = 9_500_000
    progress.send(WorkerReported(0, 1))
    assert [record.getMessage() for record in caplog.records] == ["snapshot 1 is in force after 7.5 ms: Pod x/a added"]
    assert registry.get_sample_value("netpolq_policy_programming_seconds_sum") == 0.0075
    for event in (Noticed(9_000_000), CompileStarted(), Published(1, ()), SetsInstalled(1)):
        progress.send(event)
    assert caplog.records[-1].getMessage() == "snapshot 1 is in force after 0.5 ms: nothing changed"
    assert caplog.records[-1].levelno == DETAIL
    assert caplog.records[-1].name == "enforcer"


def test_a_kept_snapshot_in_force_is_neither_measured_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    progress = progress_of(has_verdict_cache=False)
    caplog.set_level(DETAIL, "enforcer")
    for event in (Kept(7), WorkerReported(0, 7), SetsInstalled(7)):
        progress.send(event)
    assert progress.rollout.in_force_version == 7
    assert caplog.records == []
