"""Forked children of the pool: each keeps the descriptors that it needs, and one end of a channel."""

import logging
import os
import signal
import socket

from collections.abc import Callable, Iterable

from netpolq.ipc.channel import Channel

_MAX_DESCRIPTOR = 0x7FFFFFFF
_STANDARD_STREAMS = (0, 1, 2)


def fork_child(name: str, kept: Iterable[int], run: Callable[[socket.socket], None]) -> tuple[int, Channel]:
    """Fork a child that calls `run` with its end of a channel. Returns its pid and our end. Raises `OSError` if the kernel refuses.

    `name`: of its logger. `kept`: the descriptors that the child keeps, beside standard streams and channel; negative ones count as none.
    It exits with 0 after `run`, or with 1 after an exception.
    """
    ours, theirs = Channel.pair()
    with theirs:
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            raise
        if pid == 0:
            # Leaves by `os._exit` only: the pool's objects must not be torn down a second time.
            status = 1
            try:
                # The pool handles signals to the whole process group: it drains its children. The inherited handlers only append to a
                # list, which a child never reads.
                signal.set_wakeup_fd(-1)
                _close_all_but({*_STANDARD_STREAMS, *kept, theirs.fileno()})
                run(theirs)
                status = 0
            except BaseException:
                logging.getLogger(name).exception("%s failed", name)
            finally:
                os._exit(status)
    return pid, ours


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for descriptor in sorted(kept):
        if descriptor > first:  # closerange(2) takes an empty range, or a negative end, for all descriptors
            os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _MAX_DESCRIPTOR)
