"""The messages of a command that runs in a container, without any I/O: bytes → lines of its output → its end.

Source: k8s.io/apimachinery/pkg/util/remotecommand: the first byte of a message is its channel. Standard output is 1, standard error 2, and
3 has a `Status` at the end. v5 adds 255, with which a client closes a channel; a server does not send it.
"""

from dataclasses import dataclass, field
from typing import Any

import orjson

from netpolq.errors import NetpolqError
from netpolq.logs import one_line
from netpolq.supervisor.status_client import MAX_LINE_BYTES

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_STDOUT, _STDERR, _ERROR = 1, 2, 3
_MAX_ERROR_LINES = 20
_MAX_REASON = 500


@dataclass(slots=True)
class ExecStream:
    """`is_complete`: the command has ended, with exit code 0. `failure`: why it has not, in one line, when it has ended otherwise."""

    is_complete: bool = False
    failure: str = ""
    _stdout: bytes = b""
    _stderr: bytes = b""
    _errors: list[str] = field(default_factory=list)

    def feed(self, message: bytes) -> tuple[list[bytes], list[str]]:
        """The whole lines of standard output and of standard error that a message completes. Raises `NetpolqError` for endless lines."""
        channel, data = message[:1], message[1:]
        if channel == bytes((_STDOUT,)):
            *lines, self._stdout = (self._stdout + data).split(b"\n")
            if len(self._stdout) > MAX_LINE_BYTES:
                raise NetpolqError(f"its output has a line of more than {MAX_LINE_BYTES} bytes")
            return lines, []
        if channel == bytes((_STDERR,)):
            *found, rest = (self._stderr + data).split(b"\n")
            self._stderr = rest[-_MAX_REASON:]
            texts = [one_line(line[:_MAX_REASON].decode(errors="replace")) for line in found]
            self._errors = [*self._errors, *texts][-_MAX_ERROR_LINES:]
            return [], texts
        if channel == bytes((_ERROR,)):
            self._end(data)
        return [], []

    def _end(self, data: bytes) -> None:
        try:
            status: Any = orjson.loads(data)
            state, message = status["status"], str(status.get("message", ""))
        except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
            self.failure = f"its end cannot be read: {one_line(data[:_MAX_REASON].decode(errors='replace'))}"
            return
        self.is_complete = state == "Success"
        if not self.is_complete:
            last = self._errors[-1].removeprefix("netpolq: error: ") if self._errors else ""
            self.failure = last or one_line(message[:_MAX_REASON]) or "the command failed"
