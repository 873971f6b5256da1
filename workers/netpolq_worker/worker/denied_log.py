"""The log of packets that are denied, or would be by policies in audit (`--log-denied`), with a limit for each pair of ends.

A pair gets `PAIR_BURST_LINES` at once and then one line every `PAIR_INTERVAL_S`, so that a persistent pair cannot hide others. There is a
limit for all pairs together, too. Packets without a line are counted, and logged with the pair that has the most of them. Memory is
bounded: of more than `MAX_PAIRS` pairs, those denied longest ago are forgotten.
"""

import logging
import socket
import time

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from netpolq.logs import PACKET_LOG, TokenBucket
from netpolq_worker.worker.packet import parse
from netpolq_worker.worker.packet_log import Outcome, write_line

PAIR_BURST_LINES = 5
PAIR_INTERVAL_S = 10.0
MAX_PAIRS = 4096
"""About 300 bytes each."""

LINES_PER_S = 50
BURST_LINES = 200
"""Of all pairs of one queue."""

SUMMARY_INTERVAL_S = 10.0

log = logging.getLogger(PACKET_LOG)


class Pair(NamedTuple):
    """Source and destination of a connection in its original direction, 4 or 16 bytes each; empty for a malformed packet."""

    source: bytes
    destination: bytes

    def __str__(self) -> str:
        return f"{_text(self.source)} -> {_text(self.destination)}" if self.source else "malformed packets"


class DeniedLog:
    """Logs the denied packets of one queue. `clock`: seconds, monotonic."""

    def __init__(self, queue_num: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue_num = queue_num
        self._clock = clock
        self._all = TokenBucket(LINES_PER_S, BURST_LINES, clock)
        self._pairs: OrderedDict[Pair, TokenBucket] = OrderedDict()  # the pair denied longest ago first
        self._suppressed = 0
        self._most_suppressed: tuple[int, Pair | None] = (0, None)  # of the forgotten pairs, the one with the most
        self._summary_due_s = 0.0

    def record(self, payload: bytes, outcome: Outcome, duration_ns: int, *, is_reply: bool) -> None:
        """Log a packet, unless a limit forbids it. `payload`: from the IP header on."""
        if self._admits(_pair(payload, is_reply=is_reply)):
            write_line(self._queue_num, payload, outcome, duration_ns, is_reply=is_reply)

    def _admits(self, pair: Pair) -> bool:
        bucket = self._pairs.get(pair)
        if bucket is None:
            bucket = self._pairs[pair] = TokenBucket(1 / PAIR_INTERVAL_S, PAIR_BURST_LINES, self._clock)
            if len(self._pairs) > MAX_PAIRS:
                forgotten, forgotten_bucket = self._pairs.popitem(last=False)
                self._most_suppressed = max(
                    self._most_suppressed, (forgotten_bucket.refused, forgotten), key=lambda found: found[0]
                )
        else:
            self._pairs.move_to_end(pair)
        if bucket.take():
            if self._all.take():
                return True
            bucket.refused += 1
        if not self._suppressed:
            self._summary_due_s = self._clock() + SUMMARY_INTERVAL_S
        self._suppressed += 1
        return False

    def log_suppressed(self) -> None:
        """Log how many packets got no line, at most once every `SUMMARY_INTERVAL_S`. Call it a few times a second."""
        if not self._suppressed or self._clock() < self._summary_due_s:
            return
        count, pair = max(
            self._most_suppressed, *((bucket.refused, pair) for pair, bucket in self._pairs.items()), key=lambda found: found[0]
        )
        fields = {"queue": self._queue_num, "suppressed": self._suppressed, **_pair_fields(pair)}
        log.info("%d more denied packets not logged: %d of %s", self._suppressed, count, pair, extra={"fields": fields})
        self._suppressed, self._most_suppressed = 0, (0, None)
        for bucket in self._pairs.values():
            bucket.refused = 0


def _pair(payload: bytes, *, is_reply: bool) -> Pair:
    flow = parse(payload)
    if flow is None:
        return Pair(b"", b"")
    source, destination = flow[:2]
    return Pair(destination, source) if is_reply else Pair(source, destination)


def _pair_fields(pair: Pair | None) -> dict[str, str | None]:
    ends = (None, None) if pair is None or not pair.source else (_text(pair.source), _text(pair.destination))
    return dict(zip(("source_ip", "destination_ip"), ends, strict=True))


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
