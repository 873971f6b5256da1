"""Takeover protocol between two agents of one network namespace, and the lock that the serving agent holds.

The lock is an abstract Unix socket. Abstract names belong to the network namespace (unix(7)), which is also the scope of ruleset and
queues. The running agent sends its queue numbers to every process that connects. A takeover follows only if the peer asks for one. Each
message is one datagram:

    running agent                        replacement
    queues 100:101      ──────────►
                        ◄──────────      key KEY, then binds other queues, and evaluates packets by a snapshot of its own
                        ◄──────────      stand-down KEY
    standing-down       ──────────►      installs its rules: the running agent no longer changes the ruleset
                        ◄──────────      leave
    left, the socket    ──────────►      holds the lock now

An agent that stands down still evaluates the packets in its queues. If the replacement ends before it sends `leave`, the agent resumes.
The message `left` carries the listening socket itself, so that no third agent finds the name free in between.

A replacement must send the key that the running agent keeps in its run directory. User 0 of a container on the node's network, even
without any capability, is user 0 at the other end of a socket, but it cannot read that directory. The answer to a wrong key is `refused`.
The replacement sends the key at once, because the first sync before `stand-down` may take minutes: the running agent closes a connection
without a key after seconds, and earlier when there are others, so idle connections cannot block a takeover.
"""

import contextlib
import hmac
import os
import secrets
import socket
import time

from pathlib import Path

from netpolq.ipc.peer_credentials import peer_credentials

_NAME = "\0netpolq"
_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 64
_BACKLOG = 128
"""Connections that wait to be accepted; the kernel refuses further ones with EAGAIN (unix(7))."""

_POLL_S = 0.01

_QUEUES = "queues"
KEY = "key"
STAND_DOWN = "stand-down"
STANDING_DOWN = "standing-down"
LEAVE = "leave"
LEFT = "left"
REFUSED = "refused"


def acquire() -> socket.socket | None:
    """The lock of this network namespace, or None if another process holds it. Closing the socket releases the lock."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        lock.bind(_NAME)
    except OSError:
        lock.close()
        return None
    return _listening(lock)


def acquire_from_peer(descriptor: int) -> socket.socket:
    """The lock that the previous agent has passed on. The socket owns the descriptor from then on."""
    return _listening(socket.socket(fileno=descriptor))


def _listening(lock: socket.socket) -> socket.socket:
    # Also for a socket that listens already: a client reads the credentials of the last process that called listen(2) (unix(7)).
    lock.listen(_BACKLOG)
    lock.setblocking(False)
    return lock


def make_key() -> str:
    """A new key."""
    return secrets.token_hex(16)


def write_key(path: Path, key: str) -> None:
    """Write a key to a file that only its owner may read. Raises `OSError` and removes a partial file."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        try:
            file.write(key)
            file.flush()
        except OSError:
            path.unlink(missing_ok=True)
            raise


def read_key(path: Path) -> str:
    """The key of the agent that uses this run directory; empty if there is none."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
            return file.read(_MAX_MESSAGE_BYTES)
    except (OSError, UnicodeDecodeError):
        return ""


def is_key(wanted: str, given: str) -> bool:
    """Whether the given key is the wanted one. An empty key never is."""
    return bool(wanted) and hmac.compare_digest(wanted.encode(), given.encode())


class TakeoverConnection:
    """One end of a connection between two agents. `pid`: the peer process. `handed_on`: the lock, once the peer has sent it."""

    def __init__(self, end: socket.socket, *, with_holder: bool = False) -> None:
        self._socket = end
        self._with_holder = with_holder
        self.handed_on: socket.socket | None = None
        self._credentials = peer_credentials(end)
        self.pid = self._credentials.pid

    @classmethod
    def with_running_agent(cls) -> "TakeoverConnection | None":
        """A connection to the agent that serves this network namespace, or None without one.

        A process of another user that holds the name does not count: any process may bind an abstract name.
        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(_TIMEOUT_S)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                end.connect(_NAME)
                break
            except BlockingIOError:  # the agent listens, and its backlog is full
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                end.close()
                return None
            except OSError:
                end.close()
                return None
        connection = cls(end, with_holder=True)
        if not connection.is_trusted:
            connection.close()
            return None
        return connection

    @property
    def is_trusted(self) -> bool:
        """Whether root or the same user runs the peer: abstract names have no permissions."""
        return self._credentials.is_trusted

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def send(self, kind: str, argument: str = "", *, handing_on: socket.socket | None = None) -> None:
        """Send a message, with an optional argument and an optional socket. Errors are ignored: `receive` finds a peer that is gone."""
        text = f"{kind} {argument}" if argument else kind
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [text.encode()], [] if handing_on is None else [handing_on.fileno()])

    def receive(self) -> tuple[str, str]:
        """Kind and argument of the next message. Raises `EOFError` when the peer is gone, or when a blocking receive times out."""
        try:
            # Only the lock holder may send a descriptor. The kernel closes those for which there is no room.
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, _MAX_MESSAGE_BYTES, 1 if self._with_holder else 0)
        except OSError as error:
            raise EOFError from error
        if descriptors:
            self.handed_on = acquire_from_peer(descriptors[0])
        if not data:
            raise EOFError
        kind, _, argument = data.decode(errors="replace").partition(" ")
        return kind, argument

    def send_queues(self, queues: range) -> None:
        """Send the numbers of the served queues."""
        self.send(_QUEUES, f"{queues.start}:{queues.stop - 1}")

    def receive_queues(self) -> range:
        """The numbers of the queues that the peer serves. Raises `EOFError` like `receive`, and for a malformed answer."""
        try:
            kind, numbers = self.receive()
            first, last = map(int, numbers.split(":"))
        except ValueError as error:
            raise EOFError from error
        if kind != _QUEUES:
            raise EOFError
        return range(first, last + 1)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def running_agent() -> int | None:
    """Process id of the agent that serves this network namespace, or None without one."""
    connection = TakeoverConnection.with_running_agent()
    if connection is None:
        return None
    connection.close()
    return connection.pid


def queues_beside(wanted: range) -> range:
    """The queues of a replacement: the wanted ones, or as many others if the running agent serves some of the wanted ones."""
    connection = TakeoverConnection.with_running_agent()
    if connection is None:
        return wanted
    try:
        taken = connection.receive_queues()
    except EOFError:
        return wanted  # the agent leaves, or does not support takeover; a later step of the start reports that
    finally:
        connection.close()
    if wanted.stop <= taken.start or taken.stop <= wanted.start:
        return wanted
    count = len(wanted)
    first = taken.stop if taken.stop + count <= 1 << 16 else taken.start - count
    return range(first, first + count)
