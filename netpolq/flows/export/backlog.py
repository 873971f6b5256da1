"""Records that wait for their export, in batches. Their number is bounded: the oldest that are not being sent give way."""

import asyncio

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from netpolq.flows.record import FlowRecord


class Batch(NamedTuple):
    """Records that are exported together. `first`: number of the first one, counted from the start of the process."""

    first: int
    records: list[FlowRecord]


class Backlog:
    """Batches in the order in which they came. Not for several threads.

    `capacity`: maximum number of records, with those that are being sent. `batch_size`: maximum number in a batch; 0: what is added
    together is one batch. `dropped`: records that gave way.
    """

    def __init__(self, capacity: int, batch_size: int = 0) -> None:
        self._capacity = capacity
        self._batch_size = batch_size
        self._batches: deque[Batch] = deque()
        self._head: Batch | None = None
        self._added = 0
        self._filled = asyncio.Event()
        self.waiting = 0
        self.dropped = 0

    def add(self, records: Sequence[FlowRecord]) -> None:
        """Add records, and drop the oldest ones for which there is no room."""
        size = self._batch_size or len(records)
        for start in range(0, len(records), max(size, 1)):
            part = list(records[start : start + size])
            self._batches.append(Batch(self._added, part))
            self._added += len(part)
            self.waiting += len(part)
        self._drop_oldest()
        if self._batches:
            self._filled.set()

    async def filled(self) -> None:
        """Wait until there is a batch."""
        await self._filled.wait()

    def head(self) -> Batch | None:
        """The oldest batch, which stays until it is done; None if nothing waits."""
        if self._head is None and self._batches:
            self._head = self._batches.popleft()
        return self._head

    def done(self) -> None:
        """Remove the batch that `head` gave."""
        if self._head is not None:
            self.waiting -= len(self._head.records)
            self._head = None
        if not self._batches:
            self._filled.clear()

    def split(self) -> None:
        """Replace the batch that `head` gave by its halves."""
        if self._head is not None:
            first, records = self._head
            middle = len(records) // 2
            self._batches.appendleft(Batch(first + middle, records[middle:]))
            self._head = Batch(first, records[:middle])

    def _drop_oldest(self) -> None:
        while (excess := self.waiting - self._capacity) > 0 and self._batches:
            first, records = self._batches.popleft()
            gone = min(excess, len(records))
            if gone < len(records):
                self._batches.appendleft(Batch(first + gone, records[gone:]))
            self.waiting -= gone
            self.dropped += gone
