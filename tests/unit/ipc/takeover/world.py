"""A model of agents that take over from each other: their machines, the messages in flight, their supervisors, and the one lock.

`World.steps` are the steps that are possible next, in any order. A step carries out the effects of a machine as the adapters do. It raises
`AssertionError` when an agent breaks the protocol, or a connection or the lock is closed twice or used after its end.
"""

from collections.abc import Callable, Iterator
from enum import Enum, auto
from functools import partial
from typing import assert_never

from netpolq.ipc.takeover.machines import AgentEffects, Replacement, ReplacementEffects, RunningAgent
from netpolq.ipc.takeover.messages import (
    AdoptLock,
    AgentEvent,
    AgentTask,
    Close,
    CloseDescriptor,
    Connected,
    Drain,
    Ended,
    GiveUp,
    HandOnLock,
    Message,
    PeerId,
    Received,
    RemoteProtocolError,
    ReplacementEvent,
    ReplacementTask,
    Send,
    Word,
)
from netpolq.ipc.takeover.protocol import CONNECTED, AgentState, ReplacementState

KEY = "0123456789abcdef"
LOCK = 7
AGENT = PeerId(0)
QUEUES = {Word.QUEUES: "100:101", Word.KEY: KEY, Word.STAND_DOWN: KEY, Word.LEAVE: "200:201"}
MAX_REQUESTS = 2
"""Requests of one replacement, and answers to them, in flight. It repeats them, and the worlds must not be infinitely many."""

Step = Callable[["World"], None]


class Supervisor(Enum):
    """The supervisor of an agent."""

    ABSENT = auto()
    RUNNING = auto()
    STOPPING = auto()
    """It has been told to stop, and may change the ruleset until it has."""


class Candidate:
    """A replacement and its connection, with the messages in flight; None is the end. `to_self`: with whether the lock is passed."""

    def __init__(self) -> None:
        self.machine = Replacement(range(200, 202), 0.0)
        self.is_alive = True
        self.may_change_rules = False
        self.has_installed = False
        self.to_agent: list[Message | None] = []
        self.to_self: list[tuple[Message, bool] | None] = []

    @property
    def requests(self) -> int:
        return self.to_agent.count(Message(Word.STAND_DOWN, KEY)) + self.to_self.count((Message(Word.STANDING_DOWN), False))


class World:
    """A running agent and its replacements. `holder`: the owner of the lock; None: it is free. `faults`: how many may still happen."""

    def __init__(self, replacements: int, faults: int) -> None:
        self.agent = RunningAgent(KEY)
        self.supervisor = Supervisor.RUNNING
        self.is_alive = True
        self.must_stop = self.is_draining = False
        self.holder: PeerId | None = AGENT
        self.open_at_agent: set[PeerId] = set()
        self.candidates = {PeerId(number): Candidate() for number in range(1, replacements + 1)}
        self.faults = faults
        for peer, one in self.candidates.items():
            self.open_at_agent.add(peer)
            self._at_agent(self.agent.handle(Connected(peer), 0.0))
            self._at_candidate(peer, one.machine.handle(ReplacementEvent.AGENT_FOUND, 0.0))

    @property
    def key(self) -> str:
        """Equal for worlds with the same future."""
        machines = [vars(self.agent), *(vars(one.machine) for one in self.candidates.values())]
        parts = [*(vars(one) for one in self.candidates.values()), vars(self)]
        return repr(
            [
                machines,
                *(
                    {name: value for name, value in part.items() if name not in {"agent", "machine", "candidates"}}
                    for part in parts
                ),
            ]
        )

    # --- steps --------------------------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[str, Step]]:
        """The name of each possible step, and the step."""
        if self.is_alive:
            if self.supervisor is Supervisor.STOPPING:
                yield "supervisor exits", World.supervisor_exits
            if self.supervisor is Supervisor.ABSENT and self.agent.state is AgentState.SERVING:
                yield "supervisor starts", World.supervisor_starts
            if self.must_stop:
                yield "agent stops", World.agent_stops
            if self.is_draining and self.supervisor is Supervisor.ABSENT:
                yield "agent has drained", World.agent_has_drained
        for peer, one in self.candidates.items():
            if self.is_alive and peer in self.open_at_agent and one.to_agent:
                yield f"agent receives from {peer}", partial(World.agent_receives, peer=peer)
            if not one.is_alive:
                continue
            if one.to_self and one.machine.state in CONNECTED:
                yield f"{peer} receives", partial(World.candidate_receives, peer=peer)
            if one.machine.state in {ReplacementState.GREETING, ReplacementState.LOST}:
                continue
            if not one.may_change_rules and one.requests < MAX_REQUESTS:
                yield f"{peer} has synced", partial(World.candidate_tells, peer=peer, event=ReplacementEvent.SYNCED)
            if one.may_change_rules and not one.has_installed:
                yield f"{peer} has installed", partial(World.candidate_tells, peer=peer, event=ReplacementEvent.INSTALLED)

    def possible_faults(self) -> Iterator[tuple[str, Step]]:
        """The steps that happen at most `faults` times."""
        if not self.faults:
            return
        if self.is_alive:
            yield "agent is killed", World.agent_dies
            if not self.is_draining:
                yield "agent gets SIGTERM", World.agent_stops
            if self.supervisor is Supervisor.RUNNING and self.agent.state is AgentState.SERVING:
                yield "supervisor crashes", World.supervisor_exits
            yield "time passes", World.time_passes
        for peer, one in self.candidates.items():
            if one.is_alive and one.machine.state is not ReplacementState.LOST:
                yield f"{peer} is killed", partial(World.candidate_dies, peer=peer)
                yield f"{peer} gets SIGTERM", partial(World.candidate_stops, peer=peer)
                if one.may_change_rules:
                    yield f"the supervisor of {peer} restarts", partial(World.candidate_restarts, peer=peer)

    def supervisor_exits(self) -> None:
        self.supervisor = Supervisor.ABSENT
        self._at_agent(self.agent.handle(AgentEvent.SUPERVISOR_EXITED, 0.0))

    def supervisor_starts(self) -> None:
        self.supervisor = Supervisor.RUNNING

    def agent_receives(self, peer: PeerId) -> None:
        message = self.candidates[peer].to_agent.pop(0)
        self._at_agent(self.agent.handle(Ended(peer) if message is None else Received(message, peer), 0.0))

    def agent_stops(self) -> None:
        self.must_stop = False
        self._at_agent(self.agent.handle(AgentEvent.STOPPING, 0.0))

    def agent_has_drained(self) -> None:
        self._at_agent(self.agent.handle(AgentEvent.DRAINED, 0.0))
        assert not self.open_at_agent
        self.is_alive = False

    def agent_dies(self) -> None:
        self.is_alive, self.supervisor = False, Supervisor.ABSENT
        if self.holder == AGENT:
            self.holder = None
        for peer in sorted(self.open_at_agent):
            self._close_at_agent(peer)

    def time_passes(self) -> None:
        due = self.agent.due
        self._at_agent(self.agent.handle_timer(due) if due < float("inf") else ())

    def candidate_receives(self, peer: PeerId) -> None:
        one = self.candidates[peer]
        arrived = one.to_self.pop(0)
        event = Ended() if arrived is None else Received(arrived[0], descriptor=LOCK if arrived[1] else None)
        self._at_candidate(peer, one.machine.handle(event, 0.0))

    def candidate_tells(self, peer: PeerId, event: ReplacementEvent) -> None:
        self.candidates[peer].has_installed = event is ReplacementEvent.INSTALLED
        self._at_candidate(peer, self.candidates[peer].machine.handle(event, 0.0))

    def candidate_restarts(self, peer: PeerId) -> None:
        self.candidates[peer].may_change_rules = self.candidates[peer].has_installed = False

    def candidate_stops(self, peer: PeerId) -> None:
        self.candidate_restarts(peer)
        self._at_candidate(peer, self.candidates[peer].machine.handle(ReplacementEvent.STOPPING, 0.0))
        self._end_candidate(peer)

    def candidate_dies(self, peer: PeerId) -> None:
        self._end_candidate(peer)
        self._close_at_candidate(self.candidates[peer])

    def _end_candidate(self, peer: PeerId) -> None:
        self.candidates[peer].is_alive = self.candidates[peer].may_change_rules = False
        if self.holder == peer:
            self.holder = None

    # --- effects ------------------------------------------------------------------------------------------------------------------

    def _at_agent(self, effects: AgentEffects) -> None:
        for effect in effects:
            match effect:
                case Send(word, peer):
                    assert peer in self.open_at_agent
                    self.candidates[peer].to_self.append((Message(word, QUEUES.get(word, "")), False))
                case HandOnLock(peer):
                    assert peer in self.open_at_agent
                    assert self.holder == AGENT
                    if None not in self.candidates[peer].to_agent:  # otherwise there is nothing to send it to
                        self.candidates[peer].to_self.append((Message(Word.LEFT), True))
                        self.holder = peer
                case Close(peer):
                    self._close_at_agent(peer)
                case Drain():
                    self.is_draining = True
                    self._stop_supervisor()
                case CloseDescriptor() | RemoteProtocolError():
                    raise AssertionError(effect)
                case AgentTask.STOP_SUPERVISOR:
                    self._stop_supervisor()
                    if self.supervisor is Supervisor.ABSENT:
                        self._at_agent(self.agent.handle(AgentEvent.SUPERVISOR_EXITED, 0.0))
                case AgentTask.LEAVE:
                    self.must_stop = True
                case AgentTask.RELEASE_LOCK:
                    self.holder = None if self.holder == AGENT else self.holder
                case AgentTask.KILL_SUPERVISOR | AgentTask.RESUME_SUPERVISOR:
                    pass  # its exit and its start are steps
                case _:
                    assert_never(effect)

    def _stop_supervisor(self) -> None:
        if self.supervisor is Supervisor.RUNNING:
            self.supervisor = Supervisor.STOPPING

    def _close_at_agent(self, peer: PeerId) -> None:
        self.open_at_agent.remove(peer)
        self.candidates[peer].to_agent.clear()
        self.candidates[peer].to_self.append(None)

    def _at_candidate(self, peer: PeerId, effects: ReplacementEffects) -> None:
        one = self.candidates[peer]
        for effect in effects:
            match effect:
                case Send(word):
                    one.to_agent.append(Message(word, QUEUES.get(word, "")))
                case Close():
                    self._close_at_candidate(one)
                case AdoptLock(descriptor):
                    assert (descriptor, self.holder) == (LOCK, peer)
                    self._at_candidate(peer, one.machine.handle(ReplacementEvent.LOCK_ACQUIRED, 0.0))
                case GiveUp():
                    self._end_candidate(peer)
                case CloseDescriptor() | RemoteProtocolError():
                    raise AssertionError(effect)
                case ReplacementTask.ACQUIRE_LOCK:
                    event = ReplacementEvent.LOCK_ACQUIRED if self.holder is None else ReplacementEvent.AGENT_FOUND
                    self.holder = peer if self.holder is None else self.holder
                    self._at_candidate(peer, one.machine.handle(event, 0.0))
                case ReplacementTask.REPORT_STOOD_DOWN:
                    one.may_change_rules = True
                case ReplacementTask.SERVE:
                    assert self.holder == peer
                case ReplacementTask.REPORT_PEER_GONE:
                    assert one.may_change_rules
                case _:
                    assert_never(effect)

    def _close_at_candidate(self, one: Candidate) -> None:
        if any(arrived is not None and arrived[1] for arrived in one.to_self):
            self.holder = None  # the kernel closes what is in flight
        one.to_self.clear()
        one.to_agent.append(None)
