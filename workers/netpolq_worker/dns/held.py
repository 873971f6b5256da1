"""The responses that wait until their addresses are in force, each at most `MAX_WAIT_NS`.

Packets of one TCP connection stay in order: those behind a waiting one wait too, among them copies of it, which the server sends because
the pod has acknowledged nothing. Each UDP datagram waits alone.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import NamedTuple

MAX_HELD = 1024
"""A quarter of the DNS queue's length, so that other packets find room in it."""
MAX_WAIT_NS = 1_000_000_000
"""A resolver library asks again after some seconds (resolv.conf(5): timeout); a TCP server repeats a segment after 0.2 s."""


class Move(NamedTuple):
    """An order to move a packet to a worker's queue. `mark`: its whole new mark."""

    packet_id: int
    queue_num: int
    mark: int


class _Held(NamedTuple):
    """A packet that waits. `number`: of the last answer in it; 0: none, it only waits behind another. `since_ns`: monotonic."""

    move: Move
    number: int
    since_ns: int


class Released(NamedTuple):
    """A packet that waits no more, and how long it did."""

    move: Move
    waited_ns: int


class HeldResponses:
    """Lanes of packets in order: a lane is a TCP connection or one datagram."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[_Held]] = {}
        self._waiting: OrderedDict[int, tuple[Hashable, int]] = OrderedDict()
        """Lane and deadline of each number. Both rise from one to the next."""
        self._packets = 0

    def __len__(self) -> int:
        return self._packets

    @property
    def is_full(self) -> bool:
        """Whether no other packet may be held."""
        return self._packets >= MAX_HELD

    @property
    def due_ns(self) -> int | None:
        """When the first packet has waited long enough; None if none waits."""
        return next(iter(self._waiting.values()))[1] if self._waiting else None

    @property
    def first_number(self) -> int:
        """The least number that a packet waits for. There must be one."""
        return next(iter(self._waiting))

    def is_waiting(self, lane: Hashable) -> bool:
        """Whether packets of a lane wait."""
        return lane in self._lanes

    def hold(self, lane: Hashable, move: Move, number: int, now_ns: int) -> None:
        """Hold a packet until its number is covered and all before it in the lane are gone. Each number is greater than the last one."""
        self._lanes.setdefault(lane, deque()).append(_Held(move, number, now_ns))
        self._packets += 1
        if number:
            self._waiting[number] = lane, now_ns + MAX_WAIT_NS

    def cover(self, number: int, now_ns: int) -> Iterator[Released]:
        """Release what waits for no greater number."""
        while self._waiting and self.first_number <= number:
            yield from self._release(self.first_number, now_ns)

    def release(self, number: int, now_ns: int) -> Iterator[Released]:
        """Release what waits for this number."""
        if number in self._waiting:
            yield from self._release(number, now_ns)

    def _release(self, number: int, now_ns: int) -> Iterator[Released]:
        lane, _due_ns = self._waiting.pop(number)
        packets = self._lanes[lane]
        while packets and packets[0].number not in self._waiting:
            held = packets.popleft()
            self._packets -= 1
            yield Released(held.move, now_ns - held.since_ns)
        if not packets:
            del self._lanes[lane]
