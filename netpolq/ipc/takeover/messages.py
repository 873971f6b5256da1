"""Messages between two agents, and the events and effects of their state machines. All of them are frozen.

A message is one datagram: a word, and for some words a space and an argument. The words never change: an agent of any version must
understand those of any other. A word that is not known is ignored, so that later versions can add words.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NewType

_MAX_QUEUE_NUM = 0xFFFF


class Word(StrEnum):
    """The words, as they are sent."""

    QUEUES = "queues"
    """First message of the running agent. Argument: the numbers of its first and last queue, `100:101`."""
    KEY = "key"
    """First message of the replacement. Argument: the key."""
    STAND_DOWN = "stand-down"
    """The running agent must stop changing the ruleset. Argument: the key."""
    STANDING_DOWN = "standing-down"
    LEAVE = "leave"
    """The rules of the replacement are in place. Argument: its first and last queue, as in `QUEUES`; earlier versions send none."""
    LEFT = "left"
    """Last message of the running agent. It carries the listening socket, which is the lock."""
    REFUSED = "refused"
    """The key is wrong."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `argument`: empty for most words."""

    word: Word
    argument: str = ""


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return (f"{message.word} {message.argument}" if message.argument else message.word).encode()


def decode(data: bytes) -> Message | None:
    """The message that the bytes encode; None for an unknown word."""
    word, _, argument = data.decode(errors="replace").partition(" ")
    try:
        return Message(Word(word), argument)
    except ValueError:
        return None


def format_queues(queues: range) -> str:
    """The argument of `QUEUES` and `LEAVE`."""
    return f"{queues.start}:{queues.stop - 1}"


def parse_queues(text: str) -> range:
    """The queue numbers in the argument of `QUEUES` or `LEAVE`. Raises `ValueError` for anything else."""
    first, last = map(int, text.split(":"))
    if not 0 <= first <= last <= _MAX_QUEUE_NUM:
        raise ValueError(f"{text!r} is not a range of queue numbers")
    return range(first, last + 1)


PeerId = NewType("PeerId", int)
"""A connection at the running agent, counted from 1."""

HOLDER = PeerId(0)
"""The only connection of a replacement: to the agent that holds the lock."""


# --- events: what a machine is told -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The running agent has accepted a connection of a trusted user."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Received:
    """A message has arrived. `message` None: its word is unknown. `descriptor`: came with it; the machine decides what becomes of it."""

    message: Message | None
    peer: PeerId = HOLDER
    descriptor: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection has ended. All messages that the peer has sent before have been received."""

    peer: PeerId = HOLDER


class AgentEvent(Enum):
    """Events of the running agent's own process."""

    SUPERVISOR_EXITED = auto()
    STOPPING = auto()
    """The process will end, for whatever reason."""
    DRAINED = auto()
    """The workers have exited."""


class ReplacementEvent(Enum):
    """Events of the replacement's own process."""

    LOCK_ACQUIRED = auto()
    AGENT_FOUND = auto()
    """Another agent holds the lock, and the process is connected to it."""
    NAME_TAKEN = auto()
    """A program that is not an agent holds the name of the lock, or an agent that starts or ends."""
    SYNCED = auto()
    """The supervisor has all objects and is about to change the ruleset. It repeats this until it may."""
    INSTALLED = auto()
    """The supervisor has installed the ruleset."""
    STOPPING = auto()


# --- effects: what the adapter must do, in this order -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message. The adapter adds the argument: its queues, or the key that it reads from the key file."""

    word: Word
    peer: PeerId = HOLDER


@dataclass(frozen=True, slots=True)
class HandOnLock:
    """Send `LEFT` with the descriptor of the lock."""

    peer: PeerId = HOLDER


@dataclass(frozen=True, slots=True)
class Close:
    """Close a connection. `reason`: for the log; empty for an ordinary end."""

    peer: PeerId = HOLDER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AdoptLock:
    """Become the owner of the lock that came with `LEFT`, and report `LOCK_ACQUIRED`, or `NAME_TAKEN` if it cannot be used."""

    descriptor: int = -1


@dataclass(frozen=True, slots=True)
class CloseDescriptor:
    """Close a descriptor that came with a message for which there is no use for one."""

    descriptor: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell the workers to evaluate the waiting packets and exit, after a delay in seconds."""

    after_s: float


class Failure(Enum):
    """Why a replacement gives up."""

    UNSUPPORTED = auto()
    QUEUES_IN_USE = auto()
    REFUSED = auto()
    OTHER_AGENT = auto()
    """Another replacement has become the agent."""
    PROTOCOL = auto()


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End this process: it cannot become the agent."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class RemoteProtocolError:
    """Their error: the peer has sent a message that is illegal in this state. For the log; the effects behind it are the consequence."""

    peer: PeerId
    word: Word
    state: str


class LocalProtocolError(ValueError):
    """Our error: an event that cannot happen in this state. The state has not changed."""


class AgentTask(Enum):
    """Effects of the running agent without fields."""

    STOP_SUPERVISOR = auto()
    """Stop the supervisor and start no other. Report `SUPERVISOR_EXITED`, at once if none runs."""
    KILL_SUPERVISOR = auto()
    RESUME_SUPERVISOR = auto()
    """The successor has ended: run a supervisor again."""
    LEAVE = auto()
    """The rules of the successor are in place: end this process."""
    RELEASE_LOCK = auto()


class ReplacementTask(Enum):
    """Effects of the replacement without fields."""

    ACQUIRE_LOCK = auto()
    """Try to acquire the lock, and report `LOCK_ACQUIRED`, `AGENT_FOUND` or `NAME_TAKEN`."""
    SERVE = auto()
    """The other agent has left. Accept connections of replacements from now on."""
    REPORT_STOOD_DOWN = auto()
    """Tell the supervisor that no other agent changes the ruleset."""
    REPORT_PEER_GONE = auto()
    """Tell the supervisor that the other agent has left."""


AgentEffect = Send | HandOnLock | Close | CloseDescriptor | Drain | RemoteProtocolError | AgentTask
ReplacementEffect = Send | Close | AdoptLock | CloseDescriptor | GiveUp | RemoteProtocolError | ReplacementTask
