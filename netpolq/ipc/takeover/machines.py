"""The two state machines of a takeover. They do no I/O: events in, effects out, and the present time (monotonic seconds) is an argument.

An adapter calls `handle` with each event, and at `due` calls `handle_timer`. It carries out the effects in their order. The rules are in
`netpolq.ipc.takeover.protocol`.
"""

import hmac
import math

from dataclasses import replace
from itertools import chain

from netpolq.ipc.takeover.messages import (
    HOLDER,
    AdoptLock,
    AgentEffect,
    AgentEvent,
    Close,
    CloseDescriptor,
    Connected,
    Ended,
    Failure,
    GiveUp,
    HandOnLock,
    LocalProtocolError,
    Message,
    PeerId,
    Received,
    RemoteProtocolError,
    ReplacementEffect,
    ReplacementEvent,
    Send,
    Word,
    parse_queues,
)
from netpolq.ipc.takeover.protocol import (
    ACQUIRE_RETRY_S,
    AGENT,
    CONNECTED,
    CONNECTIONS,
    KEY_LIMIT_S,
    LIMITS_S,
    MAX_PEERS,
    REPLACEMENT,
    STAND_DOWN_LIMIT_S,
    AgentInput,
    AgentState,
    Cause,
    ReplacementInput,
    ReplacementState,
    Role,
)

AgentEffects = tuple[AgentEffect, ...]
ReplacementEffects = tuple[ReplacementEffect, ...]


class RunningAgent:
    """The agent that holds the lock. `key`: that of its key file; with an empty one, no agent can take over.

    `successor`: the connection of the agent that is taking over, or has. `successor_queues`: those that it has named with `LEAVE`; empty
    if it has not, or has ended.
    """

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.state = AgentState.SERVING
        self.successor: PeerId | None = None
        self.successor_queues = range(0)
        self._roles: dict[PeerId, Role] = {}
        self._key_dues: dict[PeerId, float] = {}
        """Until when each stranger must show the key, the oldest first."""
        self._supervisor_due = math.inf

    @property
    def due(self) -> float:
        """When to call `handle_timer`; infinity: never."""
        return min(self._supervisor_due, *self._key_dues.values(), math.inf)

    def handle(self, event: AgentEvent | Connected | Received | Ended, now: float) -> AgentEffects:
        """Handle an event. Raises `LocalProtocolError`."""
        match event:
            case Connected(peer):
                oldest = next(iter(self._key_dues)) if len(self._key_dues) >= MAX_PEERS else None
                self._roles[peer], self._key_dues[peer] = Role.STRANGER, now + KEY_LIMIT_S
                closed = self._close(oldest, now, "too many connections") if oldest is not None else ()
                return (*closed, Send(Word.QUEUES, peer))
            case Received(peer=peer) | Ended(peer) if peer not in self._roles:
                raise LocalProtocolError(f"{event} after the connection was closed")
            case Received(message, peer, descriptor):
                unused = () if descriptor is None else (CloseDescriptor(descriptor),)
                return unused if message is None else (*unused, *self._on_message(peer, message, now))
            case Ended(peer):
                return self._close(peer, now)
            case AgentEvent.DRAINED:
                handed_on = self._advance(event, self.successor, now)
                return (*handed_on, *chain.from_iterable(map(self._forget, tuple(self._roles))))
            case AgentEvent():
                return self._advance(event, self.successor, now)

    def handle_timer(self, now: float) -> AgentEffects:
        """Close connections without a key, and kill a supervisor that takes too long to stand down."""
        late = [peer for peer, due in self._key_dues.items() if now >= due]
        closed = tuple(chain.from_iterable(self._close(peer, now, f"no key within {KEY_LIMIT_S:.0f} s") for peer in late))
        return closed if now < self._supervisor_due else (*closed, *self._advance(Cause.TIMEOUT, self.successor, now))

    def _on_message(self, peer: PeerId, message: Message, now: float) -> AgentEffects:
        before, cause = self._roles[peer], self._classified(peer, message)
        role = CONNECTIONS.get((before, cause))
        if role is None:
            return self._on_breach(peer, message.word, now)
        if before is Role.STRANGER and role is not before:
            if len(self._roles) - len(self._key_dues) >= MAX_PEERS:
                return self._close(peer, now, "too many connections")
            del self._key_dues[peer]
        self._roles[peer] = role
        if cause is Cause.WRONG_KEY:
            return (Send(Word.REFUSED, peer),)
        if role is not Role.SUCCESSOR or cause is Word.KEY:
            return ()
        self.successor = peer
        if cause is Word.LEAVE:
            self.successor_queues = _queues_in(message)
        return self._advance(cause, peer, now) if (self.state, cause) in AGENT else self._on_breach(peer, message.word, now)

    def _classified(self, peer: PeerId, message: Message) -> AgentInput:
        if message.word not in {Word.KEY, Word.STAND_DOWN}:
            return message.word
        if not _is_key(self.key, message.argument):
            return Cause.WRONG_KEY
        is_rival = message.word is Word.STAND_DOWN and self.state is not AgentState.SERVING and peer != self.successor
        return Cause.RIVAL_REQUEST if is_rival else message.word

    def _on_breach(self, peer: PeerId, word: Word, now: float) -> AgentEffects:
        return (RemoteProtocolError(peer, word, self.state.name), *self._close(peer, now))

    def _close(self, peer: PeerId, now: float, reason: str = "") -> AgentEffects:
        closed = self._forget(peer, reason)
        if peer != self.successor:
            return closed
        consequence = self._advance(Cause.END, peer, now)
        self.successor, self.successor_queues = None, range(0)
        return (*closed, *consequence)

    def _forget(self, peer: PeerId, reason: str = "") -> AgentEffects:
        del self._roles[peer]
        self._key_dues.pop(peer, None)
        return (Close(peer, reason),)

    def _advance(self, cause: AgentInput, peer: PeerId | None, now: float) -> AgentEffects:
        try:
            state, effects = AGENT[self.state, cause]
        except KeyError:
            raise LocalProtocolError(f"{cause.name} while {self.state.name}") from None
        if state is not self.state or cause is Cause.TIMEOUT:
            self._supervisor_due = now + STAND_DOWN_LIMIT_S if state is AgentState.STANDING_DOWN else math.inf
        self.state = state
        return _addressed(effects, peer)


class Replacement:
    """A process that starts, and takes over if there is a running agent. `queues`: those that it will serve.

    `taken`: the queues of the running agent. The first call is `handle_timer`.
    """

    def __init__(self, queues: range, now: float) -> None:
        self.state = ReplacementState.STARTING
        self.taken = range(0)
        self._queues = queues
        self._limit = now + LIMITS_S[self.state]
        self._retry_due = now

    @property
    def due(self) -> float:
        """When to call `handle_timer`; infinity: never."""
        return min(self._retry_due, self._limit)

    def handle(self, event: ReplacementEvent | Received | Ended, now: float) -> ReplacementEffects:
        """Handle an event. Raises `LocalProtocolError`."""
        match event:
            case ReplacementEvent():
                return self._advance(event, now)
            case Received() | Ended() if self.state in CONNECTED:
                return self._advance(Cause.END, now) if isinstance(event, Ended) else self._on_received(event, now)
            case Received() | Ended():
                raise LocalProtocolError(f"{event} while {self.state.name}")

    def handle_timer(self, now: float) -> ReplacementEffects:
        """Try to acquire the lock again, or end the wait of this state."""
        if now >= self._limit:
            return self._advance(Cause.TIMEOUT, now)
        return self._advance(Cause.RETRY, now) if now >= self._retry_due else ()

    def _on_received(self, event: Received, now: float) -> ReplacementEffects:
        effects = () if event.message is None else self._on_message(event.message, event.descriptor, now)
        if event.descriptor is None:
            return effects
        if AdoptLock() not in effects:
            return (CloseDescriptor(event.descriptor), *effects)
        return tuple(AdoptLock(event.descriptor) if effect == AdoptLock() else effect for effect in effects)

    def _on_message(self, message: Message, descriptor: int | None, now: float) -> ReplacementEffects:
        cause: ReplacementInput = message.word
        if message.word is Word.LEFT and descriptor is not None:
            cause = Cause.LEFT_WITH_LOCK
        elif message.word is Word.QUEUES and self.state is ReplacementState.GREETING:
            try:
                self.taken = parse_queues(message.argument)
            except ValueError:
                return self._on_breach(message.word)
            cause = Cause.QUEUES_IN_USE if set(self.taken) & set(self._queues) else message.word
        return self._advance(cause, now) if (self.state, cause) in REPLACEMENT else self._on_breach(message.word)

    def _on_breach(self, word: Word) -> ReplacementEffects:
        error = RemoteProtocolError(HOLDER, word, self.state.name)
        failure = Failure.UNSUPPORTED if self.state is ReplacementState.GREETING else Failure.PROTOCOL
        self._enter(ReplacementState.LOST, math.inf)
        return (error, Close(), GiveUp(failure))

    def _advance(self, cause: ReplacementInput, now: float) -> ReplacementEffects:
        try:
            state, effects = REPLACEMENT[self.state, cause]
        except KeyError:
            raise LocalProtocolError(f"{cause.name} while {self.state.name}") from None
        if state is not self.state:
            self._enter(state, now)
        elif cause in {ReplacementEvent.NAME_TAKEN, Cause.RETRY}:
            self._retry_due = now + ACQUIRE_RETRY_S if cause is ReplacementEvent.NAME_TAKEN else math.inf
        return effects

    def _enter(self, state: ReplacementState, now: float) -> None:
        self.state, self._retry_due = state, math.inf
        self._limit = now + LIMITS_S.get(state, math.inf)


def _is_key(wanted: str, given: str) -> bool:
    """Whether the given key is the wanted one. An empty key never is."""
    return bool(wanted) and hmac.compare_digest(wanted.encode(), given.encode())


def _queues_in(message: Message) -> range:
    """The queues that a replacement names with `LEAVE`. It has done its part: a `LEAVE` without them, or with others, counts too."""
    try:
        return parse_queues(message.argument)
    except ValueError:
        return range(0)


def _addressed(effects: AgentEffects, peer: PeerId | None) -> AgentEffects:
    """The effects of a table's row, with the peer of the event."""
    return tuple(
        replace(effect, peer=peer) if peer is not None and isinstance(effect, Send | HandOnLock) else effect for effect in effects
    )
