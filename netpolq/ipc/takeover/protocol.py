"""Takeover protocol between two agents of one network namespace: theory of operation, states, transition tables.

The lock is an abstract Unix socket. Abstract names belong to the network namespace (unix(7)), which is also the scope of ruleset and
queues. The running agent sends its queue numbers to every process that connects. A takeover follows only if the peer asks for one. Each
message is one datagram:

    running agent                                   replacement
    SERVING                                         GREETING
      queues 100:101    ──────────►
                        ◄──────────  key KEY        SYNCING: binds other queues, evaluates packets by a snapshot of its own
                        ◄──────────  stand-down KEY REQUESTING
    STANDING_DOWN: its supervisor ends
    STOOD_DOWN
      standing-down     ──────────►                 INSTALLING: installs its rules
                        ◄──────────  leave 200:201  FINISHING
    LEAVING: its workers drain
      left, the lock    ──────────►                 ACQUIRING, SERVING
    ENDED

An agent that stands down still evaluates the packets in its queues. If the replacement ends before it sends `leave`, the agent resumes.
After `leave` it ends in any case. `leave` names the queues to which it may move packets that still wait; an agent of an earlier version
names none. `left` carries the listening socket itself, so that no third agent finds the name free in between.

The end of the running agent's connection, at any moment, means that it has left: the replacement acquires the lock by its name, and gives
up if another replacement was faster. A `left` without the lock only announces that end.

A replacement must send the key that the running agent keeps in its run directory. User 0 of a container on the node's network, even
without any capability, is user 0 at the other end of a socket, but it cannot read that directory. The answer to a wrong key is `refused`.
The replacement sends the key at once, because the first sync before `stand-down` may take minutes: the running agent closes a connection
without a key after seconds, and earlier when there are others, so idle connections cannot block a takeover.

One connection at a time is the successor. The request of another with the key has no answer: it is repeated every second, and succeeds
when the successor has ended.

A pair that a table lacks is an error. If the peer has sent the message, it is theirs (`RemoteProtocolError`): the connection is closed.
Then a running agent goes on as after any end of that connection, and a replacement gives up. Otherwise it is ours (`LocalProtocolError`).

The tables are literal. In them, an effect on a connection lacks the peer, and `AdoptLock` the descriptor: both are those of the event.
"""

from collections.abc import Mapping
from enum import Enum, auto

from netpolq.ipc.takeover.messages import (
    AdoptLock,
    AgentEffect,
    AgentEvent,
    AgentTask,
    Close,
    Drain,
    Failure,
    GiveUp,
    HandOnLock,
    ReplacementEffect,
    ReplacementEvent,
    ReplacementTask,
    Send,
    Word,
)

MAX_PEERS = 8
"""Connections at the same time, so that they cannot use up our descriptors: this many with the key, and this many without."""

KEY_LIMIT_S = 5.0
"""Until a connection must have shown the key. A replacement shows it at once."""

STAND_DOWN_LIMIT_S = 3.0
"""Until a supervisor that stands down is killed."""

QUEUE_SWITCH_S = 0.1
"""After the rules of a successor are in place: until every packet that met ours is in our queues."""

ACQUIRE_RETRY_S = 0.05


class AgentState(Enum):
    """State of the running agent."""

    SERVING = auto()
    STANDING_DOWN = auto()
    STOOD_DOWN = auto()
    LEAVING = auto()
    ENDING = auto()
    """It ends without a successor."""
    ENDED = auto()


class Role(Enum):
    """What a connection is to the running agent."""

    STRANGER = auto()
    """It has not shown the key."""
    CANDIDATE = auto()
    SUCCESSOR = auto()


class ReplacementState(Enum):
    """State of a replacement, or of any process that starts."""

    STARTING = auto()
    GREETING = auto()
    SYNCING = auto()
    REQUESTING = auto()
    INSTALLING = auto()
    FINISHING = auto()
    ACQUIRING = auto()
    """The other agent has left, and this process does not hold the lock yet."""
    SERVING = auto()
    """This process is the agent: its state is an `AgentState` from now on."""
    LOST = auto()
    """This process cannot become the agent, or has stopped before."""


class Cause(Enum):
    """Columns of the tables beside messages and own events."""

    END = auto()
    """The connection of the successor, or to the running agent, has ended."""
    TIMEOUT = auto()
    """The limit of this state is over."""
    RETRY = auto()
    WRONG_KEY = auto()
    """`KEY` or `STAND_DOWN` with a wrong key."""
    RIVAL_REQUEST = auto()
    """`STAND_DOWN` with the key, while there is a successor or the agent ends."""
    QUEUES_IN_USE = auto()
    """`QUEUES` with some of those that the replacement has been told to serve."""
    LEFT_WITH_LOCK = auto()


AgentInput = Word | AgentEvent | Cause
ReplacementInput = Word | ReplacementEvent | Cause

CONNECTIONS: Mapping[tuple[Role, AgentInput], Role] = {
    (Role.STRANGER, Word.KEY): Role.CANDIDATE,
    (Role.STRANGER, Word.STAND_DOWN): Role.SUCCESSOR,
    (Role.STRANGER, Word.LEAVE): Role.STRANGER,
    (Role.STRANGER, Cause.RIVAL_REQUEST): Role.CANDIDATE,
    (Role.STRANGER, Cause.WRONG_KEY): Role.STRANGER,
    (Role.CANDIDATE, Word.KEY): Role.CANDIDATE,
    (Role.CANDIDATE, Word.STAND_DOWN): Role.SUCCESSOR,
    (Role.CANDIDATE, Cause.RIVAL_REQUEST): Role.CANDIDATE,
    (Role.CANDIDATE, Cause.WRONG_KEY): Role.CANDIDATE,
    (Role.SUCCESSOR, Word.KEY): Role.SUCCESSOR,
    (Role.SUCCESSOR, Word.STAND_DOWN): Role.SUCCESSOR,
    (Role.SUCCESSOR, Word.LEAVE): Role.SUCCESSOR,
    (Role.SUCCESSOR, Cause.WRONG_KEY): Role.SUCCESSOR,
}
"""The role of a connection after its message. `WRONG_KEY` is answered with `REFUSED`, the other inputs here have no effect. Except that
`STAND_DOWN` and `LEAVE` of what is then the successor are inputs of `AGENT`."""

_S, _E, _T = AgentState, AgentEvent, AgentTask
AGENT: Mapping[tuple[AgentState, AgentInput], tuple[AgentState, tuple[AgentEffect, ...]]] = {
    (_S.SERVING, Word.STAND_DOWN): (_S.STANDING_DOWN, (_T.STOP_SUPERVISOR,)),
    (_S.SERVING, _E.SUPERVISOR_EXITED): (_S.SERVING, ()),
    (_S.SERVING, _E.STOPPING): (_S.ENDING, (Drain(0.0),)),
    (_S.STANDING_DOWN, Word.STAND_DOWN): (_S.STANDING_DOWN, ()),
    (_S.STANDING_DOWN, _E.SUPERVISOR_EXITED): (_S.STOOD_DOWN, (Send(Word.STANDING_DOWN),)),
    (_S.STANDING_DOWN, Cause.TIMEOUT): (_S.STANDING_DOWN, (_T.KILL_SUPERVISOR,)),
    (_S.STANDING_DOWN, Cause.END): (_S.SERVING, (_T.RESUME_SUPERVISOR,)),
    (_S.STANDING_DOWN, _E.STOPPING): (_S.LEAVING, (Drain(QUEUE_SWITCH_S),)),
    (_S.STOOD_DOWN, Word.STAND_DOWN): (_S.STOOD_DOWN, (Send(Word.STANDING_DOWN),)),
    (_S.STOOD_DOWN, Word.LEAVE): (_S.LEAVING, (_T.LEAVE,)),
    (_S.STOOD_DOWN, Cause.END): (_S.SERVING, (_T.RESUME_SUPERVISOR,)),
    (_S.STOOD_DOWN, _E.STOPPING): (_S.LEAVING, (Drain(QUEUE_SWITCH_S),)),
    (_S.LEAVING, Word.STAND_DOWN): (_S.LEAVING, ()),
    (_S.LEAVING, Word.LEAVE): (_S.LEAVING, ()),
    (_S.LEAVING, Cause.END): (_S.ENDING, ()),
    (_S.LEAVING, _E.SUPERVISOR_EXITED): (_S.LEAVING, ()),
    (_S.LEAVING, _E.STOPPING): (_S.LEAVING, (Drain(QUEUE_SWITCH_S),)),
    (_S.LEAVING, _E.DRAINED): (_S.ENDED, (HandOnLock(), _T.RELEASE_LOCK)),
    (_S.ENDING, _E.SUPERVISOR_EXITED): (_S.ENDING, ()),
    (_S.ENDING, _E.STOPPING): (_S.ENDING, (Drain(QUEUE_SWITCH_S),)),
    (_S.ENDING, _E.DRAINED): (_S.ENDED, (_T.RELEASE_LOCK,)),
}

_R, _RE, _RT = ReplacementState, ReplacementEvent, ReplacementTask
LIMITS_S: Mapping[ReplacementState, float] = {_R.STARTING: 0.5, _R.GREETING: 2.0, _R.ACQUIRING: 0.5}
"""Until the running agent must have sent its queues, or until a process serves without the lock: a program that is not an agent holds its
name. The other states have no limit: the first sync of a replacement, and the end of the other supervisor, may take long."""

CONNECTED = frozenset((_R.GREETING, _R.SYNCING, _R.REQUESTING, _R.INSTALLING, _R.FINISHING))
"""The states with a connection to the running agent."""

REPLACEMENT: Mapping[tuple[ReplacementState, ReplacementInput], tuple[ReplacementState, tuple[ReplacementEffect, ...]]] = {
    (_R.STARTING, Cause.RETRY): (_R.STARTING, (_RT.ACQUIRE_LOCK,)),
    (_R.STARTING, Cause.TIMEOUT): (_R.SERVING, ()),
    (_R.STARTING, _RE.LOCK_ACQUIRED): (_R.SERVING, ()),
    (_R.STARTING, _RE.AGENT_FOUND): (_R.GREETING, ()),
    (_R.STARTING, _RE.NAME_TAKEN): (_R.STARTING, ()),
    (_R.GREETING, Word.QUEUES): (_R.SYNCING, (Send(Word.KEY),)),
    (_R.GREETING, Cause.QUEUES_IN_USE): (_R.LOST, (Close(), GiveUp(Failure.QUEUES_IN_USE))),
    (_R.GREETING, Cause.TIMEOUT): (_R.LOST, (Close(), GiveUp(Failure.UNSUPPORTED))),
    (_R.GREETING, Cause.END): (_R.LOST, (Close(), GiveUp(Failure.UNSUPPORTED))),
    (_R.GREETING, _RE.STOPPING): (_R.LOST, (Close(),)),
    (_R.SYNCING, _RE.SYNCED): (_R.REQUESTING, (Send(Word.STAND_DOWN),)),
    (_R.SYNCING, Word.REFUSED): (_R.LOST, (Close(), GiveUp(Failure.REFUSED))),
    (_R.SYNCING, Word.LEFT): (_R.SYNCING, ()),
    (_R.SYNCING, Cause.LEFT_WITH_LOCK): (_R.ACQUIRING, (Close(), AdoptLock())),
    (_R.SYNCING, Cause.END): (_R.ACQUIRING, (Close(), _RT.ACQUIRE_LOCK)),
    (_R.SYNCING, _RE.STOPPING): (_R.LOST, (Close(),)),
    (_R.REQUESTING, _RE.SYNCED): (_R.REQUESTING, (Send(Word.STAND_DOWN),)),
    (_R.REQUESTING, Word.STANDING_DOWN): (_R.INSTALLING, (_RT.REPORT_STOOD_DOWN,)),
    (_R.REQUESTING, Word.REFUSED): (_R.LOST, (Close(), GiveUp(Failure.REFUSED))),
    (_R.REQUESTING, Word.LEFT): (_R.REQUESTING, ()),
    (_R.REQUESTING, Cause.LEFT_WITH_LOCK): (_R.ACQUIRING, (Close(), AdoptLock())),
    (_R.REQUESTING, Cause.END): (_R.ACQUIRING, (Close(), _RT.ACQUIRE_LOCK)),
    (_R.REQUESTING, _RE.STOPPING): (_R.LOST, (Close(),)),
    (_R.INSTALLING, _RE.SYNCED): (_R.INSTALLING, (_RT.REPORT_STOOD_DOWN,)),
    (_R.INSTALLING, _RE.INSTALLED): (_R.FINISHING, (Send(Word.LEAVE),)),
    (_R.INSTALLING, Word.STANDING_DOWN): (_R.INSTALLING, ()),
    (_R.INSTALLING, Word.REFUSED): (_R.INSTALLING, ()),
    (_R.INSTALLING, Word.LEFT): (_R.INSTALLING, ()),
    (_R.INSTALLING, Cause.LEFT_WITH_LOCK): (_R.ACQUIRING, (Close(), AdoptLock())),
    (_R.INSTALLING, Cause.END): (_R.ACQUIRING, (Close(), _RT.ACQUIRE_LOCK)),
    (_R.INSTALLING, _RE.STOPPING): (_R.LOST, (Close(),)),
    (_R.FINISHING, _RE.SYNCED): (_R.FINISHING, (_RT.REPORT_STOOD_DOWN,)),
    (_R.FINISHING, _RE.INSTALLED): (_R.FINISHING, (Send(Word.LEAVE),)),
    (_R.FINISHING, Word.STANDING_DOWN): (_R.FINISHING, ()),
    (_R.FINISHING, Word.REFUSED): (_R.FINISHING, ()),
    (_R.FINISHING, Word.LEFT): (_R.FINISHING, ()),
    (_R.FINISHING, Cause.LEFT_WITH_LOCK): (_R.ACQUIRING, (Close(), AdoptLock())),
    (_R.FINISHING, Cause.END): (_R.ACQUIRING, (Close(), _RT.ACQUIRE_LOCK)),
    (_R.FINISHING, _RE.STOPPING): (_R.LOST, (Close(),)),
    (_R.ACQUIRING, _RE.LOCK_ACQUIRED): (
        _R.SERVING,
        (_RT.SERVE, _RT.REPORT_STOOD_DOWN, _RT.REPORT_PEER_GONE),
    ),
    (_R.ACQUIRING, Cause.TIMEOUT): (
        _R.SERVING,
        (_RT.SERVE, _RT.REPORT_STOOD_DOWN, _RT.REPORT_PEER_GONE),
    ),
    (_R.ACQUIRING, _RE.AGENT_FOUND): (_R.LOST, (Close(), GiveUp(Failure.OTHER_AGENT))),
    (_R.ACQUIRING, _RE.NAME_TAKEN): (_R.ACQUIRING, ()),
    (_R.ACQUIRING, Cause.RETRY): (_R.ACQUIRING, (_RT.ACQUIRE_LOCK,)),
    (_R.ACQUIRING, _RE.SYNCED): (_R.ACQUIRING, ()),
    (_R.ACQUIRING, _RE.INSTALLED): (_R.ACQUIRING, ()),
    (_R.ACQUIRING, _RE.STOPPING): (_R.LOST, ()),
    (_R.SERVING, _RE.SYNCED): (_R.SERVING, (_RT.REPORT_STOOD_DOWN,)),
    (_R.SERVING, _RE.INSTALLED): (_R.SERVING, ()),
    (_R.SERVING, _RE.STOPPING): (_R.SERVING, ()),
    (_R.LOST, _RE.SYNCED): (_R.LOST, ()),
    (_R.LOST, _RE.INSTALLED): (_R.LOST, ()),
    (_R.LOST, _RE.STOPPING): (_R.LOST, ()),
}
"""The wrong key of a repeated `STAND_DOWN` is without consequence after the first has been answered: the running agent has stood down."""
