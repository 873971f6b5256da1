"""HTTP client of the Unix socket in the run directory."""

import http.client
import socket

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from netpolq.errors import NetpolqError, PrivilegeError
from netpolq.ipc.run_dir import STATUS_SOCKET
from netpolq.logs import one_line
from netpolq.supervisor import names_report, objects_report, pods_report
from netpolq.supervisor.names_report import NAMES_PATH, LearnedName
from netpolq.supervisor.objects_report import END, OBJECTS_PATH, Objects
from netpolq.supervisor.pods_report import PODS_PATH, LocalPods
from netpolq.supervisor.status import STATUS_PATH, Status, decode

_TIMEOUT_S = 5.0
_MAX_ERROR_BYTES = 200
_PORTION_BYTES = 1 << 16

MAX_LINE_BYTES = 1 << 24
"""Of an answer in lines. A record has some 500 bytes, and more with many labels and isolating policies."""

Document = TypeVar("Document")


class NoAgentError(NetpolqError):
    """No process listens on the status socket."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class AnswerError(NetpolqError):
    """The agent answered something other than 200. `status`: of HTTP. `reason`: what it wrote, in one line."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def request(run_dir: Path, method: str, path_of_url: str, text: str = "") -> bytes:
    """The body of the answer of the agent that uses this run directory.

    Raises `NetpolqError` with the path of the socket for a timeout or an answer other than 200 (`AnswerError`): `PrivilegeError` if the
    agent rejects the user, `NoAgentError` if no process listens.
    """
    with _response(run_dir, method, path_of_url, text) as response:
        return response.read()


def lines(run_dir: Path, path_of_url: str) -> Iterator[bytes]:
    """The lines of an answer as they arrive, without their ends. Raises as `request`, also in the middle of an answer."""
    with _response(run_dir, "GET", path_of_url) as response:
        rest = b""
        while portion := response.read1(_PORTION_BYTES):
            *whole, rest = (rest + portion).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise NetpolqError(
                    f"the answer on {str(run_dir / STATUS_SOCKET)!r} has a line of more than {MAX_LINE_BYTES} bytes"
                )
            yield from whole
        if rest:
            yield rest


@contextmanager
def _response(run_dir: Path, method: str, path_of_url: str, text: str = "") -> Iterator[http.client.HTTPResponse]:
    """The response to a request, with status 200. What its reader meets raises as `request` does."""
    path = run_dir / STATUS_SOCKET
    connection = _UnixConnection(path)
    try:
        connection.request(method, path_of_url, body=text or None)
        response = connection.getresponse()
        if response.status == http.client.FORBIDDEN:
            raise _not_root(path)
        if response.status != http.client.OK:
            reason = one_line(response.read(_MAX_ERROR_BYTES).decode(errors="replace").strip())
            raise AnswerError(f"the agent on {str(path)!r} answered {response.status}: {reason}", response.status, reason)
        yield response
    except PermissionError as error:
        raise _not_root(path) from error
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NoAgentError(f"no agent answers on {str(path)!r}: {error.strerror}; is one running with this --run-dir?") from error
    except TimeoutError as error:
        raise NetpolqError(f"the agent on {str(path)!r} does not answer within {_TIMEOUT_S:.0f} s") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NetpolqError(f"no agent answers on {str(path)!r}: {reason}; is one running with this --run-dir?") from error
    finally:
        connection.close()


def fetch(run_dir: Path) -> Status:
    """The status of the agent that uses this run directory. Raises `NetpolqError`; see `request`."""
    return _decoded(run_dir, STATUS_PATH, decode)


def fetch_names(run_dir: Path) -> list[LearnedName]:
    """The learned names of the agent that uses this run directory. Raises `NetpolqError`; see `request`."""
    return _decoded(run_dir, NAMES_PATH, names_report.decode)


def fetch_pods(run_dir: Path) -> LocalPods:
    """The local pods of the agent that uses this run directory. Raises `NetpolqError`; see `request`."""
    return _decoded(run_dir, PODS_PATH, pods_report.decode)


def fetch_objects(run_dir: Path, ends: Iterable[str] = ()) -> Objects:
    """The objects of the agent that decide about flows between ends, see `netpolq.supervisor.objects_report`; without ends, all objects.

    Raises `NetpolqError`; see `request`.
    """
    query = urlencode([(END, end) for end in ends])
    return _decoded(run_dir, f"{OBJECTS_PATH}?{query}" if query else OBJECTS_PATH, objects_report.decode)


def _decoded(run_dir: Path, path_of_url: str, decode_body: Callable[[bytes], Document]) -> Document:
    body = request(run_dir, "GET", path_of_url)
    try:
        return decode_body(body)
    except ValueError as error:
        path = run_dir / STATUS_SOCKET
        raise NetpolqError(f"the answer on {str(path)!r} cannot be read: {error}; is the agent of another version?") from error


def _not_root(path: Path) -> PrivilegeError:
    return PrivilegeError(f"the status on {str(path)!r} is for root and the agent's own user: run as root")
