"""From a DNS answer to its confirmation, with a real store, compiler and channel; the test publishes in place of the enforcer."""

import asyncio
import logging
import os
import time

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.ipc.channel import Answer, AnswersInForce, Channel
from netpolq.model import ClusterNetworkPolicy, Namespace, Node, Object, ObjectKey, Pod, Update
from netpolq.names.table import Refusal
from netpolq.policy.compiler import Compiler
from netpolq.store import Store
from netpolq.supervisor import learned_names as module
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.learned_names import LearnedNames
from netpolq.supervisor.rollout_events import (
    CacheClean,
    CompileStarted,
    Published,
    RulesetReinstalled,
    WorkerReported,
)
from netpolq.supervisor.store_intake import StoreIntake
from tests.support.cluster_policies import cluster_policy, decoded, rule
from tests.support.learned_names import learned_names
from tests.support.polling import until
from tests.support.progress import progress_of

POD_ADDRESS = parse_address("10.0.0.1")
ONE, TWO = parse_address("203.0.113.1"), parse_address("203.0.113.2")
POD = Pod(namespace="shop", name="web", labels={}, ips=(POD_ADDRESS,), host_ips=(parse_address("192.0.2.1"),))
NAME = "www.example.com"


def policy(*names: str) -> ClusterNetworkPolicy:
    return decoded(cluster_policy("names", egress=[rule("Accept", {"domainNames": list(names)})]))


class Supervisor:
    """The part, the store, and what the enforcer, the workers and the verdict cache tell the rollout."""

    def __init__(self, run_dir: Path) -> None:
        self._channel, end = Channel.pair()
        self._pool = Channel(end)
        self.progress = progress_of()
        self.store = Store()
        self.compiler = Compiler(self.store, is_local=lambda _pod: True)
        self.names: LearnedNames = learned_names(self._channel, self.progress, run_dir, store=self.store, compiler=self.compiler)
        self._intake = StoreIntake(self.store, Changes(), self.progress, self.names)
        self._running: asyncio.Task[None] | None = None
        self._number = 0

    def start(self) -> None:
        self.names.load()
        self._running = asyncio.create_task(self.names.run())

    def put(self, *items: Object, deleted: Sequence[ObjectKey] = ()) -> None:
        self._intake.deliver(Update(upserted=items, deleted=tuple(deleted), ignored={}, observed_ns=time.monotonic_ns()))

    def answer(self, *addresses: AddressKey, name: str = NAME, ttl_s: int = 300) -> int:
        self._number += 1
        self.names.answered(Answer(self._number, POD_ADDRESS, name, tuple((address, ttl_s) for address in addresses)))
        return self._number

    def publish(self) -> None:
        self.progress.send(CompileStarted())
        for _delta in self.compiler.steps():
            pass
        self.progress.send(Published(self.progress.rollout.version + 1, tuple(self.compiler.take_changed())))

    def follow(self) -> None:
        """Workers and the verdict cache."""
        self.progress.send(WorkerReported(0, self.progress.rollout.version))
        scope = self.progress.rollout.to_clean
        assert scope is not None
        self.progress.send(CacheClean(scope.version, scope.doubts))

    async def confirmed(self) -> list[int]:
        """Numbers that were confirmed since the last call."""
        await asyncio.sleep(0.01)
        numbers = []
        while (received := self._pool.receive()) is not None:
            assert isinstance(received[0], AnswersInForce)
            numbers.append(received[0].number)
        return numbers

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self.names.leave()
        self._channel.close()
        self._pool.close()


@pytest.fixture
async def unsynced(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    supervisor.start()
    yield supervisor
    await supervisor.close()


@pytest.fixture
async def supervisor(unsynced: Supervisor) -> Supervisor:
    """A pod may reach `*.example.com`, which is in force."""
    unsynced.put(Namespace(name="shop", labels={}), POD, policy("*.example.com"))
    unsynced.publish()
    unsynced.progress.send(RulesetReinstalled())
    unsynced.follow()
    await asyncio.sleep(0.01)
    return unsynced


# --- answers ----------------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_confirmed_when_workers_use_its_addresses_and_the_cache_is_clean(supervisor: Supervisor) -> None:
    number = supervisor.answer(ONE, TWO)
    assert dict(supervisor.store.names) == {ONE: {NAME}, TWO: {NAME}}
    assert supervisor.progress.rollout.is_awaited
    assert await supervisor.confirmed() == []
    supervisor.publish()
    assert await supervisor.confirmed() == []
    supervisor.progress.send(WorkerReported(0, supervisor.progress.rollout.version))
    assert await supervisor.confirmed() == []
    supervisor.follow()
    assert await supervisor.confirmed() == [number]
    assert supervisor.names.confirmed == number


async def test_an_answer_without_news_is_confirmed_at_once_but_not_before_an_earlier_one(supervisor: Supervisor) -> None:
    first = supervisor.answer(ONE)
    second = supervisor.answer(ONE)
    other = supervisor.answer(TWO, name="www.example.org")
    assert await supervisor.confirmed() == []
    supervisor.publish()
    supervisor.follow()
    assert await supervisor.confirmed() == [other]
    assert await supervisor.confirmed() == []
    assert first < second < other
    for name in (NAME, "www.example.org"):
        number = supervisor.answer(ONE, name=name)
        assert await supervisor.confirmed() == [number]
    assert not supervisor.progress.rollout.is_awaited


async def test_an_answer_that_comes_while_a_version_is_compiled_waits_for_the_next_one(supervisor: Supervisor) -> None:
    first = supervisor.answer(ONE)
    supervisor.progress.send(CompileStarted())
    for _delta in supervisor.compiler.steps():
        pass
    second = supervisor.answer(TWO)
    supervisor.progress.send(Published(supervisor.progress.rollout.version + 1, (ONE,)))
    supervisor.follow()
    assert await supervisor.confirmed() == [first]
    supervisor.publish()
    supervisor.follow()
    assert await supervisor.confirmed() == [second]


async def test_many_answers_that_wait_take_bounded_memory_and_are_confirmed_together(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    for number in range(10):
        supervisor.answer(AddressKey(ONE[:-1] + bytes([number])))
    last = supervisor.answer(ONE)
    assert len(supervisor.names._waiting) == 3
    supervisor.publish()
    assert await supervisor.confirmed() == []
    supervisor.follow()
    assert await supervisor.confirmed() == [last]


async def test_a_confirmation_that_the_pool_does_not_take_is_sent_again(supervisor: Supervisor) -> None:
    while supervisor._channel.send(AnswersInForce(0)):
        pass
    number = supervisor.answer(ONE, name="www.example.org")
    assert supervisor.names.confirmed == 0
    await supervisor.confirmed()
    await until(lambda: supervisor.names.confirmed == number)
    assert await supervisor.confirmed() == [number]


async def test_names_that_no_policy_uses_and_addresses_that_no_name_may_open_are_not_learned(supervisor: Supervisor) -> None:
    loopback, node = parse_address("127.0.0.1"), parse_address("192.0.2.1")
    supervisor.answer(ONE, name="www.example.org")
    supervisor.answer(ONE, name="example.com")
    supervisor.answer(POD_ADDRESS, loopback, node, TWO)
    assert dict(supervisor.store.names) == {TWO: {NAME}}
    refused = supervisor.names.table.refused
    assert {cause: count for cause, count in refused.items() if count} == {
        Refusal.POD_ADDRESS: 1,
        Refusal.SPECIAL_ADDRESS: 1,
        Refusal.NODE_ADDRESS: 1,
    }


# --- what else changes names ------------------------------------------------------------------------------------------------------


async def test_an_address_that_becomes_that_of_a_pod_or_node_opens_no_name_any_more(supervisor: Supervisor) -> None:
    three = parse_address("203.0.113.3")
    supervisor.answer(ONE, TWO, three)
    supervisor.put(Pod(namespace="shop", name="new", labels={}, ips=(ONE,), host_ips=(TWO,)))
    assert dict(supervisor.store.names) == {three: {NAME}}
    supervisor.put(Node(name="n", labels={}, addresses=(three,)))
    assert dict(supervisor.store.names) == {}
    supervisor.answer(ONE, TWO, three)
    assert dict(supervisor.store.names) == {}
    supervisor.put(deleted=[ObjectKey("Pod", "shop", "new"), ObjectKey("Node", "", "n")])
    supervisor.answer(ONE, TWO, three)
    assert dict(supervisor.store.names) == {ONE: {NAME}, TWO: {NAME}, three: {NAME}}


async def test_with_a_pattern_go_its_names_and_they_do_not_come_back_with_it(supervisor: Supervisor) -> None:
    supervisor.put(policy("*.example.com", "*.example.org"))
    supervisor.publish()
    supervisor.answer(ONE)
    supervisor.answer(TWO, name="www.example.org")
    supervisor.put(policy("*.example.org"))
    supervisor.publish()
    await until(lambda: dict(supervisor.store.names) == {TWO: {"www.example.org"}})
    supervisor.put(policy("*.example.com", "*.example.org"))
    supervisor.publish()
    await asyncio.sleep(0.01)
    assert dict(supervisor.store.names) == {TWO: {"www.example.org"}}


async def test_after_time_to_live_and_grace_a_change_is_published(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.answer(ONE)
    supervisor.publish()
    monkeypatch.setattr(supervisor.names, "_clock", lambda: time.monotonic() + 300 + 61)
    await until(lambda: not supervisor.store.names)
    assert supervisor.progress.rollout.noticed_ns is not None
    assert not supervisor.progress.rollout.is_awaited


async def test_refusals_are_logged_once_a_minute_by_cause(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    supervisor.answer(parse_address("127.0.0.1"), parse_address("127.0.0.2"))
    supervisor.names._log_refusals()
    supervisor.names._log_refusals()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert "2 special-address" in lines[0]


# --- before the first sync, and the file ------------------------------------------------------------------------------------------


async def test_before_the_first_sync_every_name_is_learned_and_confirmed_with_the_first_version(unsynced: Supervisor) -> None:
    used, unused = unsynced.answer(ONE), unsynced.answer(TWO, name="www.example.org")
    assert unsynced.progress.rollout.noticed_ns is None, "an incomplete state would be published"
    assert await unsynced.confirmed() == []
    unsynced.put(Namespace(name="shop", labels={}), POD, policy("*.example.com"))
    assert await unsynced.confirmed() == []
    unsynced.publish()
    await until(lambda: dict(unsynced.store.names) == {ONE: {NAME}})
    unsynced.progress.send(RulesetReinstalled())
    unsynced.follow()
    assert await unsynced.confirmed() == [unused]
    assert used < unused


async def test_the_next_supervisor_knows_the_names(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.names.stood_down()
    supervisor.answer(ONE, ttl_s=1000)
    await until((tmp_path / "names.json").exists)
    assert (tmp_path / "names.json").stat().st_mode & 0o777 == 0o600
    after = Supervisor(tmp_path)
    after.start()
    assert dict(after.store.names) == {ONE: {NAME}}
    (pair,) = after.names.table
    (before,) = supervisor.names.table
    assert pair.pod == POD_ADDRESS
    assert abs(pair.expiry_s - before.expiry_s) < 1
    await after.close()


async def test_what_another_agent_learns_before_it_stands_down_is_taken_over_and_awaited(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """Nothing is written before: the file is that of the other agent."""
    after = Supervisor(tmp_path)
    after.start()
    after.put(Namespace(name="shop", labels={}), POD, policy("*.example.com"))
    after.publish()
    supervisor.names.stood_down()
    supervisor.answer(ONE)
    await supervisor.names.leave()
    assert not after.store.names
    after.names.stood_down()
    assert dict(after.store.names) == {ONE: {NAME}}
    assert after.progress.rollout.is_awaited
    await after.close()


async def test_an_agent_that_has_not_taken_over_writes_nothing(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.answer(ONE)
    await asyncio.sleep(0.05)
    await supervisor.names.leave()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b'{"format":2}'])
async def test_a_file_that_is_no_document_is_ignored_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "names.json").write_bytes(content)
    supervisor = Supervisor(tmp_path)
    supervisor.start()
    assert "is ignored" in caplog.text
    supervisor.names.stood_down()
    supervisor.answer(ONE)
    await until(lambda: b"203.0.113.1" in (tmp_path / "names.json").read_bytes())
    await supervisor.close()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "large", "foreign"])
async def test_a_file_of_another_kind_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    path = tmp_path / "names.json"
    match kind:
        case "symlink":
            path.symlink_to("/etc/passwd")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "large":
            path.touch()
            os.truncate(path, 1 << 40)
        case _:
            path.write_text("{}")
            os.chown(path, 12345, 12345)
    supervisor = Supervisor(tmp_path)
    supervisor.start()
    assert not supervisor.store.names
    assert "names are learned again" in caplog.text
    await supervisor.close()


async def test_a_write_that_fails_is_a_problem_until_one_succeeds(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "names.json").mkdir()
    (tmp_path / "names.json" / "in the way").touch()
    supervisor.names.stood_down()
    supervisor.answer(ONE)
    await until(lambda: supervisor.names.file.problem is not None)
    (tmp_path / "names.json" / "in the way").unlink()
    (tmp_path / "names.json").rmdir()
    await until(lambda: supervisor.names.file.problem is None)
    assert b"203.0.113.1" in (tmp_path / "names.json").read_bytes()


async def test_a_file_that_another_program_removes_comes_back(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.names.stood_down()
    supervisor.answer(ONE)
    path = tmp_path / "names.json"
    await until(path.exists)
    path.unlink()
    await until(path.exists)
