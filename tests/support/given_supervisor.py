"""A supervisor that a test plays: a real pool starts this program, `-m tests.support.given_supervisor`, and the test gets its channel.

The first argument is the path of a Unix socket, on which the test listens. The program ends when the test closes the
connection, or the pool the channel.
"""

import os
import select
import socket
import sys
import time

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from netpolq.ipc import counter_memory
from netpolq.ipc.channel import Channel, Counters, Heartbeat, Message
from netpolq.ipc.peer_credentials import peer_credentials

LIMIT_S = 20.0
_STEP_S = 0.005
Wanted = TypeVar("Wanted", bound=Message)


class GivenSupervisor:
    """The test's end. `messages`: all that the pool has sent so far."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.settimeout(LIMIT_S)
        self._connection: socket.socket | None = None
        self._channel: Channel | None = None
        self._memories: dict[int, int] = {}
        self.messages: list[Message] = []

    def accept(self) -> None:
        """Wait until the pool has started the program, and take its channel. What an earlier one had received is forgotten."""
        self._connection, _ = self._listener.accept()
        _data, (descriptor,), _flags, _address = socket.recv_fds(self._connection, 1, 1)
        self._channel = Channel(socket.socket(fileno=descriptor))
        self._close_memories()
        self.messages.clear()

    def send(self, message: Message, descriptors: Iterable[int] = ()) -> None:
        assert self._channel is not None
        assert self._channel.send(message, [*descriptors])

    def of_type(self, kind: type[Wanted]) -> list[Wanted]:
        """The messages of a type so far."""
        self._read()
        return [message for message in self.messages if isinstance(message, kind)]

    def _read(self) -> None:
        assert self._channel is not None
        self._channel.send(Heartbeat(0))
        with suppress(EOFError):
            while (received := self._channel.receive()) is not None:
                message, descriptor = received
                self.messages.append(message)
                if isinstance(message, Counters) and descriptor is not None:
                    self._memories[message.metrics_file_id] = descriptor

    def wait_until(self, what: str, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not reached():
            assert time.monotonic() < deadline, f"not reached: {what}; received {self.messages[-20:]}"
            time.sleep(_STEP_S)
            self._read()

    def metric(self, name: str, **labels: str) -> float:
        """The value of a counter in the metrics memories; 0 if there is none."""
        self._read()
        samples = (sample for metric in counter_memory.merge(self._memories) for sample in metric.samples)
        return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())

    def leave(self) -> None:
        """End the program, and wait until the pool has seen its end: what it sends before is lost with the channel."""
        if self._connection is not None and self._channel is not None:
            pid = peer_credentials(self._connection).pid
            self._channel.close()
            self._connection.close()
            self._connection = self._channel = None
            deadline = time.monotonic() + LIMIT_S
            while psutil.pid_exists(pid) and time.monotonic() < deadline:
                time.sleep(_STEP_S)

    def _close_memories(self) -> None:
        for descriptor in self._memories.values():
            os.close(descriptor)
        self._memories.clear()

    def close(self) -> None:
        self.leave()
        self._close_memories()
        self._listener.close()


def main() -> None:
    """Give the channel away, and wait until the test or the pool closes its end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [b"x"], [0])
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        poller.register(0, 0)  # only its end: the test reads the messages
        poller.poll()
    sys.exit(1)


if __name__ == "__main__":
    main()
