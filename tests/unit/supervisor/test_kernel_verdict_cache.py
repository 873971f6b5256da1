"""When decisions may be written to the kernel, and when a version is clean. The kernel's part runs in tests/netns."""

import asyncio

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import cast

import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane.install import Ruleset, RulesetError
from netpolq.enums import Protocol, Verdict
from netpolq.ipc.channel import CachedVerdict, pack_hints
from netpolq.supervisor.kernel_verdict_cache import VerdictCache
from netpolq.supervisor.rollout_events import Published, RulesetReinstalled, SetsInstalled, WorkerReported
from tests.support.progress import progress_of

A, B, C = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))


def hint(source: bytes = A, destination: bytes = B, port: int = 80) -> CachedVerdict:
    return CachedVerdict(source, destination, port, Protocol.TCP, Verdict.ACCEPT)


class Maps:
    """Maps of a kernel that answers on command. `vanished`: entries that have timed out there."""

    def __init__(self) -> None:
        self.held: set[CachedVerdict] = set()
        self.vanished: set[CachedVerdict] = set()
        self.broken = False
        self.open = asyncio.Event()
        self.open.set()
        self.calls: list[str] = []

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        await self.open.wait()
        if self.broken:
            raise RulesetError("no")

    async def remember_verdicts(self, hints: Sequence[CachedVerdict], ttl_ms: int) -> None:
        assert ttl_ms == 60_000
        self.held.update(hints)  # also by a write that fails: its answer may be lost
        await self._answer("remember")

    async def forget_verdicts(self, hints: Sequence[CachedVerdict] | None) -> bool:
        await self._answer("forget")
        if hints is not None and not self.vanished & set(hints):
            assert self.held.issuperset(hints)
            self.held.difference_update(hints)
            return True
        self.held.clear()
        return False


class Scene:
    """A cache over such maps, with its task running. Sets are in the kernel at once, so a version is in force when it is clean."""

    def __init__(self, *, with_drops: bool = True) -> None:
        self.maps = Maps()
        self.progress = progress_of()
        self.cache = VerdictCache(cast("Ruleset", self.maps), self.progress, size=100, ttl_s=60, with_drops=with_drops)

    def published(self, version: int, changed: Sequence[bytes] | None) -> None:
        self.progress.send(Published(version, changed))
        self.progress.send(SetsInstalled(version))

    def acknowledged(self, version: int) -> None:
        self.progress.send(WorkerReported(0, version))

    def ruleset_installed(self) -> None:
        self.progress.send(RulesetReinstalled())

    @property
    def clean_version(self) -> int:
        return self.progress.rollout.in_force_version

    async def run_until_idle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def serve(self, version: int = 1) -> None:
        """The state of every day: installed, one version published and clean."""
        self.published(version, None)
        self.ruleset_installed()
        self.acknowledged(version)
        await self.run_until_idle()
        assert self.clean_version == version


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    task = asyncio.create_task(scene.cache.run())
    yield scene
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_an_earlier_agent_left_is_gone_before_the_first_version_is_clean(scene: Scene) -> None:
    scene.maps.held.add(hint(C, C))
    scene.published(1, None)
    scene.acknowledged(1)
    await scene.run_until_idle()
    assert scene.clean_version == 0
    scene.ruleset_installed()
    await scene.run_until_idle()
    assert scene.maps.held == set()
    assert scene.clean_version == 1


async def test_hints_of_the_newest_version_are_written_and_no_others(scene: Scene) -> None:
    await scene.serve(5)
    for version in (4, 6):
        scene.cache.hinted(pack_hints(version, [hint(port=version)]))
    scene.cache.hinted(pack_hints(5, [hint()]))
    await scene.run_until_idle()
    assert scene.maps.held == {hint()}
    assert scene.cache.refused == {"old-version": 2, "full": 0, "busy": 0}


async def test_without_drops_only_accepted_connections_are_kept() -> None:
    """So that workers see, and log, every denied first packet."""
    scene = Scene(with_drops=False)
    task = asyncio.create_task(scene.cache.run())
    await scene.serve(5)
    scene.cache.hinted(pack_hints(5, [hint(), hint(port=81)._replace(verdict=Verdict.DROP)]))
    await scene.run_until_idle()
    assert scene.maps.held == {hint()}
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_hints_that_wait_when_a_new_version_is_published_are_dropped(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint()]))
    scene.published(2, ())
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert scene.maps.held == set()


async def test_a_version_is_clean_only_when_what_it_changed_is_out_of_the_kernel(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint(), hint(C, B)]))
    await scene.run_until_idle()
    scene.published(2, (A,))
    await scene.run_until_idle()
    assert scene.maps.held == {hint(), hint(C, B)}, "workers still decide like that"
    scene.maps.open.clear()
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert scene.clean_version == 1
    scene.maps.open.set()
    await scene.run_until_idle()
    assert scene.maps.held == {hint(C, B)}
    assert scene.clean_version == 2


async def test_a_change_about_others_is_clean_without_a_transaction(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    calls = list(scene.maps.calls)
    scene.published(2, (C,))
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert scene.clean_version == 2
    assert (scene.maps.calls, scene.maps.held) == (calls, {hint()})


async def test_a_change_about_all_needs_no_transaction_while_the_kernel_has_no_decision(scene: Scene) -> None:
    await scene.serve()
    calls = list(scene.maps.calls)
    scene.published(2, None)
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert (scene.clean_version, scene.maps.calls) == (2, calls)


async def test_cleaning_takes_precedence_over_further_hints(scene: Scene) -> None:
    await scene.serve()
    scene.maps.calls.clear()
    scene.maps.open.clear()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    scene.published(2, (B,))
    scene.acknowledged(2)
    scene.cache.hinted(pack_hints(2, [hint(C, C)]))
    scene.maps.open.set()
    await scene.run_until_idle()
    assert scene.maps.calls == ["remember", "forget", "remember"]
    assert scene.maps.held == {hint(C, C)}


async def test_after_a_write_with_an_unknown_result_the_maps_are_emptied(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netpolq.supervisor.kernel_verdict_cache._RETRY_S", 0)
    await scene.serve()
    scene.maps.broken = True
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    assert scene.maps.held == {hint()}
    scene.maps.broken = False
    await scene.run_until_idle()
    assert scene.maps.held == set()
    assert scene.cache.entries == 0


async def test_a_later_version_is_not_clean_before_an_earlier_one(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    scene.maps.open.clear()
    scene.published(2, (A,))
    scene.acknowledged(2)
    await scene.run_until_idle()
    scene.published(3, (C,))
    scene.acknowledged(3)
    await scene.run_until_idle()
    assert scene.clean_version == 1
    scene.maps.open.set()
    await scene.run_until_idle()
    assert scene.clean_version == 3
    assert scene.maps.held == set()


async def test_what_is_being_written_when_its_version_is_replaced_is_taken_out_again(scene: Scene) -> None:
    await scene.serve()
    scene.maps.open.clear()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    scene.published(2, (B,))
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert scene.clean_version == 1
    scene.maps.open.set()
    await scene.run_until_idle()
    assert scene.maps.held == set()
    assert scene.clean_version == 2


async def test_what_has_timed_out_meanwhile_leads_to_empty_maps(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint(), hint(C, B)]))
    await scene.run_until_idle()
    scene.maps.vanished = {hint()}
    scene.published(2, (A,))
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert scene.maps.held == set()
    assert scene.cache.entries == 0
    assert scene.clean_version == 2


async def test_an_install_by_which_the_maps_were_emptied_is_noticed(scene: Scene) -> None:
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    scene.ruleset_installed()
    await scene.run_until_idle()
    assert scene.cache.entries == 0
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    assert scene.maps.held == {hint()}


async def test_while_the_kernel_refuses_no_version_becomes_clean_and_the_reason_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netpolq.supervisor.kernel_verdict_cache._RETRY_S", 0)
    await scene.serve()
    scene.cache.hinted(pack_hints(1, [hint()]))
    await scene.run_until_idle()
    scene.maps.broken = True
    scene.published(2, (A,))
    scene.acknowledged(2)
    await scene.run_until_idle()
    assert (scene.clean_version, scene.cache.problem) == (1, "no")
    scene.maps.broken = False
    await scene.run_until_idle()
    assert (scene.clean_version, scene.cache.problem) == (2, None)
    assert scene.maps.held == set()
