"""One NFQUEUE: socket, binding, verdict messages. The only module that uses the netfilterqueue library.

The pool binds a socket once, and every worker that serves the queue inherits it. Source: linux/netfilter/nfnetlink_queue.h.
"""

import contextlib
import os
import socket
import struct
import warnings

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import BinaryIO, cast

import netfilterqueue

from netpolq.enums import Verdict
from netpolq.errors import KernelError, PrivilegeError, QueueTakenError
from netpolq.netlink import queue_table
from netpolq.netlink.attributes import attribute
from netpolq.netlink.nfnetlink import NETLINK_NETFILTER, NLM_F_ACK, message, read_acknowledgements
from netpolq_worker.worker.packet import COPY_BYTES

_QUEUE_SUBSYSTEM = 3 << 8  # NFNL_SUBSYS_QUEUE
_MSG_VERDICT = _QUEUE_SUBSYSTEM | 1
_MSG_CONFIG = _QUEUE_SUBSYSTEM | 2
_MSG_VERDICT_BATCH = _QUEUE_SUBSYSTEM | 3
_NFQA_VERDICT_HDR = 2
_NFQA_MARK = 3
_NFQA_CFG_MASK = 4
_NFQA_CFG_FLAGS = 5
_CFG_F_FAIL_OPEN = 1
_CFG_F_GSO = 4
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5

QUEUE_PACKETS = 4096
"""Packets that may wait for a verdict. A longer queue would hold longer bursts, and no packet would be evaluated sooner: the last packet of
a full queue waits for all before it, some 20 ms of the work of one worker. docs/measurements/workers.md has the figures."""

RECEIVE_BUFFER_BYTES = QUEUE_PACKETS * 1280
"""Large enough that the buffer is never full before the queue is. The kernel doubles it, and charges 832 bytes for each message with up to
`COPY_BYTES` of a packet (6.18; other kernels round differently): room for three times as much. It is a limit, not allocated memory."""

_PACKED_MARK = struct.Struct("!I")
_PACKED_VERDICT = struct.Struct("!II")
_PACKED_ACCEPT = _PACKED_MARK.pack(Verdict.ACCEPT)
_NF_QUEUE = 3
_QUEUE_BYPASS = 0x8000
_MARK_ATTRIBUTE_HEAD = attribute(_NFQA_MARK, bytes(4))[:-4]

Packet = netfilterqueue.Packet
PacketHandler = Generator[int | None, netfilterqueue.Packet | None, None]
"""Receives packets, and None when no packet waits any more. Yields the verdict of each packet; None: no decision, or no packet."""


class Queue:
    """A bound queue. `packet_handler`: a started generator that receives each packet in order of arrival, and must not end."""

    def __init__(
        self,
        queue_num: int,
        packet_handler: PacketHandler,
        *,
        fail_open: bool,
        max_packets: int = QUEUE_PACKETS,
        copy_bytes: int = COPY_BYTES,
    ) -> None:
        """Bind. `copy_bytes`: of each packet, that the handler gets. Raises `QueueTakenError`, `PrivilegeError` or `KernelError`."""
        self.queue_num = queue_num
        self._packet_handler = packet_handler
        self._statistics: BinaryIO | None = None
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(
                f"netfilter's netlink socket is not available: {error.strerror}; load or build nfnetlink"
            ) from error
        self._bind(max_packets, copy_bytes)
        self._accept_head = _marked_verdict_head(queue_num, _MSG_VERDICT_BATCH) + _PACKED_ACCEPT
        self._verdict_head = _verdict_head(queue_num)
        self._marked_verdict_head = _marked_verdict_head(queue_num, _MSG_VERDICT)
        self._requeue_verdict = _NF_QUEUE | (_QUEUE_BYPASS if fail_open else 0)
        self._configure(_CFG_F_GSO | (_CFG_F_FAIL_OPEN if fail_open else 0))

    def _bind(self, max_packets: int, copy_bytes: int) -> None:
        if _queue_is_taken(self.queue_num):
            raise QueueTakenError(_taken(self.queue_num))
        try:
            # The library gets our unbound socket, so that this module can send verdict batches through it too.
            self._queue = netfilterqueue.NetfilterQueue(sockfd=self._netlink.fileno())
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the library warns if the receive buffer is smaller than requested
                self._queue.bind(
                    self.queue_num,
                    cast("Callable[[Packet], None]", self._packet_handler.send),  # the library ignores what it returns
                    max_len=max_packets,
                    range=copy_bytes,
                    sock_len=RECEIVE_BUFFER_BYTES,
                )
        except RuntimeWarning as error:
            raise PrivilegeError(f"queue {self.queue_num}: {error} Give the agent CAP_NET_ADMIN.") from error
        except OSError as error:
            if _queue_is_taken(self.queue_num):
                raise QueueTakenError(_taken(self.queue_num)) from error
            raise _bind_error(self.queue_num) from error
        # The kernel decides on packets for which there is no room, and counts them; an error from recv would add nothing.
        self._netlink.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)

    def _configure(self, flags: int) -> None:
        request = message(
            _MSG_CONFIG,
            attribute(_NFQA_CFG_MASK, _PACKED_MARK.pack(_CFG_F_GSO | _CFG_F_FAIL_OPEN)),
            attribute(_NFQA_CFG_FLAGS, _PACKED_MARK.pack(flags)),
            flags=NLM_F_ACK,
            sequence=1,
            resource_id=self.queue_num,
        )
        self._netlink.send(request)
        try:
            read_acknowledgements(self._netlink, {1})
        except OSError as error:
            raise KernelError(f"queue {self.queue_num}: the kernel refuses the GSO flag: {error.strerror}") from error

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that a worker of this queue must keep."""
        return self._netlink.fileno(), self._queue.get_fd()

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._netlink.fileno()

    def receive(self) -> None:
        """Pass every packet that waits in the socket to the packet handler; returns when there is none left."""
        self._queue.run(block=False)
        self._packet_handler.send(None)

    def has_waiting(self) -> bool:
        """Whether a packet waits in the socket."""
        try:
            return bool(self._netlink.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False

    def last_id(self) -> int:
        """Id of the last packet queued; 0 if there was none."""
        return self._counts()[1]

    def _counts(self) -> tuple[int, int]:
        """Number of packets that wait for a verdict, and number of packets queued so far."""
        if self._statistics is None:
            self.open_statistics()
        rows = queue_table.read_open(self._statistics) if self._statistics is not None else ()
        return next(((row.queue_total, row.id_sequence) for row in rows if row.queue_num == self.queue_num), (0, 0))

    def open_statistics(self) -> None:
        """Open the kernel's table of queues now: the sandbox does not allow the worker to open files."""
        with contextlib.suppress(OSError):
            self._statistics = queue_table.open_table()

    def verdict(self, packet_id: int, verdict: Verdict) -> None:
        """Answer one packet and leave its mark as it is."""
        # From the prepared head it takes 0.2 µs to build the message, from its parts 1.7 µs.
        self._send(self._verdict_head + _PACKED_VERDICT.pack(verdict, packet_id))

    def requeue(self, packet_id: int, queue_num: int, mark: int) -> None:
        """Move one packet to another queue, where it gets another id. `mark`: its whole new mark.

        The kernel drops it if that queue is full, unless that queue fails open, and if no process serves that queue, unless this one fails
        open. Source: NF_QUEUE and NF_VERDICT_FLAG_QUEUE_BYPASS in linux/netfilter.h.
        """
        self._send(
            self._marked_verdict_head
            + _PACKED_VERDICT.pack(self._requeue_verdict | queue_num << 16, packet_id)
            + _MARK_ATTRIBUTE_HEAD
            + _PACKED_MARK.pack(mark)
        )

    def accept(self, packet_id: int, mark: int) -> None:
        """Accept one packet. `mark`: its whole new mark."""
        self._send(
            self._marked_verdict_head
            + _PACKED_VERDICT.pack(Verdict.ACCEPT, packet_id)
            + _MARK_ATTRIBUTE_HEAD
            + _PACKED_MARK.pack(mark)
        )

    def dispose_up_to(self, packet_id: int, verdict: Verdict) -> int:
        """Answer every waiting packet with an id up to this one, and leave marks as they are. Returns the number of packets answered.

        The kernel's count of all packets so far excludes those that arrive meanwhile.
        """
        waiting, queued = self._counts()
        header = attribute(_NFQA_VERDICT_HDR, _PACKED_VERDICT.pack(verdict, packet_id))
        self._send(message(_MSG_VERDICT_BATCH, header, resource_id=self.queue_num))
        waiting_after, queued_after = self._counts()
        return max(0, waiting + queued_after - queued - waiting_after)

    def dispose(self, packet_ids: Iterable[int], verdict: Verdict) -> int:
        """Answer packets, if they wait, and leave marks as they are. Returns the number of packets answered."""
        waiting, queued = self._counts()
        for packet_id in packet_ids:
            self.verdict(packet_id, verdict)
        waiting_after, queued_after = self._counts()
        return max(0, waiting + queued_after - queued - waiting_after)

    def put_back_up_to(self, packet_id: int) -> None:
        """Queue every waiting packet with an id up to this one again, in this queue: it gets another id, and is delivered again."""
        header = attribute(_NFQA_VERDICT_HDR, _PACKED_VERDICT.pack(_NF_QUEUE | self.queue_num << 16, packet_id))
        self._send(message(_MSG_VERDICT_BATCH, header, resource_id=self.queue_num))

    def answer(self, dropped: Iterable[int], last_accepted: int, mark: int) -> None:
        """Drop packets, which keep their marks; then accept every packet that still waits with an id up to `last_accepted`, 0: none.

        `mark`: the whole new mark of the accepted ones. All messages are sent at once, and the kernel handles them in this order
        (netlink_rcv_skb in net/netlink/af_netlink.c), so no accept overtakes a drop.
        """
        # On the packet path too. Built from its parts, the message would take 2 µs.
        messages = [self._verdict_head + _PACKED_VERDICT.pack(Verdict.DROP, packet_id) for packet_id in dropped]
        if last_accepted:
            messages.append(self._accept_head + _PACKED_MARK.pack(last_accepted) + _MARK_ATTRIBUTE_HEAD + _PACKED_MARK.pack(mark))
        self._send(b"".join(messages))

    def _send(self, request: bytes) -> None:
        # If the packet is gone already, the kernel answers with an error message that the library skips. ENOBUFS is about receiving.
        try:
            self._netlink.send(request)
        except OSError:
            return

    def detach(self) -> None:
        """Close this process's descriptors of the queue, and leave it bound: other processes serve it."""
        for descriptor in {self._netlink.detach(), self._queue.get_fd()}:  # the library has its own copy
            os.close(descriptor)
        if self._statistics is not None:
            self._statistics.close()

    def close(self) -> None:
        """Unbind. Packets that still wait are dropped by the kernel, so drain first."""
        self._queue.unbind()
        self._netlink.close()


def _marked_verdict_head(queue_num: int, kind: int) -> bytes:
    """A verdict with a mark, on one packet or a batch, up to the verdict itself."""
    whole = message(
        kind,
        attribute(_NFQA_VERDICT_HDR, bytes(_PACKED_VERDICT.size)),
        attribute(_NFQA_MARK, bytes(4)),
        resource_id=queue_num,
    )
    return whole[: -4 - len(_MARK_ATTRIBUTE_HEAD) - _PACKED_VERDICT.size]


def _verdict_head(queue_num: int) -> bytes:
    """A verdict on one packet, up to the verdict itself."""
    whole = message(_MSG_VERDICT, attribute(_NFQA_VERDICT_HDR, bytes(_PACKED_VERDICT.size)), resource_id=queue_num)
    return whole[: -_PACKED_VERDICT.size]


def _queue_is_taken(queue_num: int) -> bool:
    try:
        return any(row.queue_num == queue_num for row in queue_table.read())
    except OSError:
        return False


def _taken(queue_num: int) -> str:
    return f"queue {queue_num} is taken by another program; choose other numbers with --nfqueue-id or --queue-balance"


def _bind_error(queue_num: int) -> PrivilegeError | KernelError:
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    if not effective >> 12 & 1:  # CAP_NET_ADMIN, linux/capability.h
        return PrivilegeError(f"binding queue {queue_num} needs CAP_NET_ADMIN; start the agent as root or grant it")
    return KernelError(f"binding queue {queue_num} failed: the kernel has no NFQUEUE; load or build nfnetlink_queue")
