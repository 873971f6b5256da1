"""One end of a channel between two processes of the agent."""

import array
import os
import socket

from collections.abc import Sequence

from netpolq.ipc import datagrams
from netpolq.ipc.channel.encoding import MAX_MESSAGE_BYTES, decode, encode
from netpolq.ipc.channel.messages import Message


class Channel:
    """One end of a channel. Never blocks in `receive` and `send`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    @classmethod
    def pair(cls) -> tuple["Channel", socket.socket]:
        """A connected pair: our end, and a plain inheritable socket for the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message. Returns False if nothing was sent: the peer is gone or does not read, or the kernel
        has no memory, or too many descriptors in flight (ETOOMANYREFS in unix(7)).
        """
        try:
            if descriptors:
                self._socket.sendmsg([encode(message)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
            else:
                self._socket.send(encode(message))  # workers may not call sendmsg(2)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, int | None] | None:
        """The next message and the descriptor sent with it, which the caller then owns, or None without a message.

        If the process has no free descriptor, the message arrives without its descriptor (MSG_CTRUNC in recvmsg(2)).

        Raises `EOFError` when the peer is gone and `ValueError` for a message that cannot be read.
        """
        try:
            data, descriptors = datagrams.receive(self._socket, MAX_MESSAGE_BYTES, 1)
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        try:
            return decode(data), descriptors[0] if descriptors else None
        except ValueError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def close(self) -> None:
        """Close this end; the peer's `receive` then raises `EOFError`."""
        self._socket.close()
