"""Messages of the pool, over a real channel."""

import asyncio

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netpolq.ipc.channel import (
    Channel,
    Counters,
    Message,
    PeerGone,
    Refusal,
    Report,
    StoodDown,
    Taken,
    Welcome,
    encode,
)
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.pool_reader import PoolReader, receive_welcome
from netpolq.supervisor.publisher import Publisher
from netpolq.supervisor.rollout_events import Published
from netpolq.supervisor.snapshot_file import SnapshotFile
from tests.support.learned_names import learned_names
from tests.support.progress import progress_of

UNREADABLE = b"\xff"
WAITING = 2
"""The slot of the waiting process."""


def report(slot: int, version: int, *, pid: int = 1) -> Report:
    return Report(slot=slot, pid=pid, queue_num=100 + slot, acked_version=version, packets=0, restarts=0)


class Pool:
    """The pool's end of a channel, and the supervisor's reader at the other end."""

    def __init__(self, run_dir: Path) -> None:
        self._channel, self._end = Channel.pair()
        self.progress = progress_of(workers=3)
        self.snapshot_file = SnapshotFile(run_dir / "snapshot.bin")
        self.publisher = Publisher(self._channel, self.progress, self.snapshot_file, Changes())
        self.names = learned_names(self._channel, self.progress, run_dir)
        self.reader = PoolReader(
            self._channel, self.progress, self.publisher, None, self.names, None, Welcome(0, 3), worker_count=2
        )
        self.reader.attach(asyncio.get_running_loop())

    def send(self, *messages: Message | bytes) -> None:
        """Send messages, for which the event loop sees one event."""
        for message in messages:
            self._end.send(message if isinstance(message, bytes) else encode(message))
        self.reader._read(asyncio.get_running_loop())

    async def close(self) -> None:
        self._end.close()
        async with asyncio.timeout(5):
            await self.reader.pool_gone.wait()
        await self.snapshot_file.leave()
        self._channel.close()


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    await pool.close()


async def test_messages_behind_an_unreadable_one_are_read_at_once(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """The pool may be silent afterwards."""
    pool.send(report(0, 3), UNREADABLE, report(1, 2), report(WAITING, 2))
    assert pool.progress.rollout.acknowledged_version == 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["message ignored"]


async def test_a_report_of_a_slot_that_does_not_exist_is_ignored(pool: Pool) -> None:
    pool.send(report(0, 3), report(3, 1), report(1, 3), report(WAITING, 3))
    assert pool.progress.rollout.acknowledged_version == 3
    assert pool.reader.workers.keys() == {0, 1}


async def test_workers_are_missing_until_they_report_and_while_they_are_replaced(pool: Pool) -> None:
    assert pool.reader.missing_workers() == [0, 1]
    pool.send(report(1, 1))
    assert pool.reader.missing_workers() == [0]
    pool.send(report(0, 1), report(1, 0, pid=0))
    assert pool.reader.missing_workers() == [1]
    assert pool.progress.rollout.acknowledged_version == 0


async def test_the_waiting_process_has_the_last_slot_and_is_no_worker(pool: Pool) -> None:
    assert pool.reader.is_waiting_missing()
    pool.send(report(0, 1), report(1, 1))
    assert pool.progress.rollout.acknowledged_version == 0
    pool.send(report(WAITING, 1))
    assert not pool.reader.is_waiting_missing()
    assert pool.progress.rollout.acknowledged_version == 1
    assert pool.reader.workers.keys() == {0, 1}
    pool.send(report(WAITING, 0, pid=0))
    assert pool.reader.is_waiting_missing()
    assert pool.reader.missing_workers() == []


async def test_a_process_is_late_when_it_lacks_a_version_for_longer_than_the_limit(pool: Pool) -> None:
    pool.progress.send(Published(4, None))
    pool.send(report(0, 4), report(1, 4), report(WAITING, 3))
    assert pool.reader.late_workers(0.0) == []
    assert pool.reader.is_waiting_late(0.0)
    assert not pool.reader.is_waiting_late(1e9)
    pool.send(report(1, 3), report(WAITING, 4))
    assert pool.reader.late_workers(0.0) == [1]
    assert not pool.reader.is_waiting_late(0.0)


async def test_refusals_are_counted_and_one_by_the_pool_makes_the_next_snapshot_complete(pool: Pool) -> None:
    pool.progress.send(Published(4, None))
    pool.send(Refusal(0, 3, "no memory"))
    assert pool.reader.refusals == 1
    assert pool.progress.rollout.noticed_ns is None
    before = pool.progress.rollout
    pool.send(Taken(3, ""))
    assert pool.reader.refusals == 1
    assert pool.progress.rollout == before
    assert not before.next_is_complete
    pool.send(Taken(4, "checksum"))
    assert pool.reader.refusals == 2
    assert pool.progress.rollout.next_is_complete
    async with asyncio.timeout(10):
        await pool.progress.until(lambda rollout: rollout.noticed_ns is not None)


async def test_the_end_of_a_takeover_is_told_to_those_that_wait(pool: Pool) -> None:
    standing_down = asyncio.create_task(pool.publisher.stand_down())
    await asyncio.sleep(0)
    assert not standing_down.done()
    pool.send(StoodDown(), PeerGone())
    async with asyncio.timeout(5):
        await standing_down
    assert pool.reader.other_agent_left.is_set()
    assert pool.progress.rollout.connection_doubts == 1


async def test_counters_without_their_memory_are_ignored(pool: Pool) -> None:
    pool.send(Counters(1))
    assert pool.reader.memories == {}


async def test_the_first_message_is_the_welcome() -> None:
    channel, end = Channel.pair()
    with end:
        waiting = asyncio.create_task(receive_welcome(channel))
        await asyncio.sleep(0)
        end.send(encode(Welcome(7, 2)))
        end.send(encode(report(0, 7)))
        async with asyncio.timeout(5):
            assert await waiting == Welcome(7, 2)
        assert channel.receive() == (report(0, 7), None), "it is left to the reader"
        end.send(encode(report(0, 7)))
        with pytest.raises(ValueError, match="first message"):
            await receive_welcome(channel)
    async with asyncio.timeout(5):
        assert await receive_welcome(channel) is None
    channel.close()
