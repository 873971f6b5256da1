"""What the pool listens to, and what it has called when there is something to read."""

import contextlib
import logging
import selectors
import socket

from collections.abc import Callable

from netpolq.ipc.channel import Channel, Message
from netpolq.ipc.takeover import TakeoverConnection

log = logging.getLogger("pool")

Source = Channel | TakeoverConnection | socket.socket


class EventLoop:
    """Sockets, each with what is called when it can be read."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, source: Source, on_readable: Callable[[], None]) -> None:
        """Have something called whenever there is something to read."""
        self._selector.register(source, selectors.EVENT_READ, on_readable)

    def unwatch(self, source: Source) -> None:
        """Not any more."""
        with contextlib.suppress(KeyError):  # whose end was seen before is not watched any more
            self._selector.unregister(source)

    def listen(self, limit_s: float | None = None) -> None:
        """Wait until something can be read, and have it read."""
        for key, _events in self._selector.select(limit_s):
            key.data()

    def read(self, channel: Channel, take: Callable[[Message, int | None], None]) -> None:
        """Give away all messages of a channel, with their descriptors, if there are any."""
        try:
            while (received := channel.receive()) is not None:
                take(*received)
        except EOFError:
            self.unwatch(channel)  # the rest is told by SIGCHLD
        except ValueError as error:
            log.error("message ignored: %s", error)
