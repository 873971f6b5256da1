"""Election of one agent by a Lease, as a state machine without I/O.

A follower counts the time for which the Lease does not change, on its own clock. It never compares the times in the Lease with its clock,
because the clocks of machines differ. A leader counts from before it sends a renewal, a follower from after it has seen the change. So the
leader stops first. An update names the version of the Lease that was read: of two agents that write, one gets a conflict.
Source: the rules of client-go's leader election (k8s.io/client-go/tools/leaderelection).

Send the events of the world to `on`, which returns the request to make next; its outcome is the next event. `due` gives the events of
the clock. Time is an argument: seconds of a monotonic clock.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto

from netpolq.policy_status.lease import Lease
from netpolq.policy_status.timing import Timing

_MAX_LEASE_S = 3600.0
"""Maximum duration that a Lease of another agent is granted."""


class State(Enum):
    """What this agent does. It leads in LEADING and RENEWING only."""

    FOLLOWING = auto()
    READING = auto()
    ACQUIRING = auto()
    LEADING = auto()
    RENEWING = auto()
    RELEASING = auto()
    ENDED = auto()


class Event(Enum):
    """DUE, EXPIRED: of the clock. FREE, HELD: a Lease was read. WRITTEN, CONFLICT: of an update. FAILED: of any request. STOP: shutdown."""

    DUE = auto()
    EXPIRED = auto()
    FREE = auto()
    HELD = auto()
    WRITTEN = auto()
    CONFLICT = auto()
    FAILED = auto()
    STOP = auto()


class Request(Enum):
    """The request of a state."""

    READ = auto()
    WRITE = auto()
    RELEASE = auto()


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.FOLLOWING: {Event.DUE: State.READING, Event.STOP: State.ENDED},
    State.READING: {
        Event.FREE: State.ACQUIRING,
        Event.HELD: State.FOLLOWING,
        Event.FAILED: State.FOLLOWING,
        Event.STOP: State.ENDED,
    },
    State.ACQUIRING: {
        Event.WRITTEN: State.LEADING,
        Event.CONFLICT: State.FOLLOWING,
        # If the server has taken the update, the next read finds this agent as the holder, and the Lease is free for it.
        Event.FAILED: State.FOLLOWING,
        Event.STOP: State.RELEASING,
    },
    State.LEADING: {Event.DUE: State.RENEWING, Event.EXPIRED: State.FOLLOWING, Event.STOP: State.RELEASING},
    State.RENEWING: {
        Event.WRITTEN: State.LEADING,
        # Another writer, or an earlier renewal whose answer was lost. Until the Lease is read, this agent does not lead.
        Event.CONFLICT: State.READING,
        Event.FAILED: State.LEADING,
        Event.STOP: State.RELEASING,
    },
    State.RELEASING: {Event.WRITTEN: State.ENDED, Event.CONFLICT: State.ENDED, Event.FAILED: State.ENDED},
    State.ENDED: {},
}
"""The next state. An event that a state does not have is an error of the caller."""

REQUESTS: Mapping[State, Request] = {
    State.READING: Request.READ,
    State.ACQUIRING: Request.WRITE,
    State.RENEWING: Request.WRITE,
    State.RELEASING: Request.RELEASE,
}


class Election:
    """One agent in the election. `identity`: unique in the cluster. `noise`: random numbers from 0 to 1. `now`: of the start."""

    def __init__(self, identity: str, timing: Timing, noise: Callable[[], float], now: float) -> None:
        self.identity = identity
        self.state = State.FOLLOWING
        self._timing = timing
        self._noise = noise
        self._next_at = now + noise() * min(timing.retry_s, timing.look_s)
        self._sent_at = now
        self._leads_until = now
        self._seen: tuple[str, str, str] | None = None
        self._seen_at = now

    def is_leading(self, now: float) -> bool:
        """Whether this agent may write now."""
        return self.state in (State.LEADING, State.RENEWING) and now < self._leads_until

    def due(self, now: float) -> Event | None:
        """The event of the clock, if there is one. Only between requests."""
        if self.state is State.LEADING and now >= self._leads_until:
            return Event.EXPIRED
        return Event.DUE if now >= self._next_at else None

    def delay_s(self, now: float) -> float:
        """The time until the next event of the clock."""
        at = min(self._next_at, self._leads_until) if self.state is State.LEADING else self._next_at
        return max(0.0, at - now)

    def observe(self, lease: Lease | None, now: float) -> Event:
        """The event of a Lease that was read: FREE or HELD. None: there is no Lease. `now`: after the answer."""
        if lease is None or lease.holder in ("", self.identity):
            return Event.FREE
        seen = (lease.holder, lease.renew_time, lease.version)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        duration_s = min(max(lease.duration_s, self._timing.lease_s), _MAX_LEASE_S)
        return Event.FREE if now >= self._seen_at + duration_s else Event.HELD

    def on(self, event: Event, now: float) -> Request | None:
        """Take an event. Returns the next request, or None until the clock's next one. Raises `KeyError` if the state has no such event."""
        before = self.state
        self.state = TRANSITIONS[before][event]
        if self.state in (State.ACQUIRING, State.RENEWING):
            self._sent_at = now
        elif self.state is State.LEADING:
            if event is Event.WRITTEN:
                self._leads_until = self._sent_at + self._timing.deadline_s
            self._next_at = now + (self._timing.renew_s if event is Event.WRITTEN else self._timing.retry_s)
        elif self.state is State.FOLLOWING:
            # Random, so that a thousand agents do not ask at the same time.
            self._next_at = now + self._timing.look_s * (0.5 + self._noise())
        return REQUESTS.get(self.state)
