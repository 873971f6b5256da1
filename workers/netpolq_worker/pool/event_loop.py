"""The event loop of the pool: sockets, and the callbacks for when they are readable."""

import contextlib
import logging
import selectors
import socket

from collections.abc import Callable

from netpolq.ipc.channel import Channel, Message
from netpolq.ipc.takeover.connection import TakeoverConnection

log = logging.getLogger("pool")

Source = Channel | TakeoverConnection | socket.socket


class EventLoop:
    """Calls a callback for each readable socket."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, source: Source, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever the source is readable."""
        self._selector.register(source, selectors.EVENT_READ, on_readable)

    def unwatch(self, source: Source) -> None:
        """Stop watching."""
        with contextlib.suppress(KeyError):  # `read` stops watching a channel that has ended
            self._selector.unregister(source)

    def poll(self, timeout_s: float | None = None) -> None:
        """Wait until a source is readable or the time is over, and run the callbacks. `timeout_s` None: no limit."""
        for key, _events in self._selector.select(timeout_s):
            key.data()

    def read(self, channel: Channel, take: Callable[[Message, int | None], None]) -> None:
        """Pass each waiting message of a channel to `take`, with the descriptor that came with it."""
        try:
            while (received := channel.receive()) is not None:
                take(*received)
        except EOFError:
            self.unwatch(channel)  # the exit of the process is seen through SIGCHLD
        except ValueError as error:
            log.error("message ignored: %s", error)
