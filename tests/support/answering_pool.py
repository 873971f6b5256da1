"""The agent with a pool that takes DNS answers from a Unix socket, in place of the DNS reader.

A program, for `Agent(prefix=...)`: its arguments are the command line of the agent. A datagram is a message of the channel: an `Answer`
goes to the supervisor, `AnswersInForce` and `Resolvers` go back to the last sender. An empty datagram asks for the last `Resolvers`.
"""

import os
import socket
import sys

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from netpolq.ipc.channel import Answer, AnswersInForce, Message, Resolvers, decode, encode

SOCKET_VARIABLE = "ANSWERS_SOCKET"
_POOL = "pool"


def _run_agent(argv: Sequence[str]) -> int:
    from netpolq import cli  # noqa: PLC0415  # the pool does not import it

    execve = os.execve

    def exec_pool(path: str, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
        execve(path, [path, __file__, _POOL, command[-1]], environment)

    os.execve = exec_pool  # type: ignore[assignment]
    return cli.main(argv)


def _run_pool(document: str) -> int:
    from netpolq_worker import __main__ as program  # noqa: PLC0415

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = "/nonexistent"  # as `program` does before it imports the pool
    from netpolq_worker.pool import main  # noqa: PLC0415

    class AnsweringPool(main.Pool):
        """The pool, and its socket."""

        def run(self) -> int:
            path = Path(os.environ[SOCKET_VARIABLE])
            path.unlink(missing_ok=True)
            self._reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._reader.bind(str(path))
            self._client = ""
            self._resolvers: Message = Resolvers(())
            self._events.watch(self._reader, self._on_datagram)
            return super().run()

        def _on_datagram(self) -> None:
            with suppress(BlockingIOError):
                while True:
                    data, client = self._reader.recvfrom(65536)
                    self._client = client
                    if data:
                        self._take(decode(data))
                    else:
                        self._to_client(self._resolvers)

        def _take(self, message: Message) -> None:
            if isinstance(message, Answer):
                self._outbox.answer(message)
            else:
                self._supervisor.send(message)

        def _to_client(self, message: Message) -> None:
            if self._client:
                with suppress(OSError):
                    self._reader.sendto(encode(message), self._client)

        def _on_supervisor_message(self, message: Message, descriptor: int | None) -> None:
            match message:
                case Resolvers():
                    self._resolvers = message
                    self._to_client(message)
                case AnswersInForce():
                    self._to_client(message)
                case _:
                    super()._on_supervisor_message(message, descriptor)

    main.Pool = AnsweringPool  # type: ignore[misc]
    return program.main([document])


if __name__ == "__main__":
    if sys.argv[1] == _POOL:
        sys.exit(_run_pool(sys.argv[2]))
    sys.exit(_run_agent(sys.argv[sys.argv.index("netpolq") + 1 :]))
