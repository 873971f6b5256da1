"""The kernel's table of queues: what it counts for each bound NFQUEUE.

Source: seq_show and __nfqnl_enqueue_packet in net/netfilter/nfnetlink_queue.c.
"""

from pathlib import Path
from typing import BinaryIO, NamedTuple

NFNETLINK_QUEUE = Path("/proc/net/netfilter/nfnetlink_queue")


class QueueStats(NamedTuple):
    """One row of the table. Counters start at zero when the queue is bound and wrap at 2**32.

    `peer_portid`: netlink port of the socket that is bound; `queue_total`: packets waiting for a verdict now; `copy_mode`,
    `copy_range`: how much of a packet is copied; `queue_dropped`: packets dropped because the queue was full; `user_dropped`: because
    the socket's buffer was (a queue that fails open counts neither); `id_sequence`: id of the last packet queued, 0 if there was none.
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
    """
    try:
        with open_table(path) as table:
            return read_open(table)
    except FileNotFoundError:
        return ()


def open_table(path: Path = NFNETLINK_QUEUE) -> BinaryIO:
    """The open table, for a process that may not open it later. Raises `OSError`."""
    return path.open("rb", buffering=0)


def read_open(table: BinaryIO) -> tuple[QueueStats, ...]:
    """All queues in the table at this moment, by number. Ignores the columns that newer kernels append. Raises `OSError`."""
    table.seek(0)  # makes the kernel write the table again
    width = len(QueueStats._fields)
    rows = (line.split()[:width] for line in table.read().splitlines())
    return tuple(sorted(QueueStats(*map(int, row)) for row in rows if len(row) == width))
