"""Lines about denied packets (`--log-denied`), with a budget of their own: few for each pair of source and destination.

A pair gets `PAIR_BURST_LINES` at once and then one in `PAIR_INTERVAL_S`, so that one that never stops cannot hide others; all pairs
together are bounded, too. What is left out is counted, and told with the pair that most of it is about. Memory is bounded: of more pairs
than `MAX_PAIRS`, the ones that were denied longest ago are forgotten.
"""

import logging
import socket
import time

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from netpolq.enums import Verdict
from netpolq.logs import PACKET_LOG, TokenBucket
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.packet import parse
from netpolq_worker.worker.packet_log import describe, write_line

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
    """Source and destination of a connection, in its original direction, as packets have them; empty for a malformed packet."""

    source: bytes
    destination: bytes

    def __str__(self) -> str:
        return f"{_text(self.source)} -> {_text(self.destination)}" if self.source else "malformed packets"


class DeniedLog:
    """Lines about the denied packets of one queue. `clock`: seconds, monotonic."""

    def __init__(self, queue_num: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue_num = queue_num
        self._clock = clock
        self._all = TokenBucket(LINES_PER_S, BURST_LINES, clock)
        self._pairs: OrderedDict[Pair, TokenBucket] = OrderedDict()  # the one denied longest ago first
        self._left_out = 0
        self._left_out_pair: tuple[int, Pair | None] = (0, None)  # of those forgotten, the one with the most
        self._summary_due_s = 0.0

    def note(
        self,
        payload: bytes,
        view: SnapshotReader | None,
        verdict: Verdict | None,
        fail_verdict: Verdict,
        duration_ns: int,
        *,
        is_reply: bool,
    ) -> None:
        """Write a line about a packet that was dropped, if there may be one. `payload`: from the IP header on."""
        if self._admits(_pair(payload, is_reply=is_reply)):
            write_line(self._queue_num, describe(payload, view, is_reply=is_reply), verdict, fail_verdict, duration_ns)

    def _admits(self, pair: Pair) -> bool:
        bucket = self._pairs.get(pair)
        if bucket is None:
            bucket = self._pairs[pair] = TokenBucket(1 / PAIR_INTERVAL_S, PAIR_BURST_LINES, self._clock)
            if len(self._pairs) > MAX_PAIRS:
                forgotten, its = self._pairs.popitem(last=False)
                self._left_out_pair = max(self._left_out_pair, (its.refused, forgotten), key=lambda found: found[0])
        else:
            self._pairs.move_to_end(pair)
        if bucket.take():
            if self._all.take():
                return True
            bucket.refused += 1
        if not self._left_out:
            self._summary_due_s = self._clock() + SUMMARY_INTERVAL_S
        self._left_out += 1
        return False

    def tell_suppressed(self) -> None:
        """Say how many packets got no line, at most once in `SUMMARY_INTERVAL_S`. To be called a few times a second."""
        if not self._left_out or self._clock() < self._summary_due_s:
            return
        count, pair = max(
            self._left_out_pair, *((bucket.refused, pair) for pair, bucket in self._pairs.items()), key=lambda found: found[0]
        )
        fields = {"queue": self._queue_num, "suppressed": self._left_out, **_pair_fields(pair)}
        log.info("%d more denied packets, no line for each: %d of %s", self._left_out, count, pair, extra={"fields": fields})
        self._left_out, self._left_out_pair = 0, (0, None)
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
