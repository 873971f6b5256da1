"""The sockets of a takeover: the agent lock, and a connection between two agents. They check the peer's user and pass descriptors."""

import contextlib
import os
import socket
import time

from netpolq.ipc import datagrams
from netpolq.ipc.peer_credentials import peer_credentials
from netpolq.ipc.takeover.messages import Message, Word, decode, encode, parse_queues

_NAME = "\0netpolq"
_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 64
_BACKLOG = 128
"""Connections that wait to be accepted; the kernel refuses further ones with EAGAIN (unix(7))."""

_POLL_S = 0.01


def acquire() -> socket.socket | None:
    """The lock of this network namespace, or None if another process holds it. Closing the socket releases the lock."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        lock.bind(_NAME)
    except OSError:
        lock.close()
        return None
    return _listening(lock)


def adopt(descriptor: int) -> socket.socket | None:
    """The lock that the previous agent has passed on; None for a descriptor that is no such socket, which is closed then."""
    try:
        lock = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    try:
        return _listening(lock)
    except OSError:
        lock.close()
        return None


def _listening(lock: socket.socket) -> socket.socket:
    # Also for a socket that listens already: a client reads the credentials of the last process that called listen(2) (unix(7)).
    lock.listen(_BACKLOG)
    lock.setblocking(False)
    return lock


class TakeoverConnection:
    """One end of a connection between two agents. `pid`: the peer process. `max_descriptors`: how many a message may carry, 0 or 1."""

    def __init__(self, end: socket.socket, *, max_descriptors: int = 0) -> None:
        self._socket = end
        self._max_descriptors = max_descriptors
        self._credentials = peer_credentials(end)
        self.pid = self._credentials.pid

    @classmethod
    def with_running_agent(cls, *, max_descriptors: int = 0) -> "TakeoverConnection | None":
        """A connection to the agent that serves this network namespace, or None without one.

        A process of another user that holds the name does not count: any process may bind an abstract name.
        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(_TIMEOUT_S)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                end.connect(_NAME)
                break
            except BlockingIOError:  # the agent listens, and its backlog is full
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                end.close()
                return None
            except OSError:
                end.close()
                return None
        connection = cls(end, max_descriptors=max_descriptors)
        if not connection.is_trusted:
            connection.close()
            return None
        return connection

    @property
    def is_trusted(self) -> bool:
        """Whether root or the same user runs the peer: abstract names have no permissions."""
        return self._credentials.is_trusted

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def set_timeout(self, timeout_s: float) -> None:
        """Set how long `receive` waits; 0: not at all."""
        self._socket.settimeout(timeout_s)

    def send(self, message: Message, *, lock: socket.socket | None = None) -> None:
        """Send a message, with an optional socket. Errors are ignored: `receive` finds a peer that is gone."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [encode(message)], [] if lock is None else [lock.fileno()])

    def receive(self) -> tuple[Message | None, int | None]:
        """The next message, None for an unknown one, and the descriptor that came with it, which the caller then owns.

        Raises `EOFError` when the peer is gone, and `TimeoutError` without a message in time.
        """
        try:
            data, descriptors = datagrams.receive(self._socket, _MAX_MESSAGE_BYTES, self._max_descriptors)
        except (BlockingIOError, TimeoutError) as error:
            raise TimeoutError from error
        except OSError as error:
            raise EOFError from error
        if not data and not descriptors:
            raise EOFError
        return decode(data), descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def running_agent() -> int | None:
    """Process id of the agent that serves this network namespace, or None without one."""
    connection = TakeoverConnection.with_running_agent()
    if connection is None:
        return None
    connection.close()
    return connection.pid


def queues_beside(wanted: range) -> range:
    """The queues of a replacement: the wanted ones, or as many others if the running agent serves some of the wanted ones."""
    taken = _queues_of_running_agent()
    if taken is None or wanted.stop <= taken.start or taken.stop <= wanted.start:
        return wanted
    count = len(wanted)
    first = taken.stop if taken.stop + count <= 1 << 16 else taken.start - count
    return range(first, first + count)


def _queues_of_running_agent() -> range | None:
    """None without an agent, or if it leaves or does not support takeover; a later step of the start reports that."""
    connection = TakeoverConnection.with_running_agent()
    if connection is None:
        return None
    try:
        message, _descriptor = connection.receive()
        return parse_queues(message.argument) if message is not None and message.word is Word.QUEUES else None
    except (EOFError, TimeoutError, ValueError):
        return None
    finally:
        connection.close()
