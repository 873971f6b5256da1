"""Signals of the pool. The handlers only enqueue; the event loop wakes up, and the pool takes the signals from the queue."""

import contextlib
import signal
import socket

from functools import partial

from netpolq_worker.pool.event_loop import EventLoop

TERMINATION = frozenset((signal.SIGTERM, signal.SIGINT))


class SignalQueue:
    """The signals that have arrived and are not handled yet, the oldest first."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self._has_taken_termination = False
        self._wakeup: socket.socket | None = None

    def install(self, events: EventLoop) -> None:
        """Install the handlers. From now on, each signal wakes up the event loop."""
        wakeup_read, wakeup_write = socket.socketpair()
        for end in (wakeup_read, wakeup_write):
            end.setblocking(False)
        for number in (*TERMINATION, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self._pending.append(received))
        signal.set_wakeup_fd(wakeup_write.fileno(), warn_on_full_buffer=False)
        self._wakeup = wakeup_write  # the descriptor stays open as long as the socket exists
        events.watch(wakeup_read, partial(_drain, wakeup_read))

    def take(self) -> int | None:
        """Remove the oldest signal and return its number; None: there is none."""
        if not self._pending:
            return None
        number = self._pending.pop(0)
        self._has_taken_termination |= number in TERMINATION
        return number

    @property
    def has_termination(self) -> bool:
        """Whether a SIGTERM or SIGINT has ever arrived."""
        return self._has_taken_termination or not TERMINATION.isdisjoint(self._pending)


def _drain(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while end.recv(4096):
            pass
