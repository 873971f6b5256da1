"""Sends DNS answers to an agent whose pool is `tests.support.answering_pool`, and receives what the supervisor sends to a DNS reader."""

import os
import socket
import sys
import time

from pathlib import Path
from types import TracebackType

from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box
from netpolq.addresses import format_address, parse_address
from netpolq.ipc.channel import Answer, AnswersInForce, Resolvers, decode, encode
from tests.support import answering_pool

_LIMIT_S = 10.0


def answering_agent(box: Box, folder: Path | None, *flags: str) -> Agent:
    """An agent that takes answers."""
    os.environ[answering_pool.SOCKET_VARIABLE] = str(box.directory / "answers")
    return Agent(box, folder, *flags, prefix=(sys.executable, answering_pool.__file__))


class DnsAnswers:
    """A sender. `resolvers`: the DNS servers that the supervisor trusts; None before the first message about them."""

    def __init__(self, box: Box) -> None:
        self._pool = str(box.directory / "answers")
        self._path = box.directory / "client"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._socket.settimeout(_LIMIT_S)
        self._number = time.monotonic_ns()
        self._in_force = 0
        self.resolvers: set[str] | None = None

    def __enter__(self) -> "DnsAnswers":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        self._socket.close()
        self._path.unlink()

    def send(self, pod: str, name: str, *addresses: str, ttl_s: int = 300) -> int:
        """Send an answer. Returns its number."""
        self._number += 1
        pairs = tuple((parse_address(address), ttl_s) for address in addresses)
        self._socket.sendto(encode(Answer(self._number, parse_address(pod), name, pairs)), self._pool)
        return self._number

    def receive(self) -> int:
        """Wait for a message. Returns the number up to which answers are in force."""
        match decode(self._socket.recv(65536)):
            case AnswersInForce(number):
                self._in_force = max(number, self._in_force)
            case Resolvers(addresses):
                self.resolvers = {format_address(address) for address in addresses}
            case message:
                raise AssertionError(f"unexpected message {message!r}")
        return self._in_force

    def learn(self, pod: str, name: str, *addresses: str, ttl_s: int = 300) -> None:
        """Send an answer, and wait until it is confirmed."""
        number = self.send(pod, name, *addresses, ttl_s=ttl_s)
        while self.receive() < number:
            pass

    def ask_for_resolvers(self) -> set[str]:
        """The DNS servers that the supervisor trusts at present, from the next message about them."""
        self._socket.sendto(b"", self._pool)
        return self._next_resolvers()

    def _next_resolvers(self) -> set[str]:
        before = self.resolvers
        while self.resolvers is before:
            self.receive()
        return self.resolvers or set()
