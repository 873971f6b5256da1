"""The one agent of a network namespace: who it is, and how another takes its place.

The agent holds an abstract Unix socket; such names belong to the network namespace (unix(7)), which is just the scope of ruleset and
queues. Whoever connects is told which queues it serves. What follows, if anything does, is a takeover, one word a message:

    running agent                        the one that takes over
    queues 100:101      ──────────►
                        ◄──────────      key KEY, then binds other queues, and gets as far as judging by a snapshot of its own
                        ◄──────────      stand-down KEY
    standing-down       ──────────►      puts its rules in place: nobody else changes the ruleset any more
                        ◄──────────      leave
    left, the socket    ──────────►      is the one agent now

An agent that stands down goes on judging what is in its queues. If the other ends before it says `leave`, it resumes. With its last word it
hands on the socket itself, so that no third agent finds the name free in between.

Who may take over must show the key that the running agent keeps in its run directory: user 0 of some container on the node's network,
without any capability, is user 0 at the other end of a socket, but cannot read there. Another key is answered with `refused`. The key is
shown at once, because the first sync before `stand-down` may take minutes: a connection that has not shown it is closed after seconds, and
earlier when there are others, so connections that say nothing keep no agent from taking over.
"""

import contextlib
import hmac
import os
import secrets
import socket
import struct
import time

from pathlib import Path

_NAME = "\0netpolq"
_CREDENTIALS = struct.Struct("3i")
_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 64
_BACKLOG = 128
"""Connections that wait to be accepted; one more is refused with EAGAIN (unix(7))."""

_POLL_S = 0.01

_QUEUES = "queues"
KEY = "key"
STAND_DOWN = "stand-down"
STANDING_DOWN = "standing-down"
LEAVE = "leave"
LEFT = "left"
REFUSED = "refused"


def claim() -> socket.socket | None:
    """Become the one agent of this network namespace, or None if there is one already. Keep the socket open."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        found.bind(_NAME)
    except OSError:
        found.close()
        return None
    return _listening(found)


def adopt(descriptor: int) -> socket.socket:
    """Become the one agent by the socket of the one before. Takes over the descriptor."""
    return _listening(socket.socket(fileno=descriptor))


def _listening(found: socket.socket) -> socket.socket:
    found.listen(
        _BACKLOG
    )  # once more if it does already: whoever connects is told the process that was the last to call this (unix(7))
    found.setblocking(False)
    return found


def make_key() -> str:
    """A new key."""
    return secrets.token_hex(16)


def write_key(path: Path, key: str) -> None:
    """Keep a key in a file that its owner alone may read. Raises `OSError`, and leaves no half of a file."""
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
    """Whether a key is the right one; an empty one never is."""
    return bool(wanted) and hmac.compare_digest(wanted.encode(), given.encode())


class TakeoverConnection:
    """One end of a takeover, or of what might become one. `pid`: the process at the other end. `handed_on`: the socket of the one agent."""

    def __init__(self, end: socket.socket, *, with_holder: bool = False) -> None:
        self._socket = end
        self._with_holder = with_holder
        self.handed_on: socket.socket | None = None
        credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid: int
        self.pid, self._uid, _gid = _CREDENTIALS.unpack(credentials)

    @classmethod
    def with_running_agent(cls) -> "TakeoverConnection | None":
        """Speak to the agent that serves this network namespace; None if there is none.

        Somebody else's process that holds the name is none: anybody may bind an abstract name.
        """
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(_TIMEOUT_S)
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                end.connect(_NAME)
                break
            except BlockingIOError:  # the agent is there, and others wait to be accepted
                if time.monotonic() < deadline:
                    time.sleep(_POLL_S)
                    continue
                end.close()
                return None
            except OSError:
                end.close()
                return None
        conversation = cls(end, with_holder=True)
        if not conversation.is_trusted:
            conversation.close()
            return None
        return conversation

    @property
    def is_trusted(self) -> bool:
        """Whether the other end is run by root or by the same user: abstract names have no permissions."""
        return self._uid in {0, os.geteuid()}

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def say(self, word: str, more: str = "", *, handing_on: socket.socket | None = None) -> None:
        """Send a word, perhaps with something behind it, or with a socket. That nobody hears it is seen when receiving."""
        text = f"{word} {more}" if more else word
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [text.encode()], [] if handing_on is None else [handing_on.fileno()])

    def hear(self) -> tuple[str, str]:
        """The next word, and what is behind it. Raises `EOFError` when the other end is gone or is silent for too long."""
        try:
            # Without room for descriptors the kernel closes those that come along: nobody but the holder may give us any.
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, _MAX_MESSAGE_BYTES, 1 if self._with_holder else 0)
        except OSError as error:
            raise EOFError from error
        if descriptors:
            self.handed_on = adopt(descriptors[0])
        if not data:
            raise EOFError
        word, _, more = data.decode(errors="replace").partition(" ")
        return word, more

    def say_queues(self, queues: range) -> None:
        """Tell which queues are served."""
        self.say(_QUEUES, f"{queues.start}:{queues.stop - 1}")

    def hear_queues(self) -> range:
        """Which queues are served. Raises `EOFError` like `hear`, and for an answer that cannot be read."""
        try:
            word, numbers = self.hear()
            first, last = map(int, numbers.split(":"))
        except ValueError as error:
            raise EOFError from error
        if word != _QUEUES:
            raise EOFError
        return range(first, last + 1)

    def close(self) -> None:
        """End it."""
        self._socket.close()


def running_agent() -> int | None:
    """Process id of the agent that serves this network namespace, or None."""
    conversation = TakeoverConnection.with_running_agent()
    if conversation is None:
        return None
    conversation.close()
    return conversation.pid


def queues_beside(wanted: range) -> range:
    """The queues for an agent that is to take over: the wanted ones, or if the running agent has some of them, as many others."""
    conversation = TakeoverConnection.with_running_agent()
    if conversation is None:
        return wanted
    try:
        taken = conversation.hear_queues()
    except EOFError:
        return wanted  # it is leaving, or of a kind that cannot be taken over; the start will tell
    finally:
        conversation.close()
    if wanted.stop <= taken.start or taken.stop <= wanted.start:
        return wanted
    count = len(wanted)
    first = taken.stop if taken.stop + count <= 1 << 16 else taken.start - count
    return range(first, first + count)
