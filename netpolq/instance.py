"""The one agent of a network namespace: who it is, and how another takes its place.

The agent holds an abstract Unix socket; such names belong to the network namespace (unix(7)), which is just the scope of ruleset and
queues. Whoever connects is told which queues it serves. What follows, if anything does, is a takeover, one word a message:

    running agent                        the one that takes over
    queues 100:101      ──────────►      binds others, and gets as far as judging by a snapshot of its own
                        ◄──────────      stand-down
    standing-down       ──────────►      puts its rules in place: nobody else changes the ruleset any more
                        ◄──────────      leave
    left                ──────────►      is the one agent now

An agent that stands down goes on judging what is in its queues. If the other ends before it says `leave`, it resumes.
"""

import contextlib
import os
import socket
import struct

_NAME = "\0netpolq"
_CREDENTIALS = struct.Struct("3i")
_TIMEOUT_S = 2.0
_MAX_MESSAGE_BYTES = 64

STAND_DOWN = "stand-down"
STANDING_DOWN = "standing-down"
LEAVE = "leave"
LEFT = "left"


def claim() -> socket.socket | None:
    """Become the one agent of this network namespace, or None if there is one already. Keep the socket open."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        found.bind(_NAME)
        found.listen(8)
        found.setblocking(False)
    except OSError:
        found.close()
        return None
    return found


class Conversation:
    """One end of a takeover, or of what might become one. `pid`: the process at the other end."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid: int
        self.pid, self._uid, _gid = _CREDENTIALS.unpack(credentials)

    @classmethod
    def with_running_agent(cls) -> "Conversation | None":
        """Speak to the agent that serves this network namespace; None if there is none."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(_TIMEOUT_S)
        try:
            end.connect(_NAME)
        except OSError:
            end.close()
            return None
        return cls(end)

    @property
    def is_trusted(self) -> bool:
        """Whether the other end is run by root or by the same user: abstract names have no permissions."""
        return self._uid in {0, os.geteuid()}

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._socket.fileno()

    def say(self, word: str) -> None:
        """Send a word. That nobody hears it is seen when receiving."""
        with contextlib.suppress(OSError):
            self._socket.send(word.encode())

    def hear(self) -> str:
        """The next word. Raises `EOFError` when the other end is gone or is silent for too long."""
        try:
            data = self._socket.recv(_MAX_MESSAGE_BYTES)
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data.decode(errors="replace")

    def say_queues(self, queues: range) -> None:
        """Tell which queues are served."""
        self.say(f"queues {queues.start}:{queues.stop - 1}")

    def hear_queues(self) -> range:
        """Which queues are served. Raises `EOFError` like `hear`, and for an answer that cannot be read."""
        try:
            name, _, numbers = self.hear().partition(" ")
            first, last = map(int, numbers.split(":"))
        except ValueError as error:
            raise EOFError from error
        if name != "queues":
            raise EOFError
        return range(first, last + 1)

    def close(self) -> None:
        """End it."""
        self._socket.close()


def running_agent() -> int | None:
    """Process id of the agent that serves this network namespace, or None."""
    conversation = Conversation.with_running_agent()
    if conversation is None:
        return None
    conversation.close()
    return conversation.pid


def queues_beside(wanted: range) -> range:
    """The queues for an agent that is to take over: the wanted ones, or if the running agent has some of them, as many others."""
    conversation = Conversation.with_running_agent()
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
