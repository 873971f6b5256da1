"""The packet loop of the waiting process. Not as fast as that of a worker: most packets here wait anyway."""

import time

from collections.abc import Callable

from netpolq_worker.waiting.process import WaitingProcess
from netpolq_worker.worker.nfqueue import PacketHandler

_HOUSEKEEPING_NS = 1_000_000


def hold_packets(get_context: Callable[[], WaitingProcess | None]) -> PacketHandler:
    """Pass each packet that is sent to the generator to the waiting process. `get_context` returns None until it serves the queue."""
    packet = yield None
    while (context := get_context()) is None:
        packet = yield None
    next_housekeeping_ns = 0
    while True:
        verdict = None if packet is None else context.take(packet)
        now_ns = time.monotonic_ns()
        if packet is None or context.message_waits or now_ns >= next_housekeeping_ns:
            context.housekeeping(now_ns)
            next_housekeeping_ns = now_ns + _HOUSEKEEPING_NS
        packet = yield verdict
