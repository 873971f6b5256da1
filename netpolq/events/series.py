"""Series of denials: connections of one pod with one peer that were denied in one direction. Each becomes one Event of the API.

    NEW ──taken──► CREATING ──current──► WRITTEN ──denied──► CHANGED ──taken──► UPDATING ──current──► WRITTEN
     ▲                │ │ └──behind────────────────────────►  ▲ ▲                 │ │ └──behind──► CHANGED
     ├────failed──────┘ └──gone──► DROPPED                    │ └─────failed──────┘ │
     └────gone (the Event has expired, or was deleted) ───────┼─────────────────────┘

A series says CURRENT if the Event that was written names all its connections, and BEHIND if more came while it was being written.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from netpolq.decision import Decision
from netpolq.enums import Direction


class Reason(StrEnum):
    """The reason of an Event. WOULD_DENY: of policies in audit."""

    DENIED = "NetworkPolicyDenied"
    WOULD_DENY = "NetworkPolicyWouldDeny"


class State(Enum):
    """What there is of a series at the API server."""

    NEW = auto()
    CREATING = auto()
    WRITTEN = auto()
    CHANGED = auto()
    UPDATING = auto()
    DROPPED = auto()


class Step(Enum):
    """DENIED: of the packet path. TAKEN: for the next request. CURRENT, BEHIND, FAILED, GONE: outcomes of a request."""

    DENIED = auto()
    TAKEN = auto()
    CURRENT = auto()
    BEHIND = auto()
    FAILED = auto()
    GONE = auto()


TRANSITIONS: Mapping[State, Mapping[Step, State]] = {
    State.NEW: {Step.DENIED: State.NEW, Step.TAKEN: State.CREATING},
    State.CREATING: {
        Step.DENIED: State.CREATING,
        Step.CURRENT: State.WRITTEN,
        Step.BEHIND: State.CHANGED,
        Step.FAILED: State.NEW,
        # The pod or its namespace is gone, or the server does not take this Event.
        Step.GONE: State.DROPPED,
    },
    State.WRITTEN: {Step.DENIED: State.CHANGED},
    State.CHANGED: {Step.DENIED: State.CHANGED, Step.TAKEN: State.UPDATING},
    State.UPDATING: {
        Step.DENIED: State.UPDATING,
        Step.CURRENT: State.WRITTEN,
        Step.BEHIND: State.CHANGED,
        Step.FAILED: State.CHANGED,
        Step.GONE: State.NEW,
    },
    State.DROPPED: {},
}
"""The next state. A step that a state does not have is an error of the caller."""

IN_FLIGHT = frozenset({State.CREATING, State.UPDATING})
UNWRITTEN = frozenset({State.NEW, State.CHANGED})

OTHER_PEERS = ""
"""In place of a peer: addresses outside the cluster that were too many for an Event each."""

MAX_ADDRESSES = 256
"""Addresses of a series that are told apart."""

MAX_PORTS = 6
"""Ports of a series that are told apart: one more than a message names."""


class PodIdentity(NamedTuple):
    """A pod. `created`: its creationTimestamp, so that a successor of the same name is another pod."""

    namespace: str
    name: str
    created: str


class Key(NamedTuple):
    """What makes denials one series. `peer`: ns/workload, a domain name, an address, or `OTHER_PEERS`. `is_outside`: it is an address."""

    pod: PodIdentity
    direction: Direction
    reason: Reason
    peer: str
    is_outside: bool


@dataclass(slots=True)
class Series:
    """Denials of one key. `decision`: the newest. `first_s`, `last_s`: Unix time; all other times are of a monotonic clock.

    `addresses`, `ports`: those seen first. `token`: part of the Event's name. `seen_at`: of the last denial. `due_at`: of the next write.
    """

    key: Key
    token: int
    decision: Decision
    first_s: float
    last_s: float
    seen_at: float
    due_at: float
    state: State = State.NEW
    connections: int = 0
    addresses: dict[str, None] = field(default_factory=dict)
    ports: dict[str, None] = field(default_factory=dict)

    def step(self, step: Step) -> State:
        """Take a step. Returns the new state. Raises `KeyError` if the state has no such step."""
        self.state = TRANSITIONS[self.state][step]
        return self.state

    def note_address(self, address: str) -> None:
        if len(self.addresses) < MAX_ADDRESSES:
            self.addresses.setdefault(address)

    def note_port(self, port: str) -> None:
        if len(self.ports) < MAX_PORTS:
            self.ports.setdefault(port)
