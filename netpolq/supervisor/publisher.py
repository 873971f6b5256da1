"""Publisher of snapshots: seals and sends them to the pool, and keeps a copy for the next start."""

import asyncio
import os
import time

from collections.abc import Collection, Mapping, Set
from contextlib import suppress
from types import MappingProxyType

from netpolq.addresses import AddressKey
from netpolq.ipc.channel import MAX_CHANGED, MAX_UNREAD, Channel, Heartbeat, Publish, StandDown
from netpolq.snapshot import memfd
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.supervisor.change_summary import Changes
from netpolq.supervisor.progress import Progress
from netpolq.supervisor.rollout_events import Published, Refused
from netpolq.supervisor.snapshot_file import SnapshotFile

_RETRY_S = 1.0
_HEARTBEAT_S = 1.0


class Publisher:
    """Publishes snapshots, and talks to the pool about them.

    `changes`: summary of the changes that the next snapshot has. `newest_descriptor`: memfd of the last snapshot sent, or None.
    `newest_former`: see `Compiler.former`, of the same state. `published`: number of snapshots sent; `published_ns`: monotonic time of the
    last one, `snapshot_bytes`: its size.
    """

    def __init__(self, channel: Channel, progress: Progress, snapshot_file: SnapshotFile, changes: Changes) -> None:
        self._channel = channel
        self._progress = progress
        self._snapshot_file = snapshot_file
        self._changes = changes
        self._stood_down = asyncio.Event()
        self._unread: list[int] = []
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.newest_descriptor: int | None = None
        self.newest_former: Mapping[AddressKey, frozenset[int]] = {}
        self.published = 0
        self.snapshot_bytes = 0
        self.published_ns = 0

    def taken(self, version: int) -> None:
        """The pool, or a worker, has read this version."""
        self._unread = [sent for sent in self._unread if sent > version]
        if len(self._unread) < MAX_UNREAD:
            self._has_room.set()

    async def room(self) -> None:
        """Wait until the pool has read all but a few snapshots: each unread one stays in memory as a whole."""
        await self._has_room.wait()

    def publish(
        self,
        builder: SnapshotBuilder,
        changed: Collection[bytes],
        *,
        renamed: Set[bytes] = frozenset(),
        former: Mapping[AddressKey, frozenset[int]] = MappingProxyType({}),
    ) -> int:
        """Send a snapshot to every worker, unless nothing has changed. Returns its version.

        `changed`: addresses whose flows it may evaluate differently than the previous one. `renamed`, `former`: see `Compiler`. Raises
        `ConnectionError`.
        """
        rollout = self._progress.rollout
        if not rollout.next_is_complete and not builder.is_touched:
            self.newest_former = former
            self._progress.send(Published(rollout.version, (), self._changes.take()))
            return rollout.version
        is_partial = not rollout.next_is_complete and len(changed) <= MAX_CHANGED
        announced = tuple(sorted(changed)) if is_partial else None
        version = rollout.version + 1
        descriptor = memfd.seal(*builder.pieces(version=version, created_ns=time.time_ns()))
        self._snapshot_file.outdate()
        if not self._channel.send(Publish(version, announced), [descriptor]):
            os.close(descriptor)
            self._progress.send(Refused())  # the changed addresses are lost
            raise ConnectionError("the pool does not accept the snapshot")
        self._unread.append(version)
        if len(self._unread) >= MAX_UNREAD:
            self._has_room.clear()
        self.published += 1
        self.snapshot_bytes = os.fstat(descriptor).st_size
        self.published_ns = time.monotonic_ns()
        self._keep(descriptor)
        self.newest_former = former
        self._progress.send(Published(version, announced, self._changes.take(), renamed))
        return version

    def _keep(self, descriptor: int) -> None:
        """Keep the newest snapshot in memory, and as the file."""
        if self.newest_descriptor is not None:
            os.close(self.newest_descriptor)
        self.newest_descriptor = descriptor
        self._snapshot_file.keep(descriptor)

    async def stand_down(self) -> None:
        """Wait until no other agent changes the ruleset. Returns at once unless there is a takeover."""
        while not self._stood_down.is_set():
            self._channel.send(StandDown())
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._stood_down.wait()

    def stood_down(self) -> None:
        """No other agent changes the ruleset, or writes the file of the snapshot."""
        self._stood_down.set()
        self._snapshot_file.begin()


async def send_heartbeats(channel: Channel, progress: Progress) -> None:
    """Send the pool a heartbeat every second, which shows that the event loop runs. Runs until cancelled."""
    while True:
        channel.send(Heartbeat(progress.rollout.version))
        await asyncio.sleep(_HEARTBEAT_S)
