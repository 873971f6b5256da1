"""Lines of several agents, kept in a temporary file until all have answered, and then merged by time."""

import heapq
import os
import tempfile

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import orjson

_BLOCK_BYTES = 1 << 14


class Spool:
    """A context manager. Each agent's lines must come in the order of their windows, as agents serve them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._size = 0
        self._blocks: dict[str, list[tuple[int, int]]] = {}
        self._open: dict[str, list[bytes]] = {}
        self._open_bytes: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def add(self, origin: str, line: bytes) -> None:
        """Keep a line of an agent."""
        self._open.setdefault(origin, []).append(line)
        self._open_bytes[origin] = self._open_bytes.get(origin, 0) + len(line) + 1
        if self._open_bytes[origin] >= _BLOCK_BYTES:
            self.flush(origin)

    def flush(self, origin: str) -> None:
        """Write what is kept of an agent. Call it when it has answered."""
        block = b"".join(line + b"\n" for line in self._open.pop(origin, ()))
        self._open_bytes.pop(origin, None)
        if block:
            os.pwrite(self._file.fileno(), block, self._size)
            self._blocks.setdefault(origin, []).append((self._size, len(block)))
            self._size += len(block)

    def merged(self) -> Iterator[bytes]:
        """All lines, by the start of their windows."""
        for origin in list(self._open):
            self.flush(origin)
        for _start, _number, line in heapq.merge(*map(self._lines, range(len(self._blocks)), list(self._blocks))):
            yield line

    def _lines(self, number: int, origin: str) -> Iterator[tuple[str, int, bytes]]:
        for start, length in self._blocks[origin]:
            for line in os.pread(self._file.fileno(), length, start).splitlines():
                yield window_start(line), number, line


def window_start(line: bytes) -> str:
    """The start of a record's window, which sorts as text. Raises `ValueError`."""
    try:
        return str(orjson.loads(line)["window_start"])
    except (KeyError, TypeError) as error:
        raise ValueError("a record without the field window_start") from error
