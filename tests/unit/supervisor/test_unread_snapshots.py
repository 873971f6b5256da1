"""Snapshots on their way to a process that does not read: few, and what it missed is made up for."""

import asyncio
import os

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from netpolq.enums import Protocol
from netpolq.ipc.channel import MAX_UNREAD, Channel, Heartbeat, Message, Publish, Taken, Welcome
from netpolq.snapshot import memfd
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.ir import CompiledDelta
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.pool_reader import PoolReader
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout_events import CompileStarted, Noticed, Refused
from netpolq.supervisor.snapshot_file import SnapshotFile
from netpolq_worker.pool.spawn import SnapshotHandle, WorkerProcess
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.snapshot_loader import SnapshotLoader
from tests.support.compiled import encode
from tests.support.learned_names import learned_names
from tests.support.progress import progress_of

KEY = bytes(16)


def sealed(version: int) -> int:
    return memfd.seal(encode(CompiledDelta(), version=version))


def received(channel: Channel) -> list[Message]:
    """All that waits in a channel. What came along is closed."""
    found = []
    while (one := channel.receive()) is not None:
        message, descriptor = one
        found.append(message)
        if descriptor is not None:
            os.close(descriptor)
    return found


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_a_worker_that_stands_still_is_sent_a_few_and_then_the_newest_as_a_whole(ends: tuple[Channel, Channel]) -> None:
    """Each one that waits keeps all of its memory: a hundred of a large cluster were more than half a gigabyte."""
    worker = WorkerProcess(pid=1, metrics_file_id=0, channel=ends[0])
    for version in range(1, 101):
        descriptor = sealed(version)
        worker.publish(SnapshotHandle(version, descriptor), (KEY,))
        os.close(descriptor)
    assert received(ends[1]) == [Publish(version, (KEY,)) for version in range(1, MAX_UNREAD + 1)]
    assert worker.behind
    worker.has_read(MAX_UNREAD)
    descriptor = sealed(100)
    worker.publish(SnapshotHandle(100, descriptor), None)
    os.close(descriptor)
    assert received(ends[1]) == [Publish(100, None)]
    assert not worker.behind


class Supervisor:
    """Publisher and pool reader on a channel, with an empty snapshot builder."""

    def __init__(self, channel: Channel) -> None:
        self.progress = progress_of()
        self.snapshot_file = SnapshotFile(Path("/nonexistent/snapshot.bin"))
        self.publisher = Publisher(channel, self.progress, self.snapshot_file, Changes())
        names = learned_names(channel, self.progress, Path("/nonexistent"))
        self.pool = PoolReader(channel, self.progress, self.publisher, None, names, None, Welcome(0, 0), worker_count=1)
        self.pool.attach(asyncio.get_running_loop())
        self._builder = SnapshotBuilder()

    def publish(self) -> int:
        return self.publisher.publish(self._builder, set())


@pytest.fixture
async def supervisor(ends: tuple[Channel, Channel]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(ends[0])
    yield supervisor
    await supervisor.snapshot_file.leave()
    asyncio.get_running_loop().remove_reader(ends[0].fileno())


async def test_a_supervisor_waits_for_a_pool_that_stands_still(ends: tuple[Channel, Channel], supervisor: Supervisor) -> None:
    for _ in range(MAX_UNREAD):
        await supervisor.publisher.room()
        supervisor.progress.send(Refused())  # the store is the same each time, and would need no snapshot
        supervisor.publish()
    assert [type(message) for message in received(ends[1])] == [Publish] * MAX_UNREAD
    waiting = asyncio.create_task(supervisor.publisher.room())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    ends[1].send(Taken(1, ""))
    async with asyncio.timeout(5):
        await waiting


async def test_what_the_pool_refuses_is_published_again_as_a_whole(ends: tuple[Channel, Channel], supervisor: Supervisor) -> None:
    """Otherwise the next change would come into force on top of one that no worker ever had."""
    supervisor.publish()
    assert supervisor.publish() == 1, "nothing has changed"
    ends[1].send(Taken(1, "it came without its descriptor"))
    async with asyncio.timeout(10):
        await supervisor.progress.until(lambda rollout: rollout.noticed_ns is not None)
    assert supervisor.publish() == 2
    assert received(ends[1])[-1] == Publish(2, None)


async def test_the_changes_of_a_snapshot_that_cannot_be_sent_are_compiled_again(
    ends: tuple[Channel, Channel], supervisor: Supervisor
) -> None:
    supervisor.progress.send(Noticed(7))
    supervisor.progress.send(CompileStarted())
    ends[1].close()
    with pytest.raises(ConnectionError):
        supervisor.publish()
    assert supervisor.progress.rollout.noticed_ns == 7
    assert supervisor.progress.rollout.version == 0


@pytest.mark.parametrize("missed", ["without its descriptor", "not at all"])
def test_a_worker_forgets_everything_when_it_missed_a_version(ends: tuple[Channel, Channel], missed: str) -> None:
    """The next version says what it changes, not what the missed one did: a verdict from before must not outlive both."""
    flow_cache = FlowCache(with_hints=False)
    loader = SnapshotLoader(flow_cache, ends[0])
    assert loader.load(1, None, sealed(1))
    for _time in range(2):
        flow_cache.answer((bytes(4), bytes(4), Protocol.TCP, 80))
    assert len(flow_cache) == 1
    assert loader.load(2, (KEY,), sealed(2))
    assert len(flow_cache) == 1, "what a change does not concern stays"
    if missed == "without its descriptor":
        assert not loader.load(3, (KEY,), None)
        assert len(flow_cache) == 1
    assert loader.load(4, (KEY,), sealed(4))
    assert len(flow_cache) == 0


def test_signs_of_life_say_what_was_read(ends: tuple[Channel, Channel]) -> None:
    ends[0].send(Heartbeat(7))
    assert received(ends[1]) == [Heartbeat(7)]
