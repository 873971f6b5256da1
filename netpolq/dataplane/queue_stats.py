"""What the kernel counts for each bound queue."""

from pathlib import Path
from typing import NamedTuple

NFNETLINK_QUEUE = Path("/proc/net/netfilter/nfnetlink_queue")


class QueueStats(NamedTuple):
    """One line of the kernel's table. Counters start at zero when the queue is bound and wrap at 2**32.

    `peer_portid`: netlink port of the socket that is bound; `queue_total`: packets waiting for a verdict now; `copy_mode`,
    `copy_range`: how much of a packet is copied; `queue_dropped`: packets dropped because the queue was full; `user_dropped`: because
    the socket's buffer was (a queue that fails open counts neither); `id_sequence`: id of the last packet queued. Source: seq_show and
    __nfqnl_enqueue_packet in net/netfilter/nfnetlink_queue.c.
    """

    queue_num: int
    peer_portid: int
    queue_total: int
    copy_mode: int
    copy_range: int
    queue_dropped: int
    user_dropped: int
    id_sequence: int


def read(path: Path = NFNETLINK_QUEUE) -> tuple[QueueStats, ...]:
    """All queues bound in this network namespace, by number; none if the kernel has not loaded nfnetlink_queue.

    Raises `PermissionError` for another user than root: the file is root's alone, and CAP_NET_ADMIN does not open it.
    Columns that newer kernels append are ignored.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return ()
    width = len(QueueStats._fields)
    rows = (line.split()[:width] for line in text.splitlines())
    return tuple(sorted(QueueStats(*map(int, row)) for row in rows if len(row) == width))
