"""HTTP client of the Unix socket in the run directory."""

import http.client
import socket

from collections.abc import Callable, Iterable
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


def request(run_dir: Path, method: str, path_of_url: str, text: str = "") -> bytes:
    """The body of the answer of the agent that uses this run directory.

    Raises `NetpolqError` with the path of the socket for a timeout or an answer other than 200: `PrivilegeError` if the agent rejects the
    user, `NoAgentError` if no process listens.
    """
    path = run_dir / STATUS_SOCKET
    connection = _UnixConnection(path)
    try:
        connection.request(method, path_of_url, body=text or None)
        response = connection.getresponse()
        body = response.read()
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
    if response.status == http.client.FORBIDDEN:
        raise _not_root(path)
    if response.status != http.client.OK:
        raise NetpolqError(
            f"the agent on {str(path)!r} answered {response.status}: {one_line(body[:200].decode(errors='replace'))}"
        )
    return body


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
