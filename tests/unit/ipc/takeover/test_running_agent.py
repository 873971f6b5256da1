"""The running agent's state machine: every event in every state, limits of connections and times."""

import math

from collections.abc import Mapping

import pytest

from netpolq.ipc.takeover.machines import AgentEffects, RunningAgent
from netpolq.ipc.takeover.messages import (
    AgentEffect,
    AgentEvent,
    AgentTask,
    Close,
    CloseDescriptor,
    Connected,
    Drain,
    Ended,
    HandOnLock,
    LocalProtocolError,
    Message,
    PeerId,
    Received,
    RemoteProtocolError,
    Send,
    Word,
)
from netpolq.ipc.takeover.protocol import AGENT, MAX_PEERS, AgentState, Role

KEY = "0123456789abcdef"
SUCCESSOR, RIVAL, STRANGER = PeerId(1), PeerId(2), PeerId(3)

SHOW = Message(Word.KEY, KEY)
REQUEST = Message(Word.STAND_DOWN, KEY)
WRONG = Message(Word.KEY, "another")
WRONG_REQUEST = Message(Word.STAND_DOWN, "another")
EMPTY_REQUEST = Message(Word.STAND_DOWN)
LEAVE = Message(Word.LEAVE)
ILLEGAL = (Message(Word.QUEUES, "1:2"), Message(Word.STANDING_DOWN), Message(Word.LEFT), Message(Word.REFUSED))
MESSAGES = (SHOW, REQUEST, WRONG, WRONG_REQUEST, EMPTY_REQUEST, LEAVE, *ILLEGAL)

SERVING, STANDING_DOWN, STOOD_DOWN, LEAVING, ENDING, ENDED = AgentState
EXITED, STOPPING, DRAINED = AgentEvent
REFUSED = (Send(Word.REFUSED, SUCCESSOR),)

Expected = tuple[AgentState, tuple[AgentEffect, ...]]


def agent_in(state: AgentState) -> RunningAgent:
    """An agent with a successor (a candidate if the state has no successor), another candidate, and a stranger."""
    agent = RunningAgent(KEY)
    for peer in (SUCCESSOR, RIVAL, STRANGER):
        agent.handle(Connected(peer), 0.0)
    agent.handle(Received(SHOW, SUCCESSOR), 0.0)
    agent.handle(Received(SHOW, RIVAL), 0.0)
    if state in {STANDING_DOWN, STOOD_DOWN, LEAVING}:
        agent.handle(Received(REQUEST, SUCCESSOR), 0.0)
    if state in {STOOD_DOWN, LEAVING}:
        agent.handle(EXITED, 0.0)
    if state is LEAVING:
        agent.handle(Received(LEAVE, SUCCESSOR), 0.0)
    if state in {ENDING, ENDED}:
        agent.handle(STOPPING, 0.0)
    if state is ENDED:
        agent.handle(DRAINED, 0.0)
    assert agent.state is state
    return agent


OF_SUCCESSOR: Mapping[AgentState, Mapping[Message, Expected]] = {
    SERVING: {
        SHOW: (SERVING, ()),
        REQUEST: (STANDING_DOWN, (AgentTask.STOP_SUPERVISOR,)),
        **dict.fromkeys((WRONG, WRONG_REQUEST, EMPTY_REQUEST), (SERVING, REFUSED)),
    },
    STANDING_DOWN: {
        SHOW: (STANDING_DOWN, ()),
        REQUEST: (STANDING_DOWN, ()),
        **dict.fromkeys((WRONG, WRONG_REQUEST, EMPTY_REQUEST), (STANDING_DOWN, REFUSED)),
    },
    STOOD_DOWN: {
        SHOW: (STOOD_DOWN, ()),
        REQUEST: (STOOD_DOWN, (Send(Word.STANDING_DOWN, SUCCESSOR),)),
        LEAVE: (LEAVING, (AgentTask.LEAVE,)),
        **dict.fromkeys((WRONG, WRONG_REQUEST, EMPTY_REQUEST), (STOOD_DOWN, REFUSED)),
    },
    LEAVING: {
        SHOW: (LEAVING, ()),
        REQUEST: (LEAVING, ()),
        LEAVE: (LEAVING, ()),
        **dict.fromkeys((WRONG, WRONG_REQUEST, EMPTY_REQUEST), (LEAVING, REFUSED)),
    },
    ENDING: {
        SHOW: (ENDING, ()),
        REQUEST: (ENDING, ()),
        **dict.fromkeys((WRONG, WRONG_REQUEST, EMPTY_REQUEST), (ENDING, REFUSED)),
    },
}
"""All legal messages of the successor, or of a candidate in a state without a successor."""

AFTER_END: Mapping[AgentState, Expected] = {
    SERVING: (SERVING, ()),
    STANDING_DOWN: (SERVING, (AgentTask.RESUME_SUPERVISOR,)),
    STOOD_DOWN: (SERVING, (AgentTask.RESUME_SUPERVISOR,)),
    LEAVING: (ENDING, ()),
    ENDING: (ENDING, ()),
}
"""What follows the end of that connection."""

OF_OWN_PROCESS: Mapping[AgentState, Mapping[AgentEvent, Expected]] = {
    SERVING: {EXITED: (SERVING, ()), STOPPING: (ENDING, (Drain(0.0),))},
    STANDING_DOWN: {
        EXITED: (STOOD_DOWN, (Send(Word.STANDING_DOWN, SUCCESSOR),)),
        STOPPING: (LEAVING, (Drain(0.1),)),
    },
    STOOD_DOWN: {STOPPING: (LEAVING, (Drain(0.1),))},
    LEAVING: {
        EXITED: (LEAVING, ()),
        STOPPING: (LEAVING, (Drain(0.1),)),
        DRAINED: (ENDED, (HandOnLock(SUCCESSOR), AgentTask.RELEASE_LOCK, Close(SUCCESSOR), Close(RIVAL), Close(STRANGER))),
    },
    ENDING: {
        EXITED: (ENDING, ()),
        STOPPING: (ENDING, (Drain(0.1),)),
        DRAINED: (ENDED, (AgentTask.RELEASE_LOCK, Close(SUCCESSOR), Close(RIVAL), Close(STRANGER))),
    },
    ENDED: {},
}


@pytest.mark.parametrize("message", MESSAGES, ids=str)
@pytest.mark.parametrize("state", OF_SUCCESSOR)
def test_each_message_of_the_successor_in_each_state(state: AgentState, message: Message) -> None:
    agent = agent_in(state)
    effects = agent.handle(Received(message, SUCCESSOR), 1.0)
    if message in OF_SUCCESSOR[state]:
        assert (agent.state, effects) == OF_SUCCESSOR[state][message]
        has_successor = agent.state in {STANDING_DOWN, STOOD_DOWN, LEAVING}
        assert agent._roles[SUCCESSOR] is (Role.SUCCESSOR if has_successor else Role.CANDIDATE)
        assert agent.successor == (SUCCESSOR if has_successor else None)
        return
    after, consequence = AFTER_END[state]
    error = RemoteProtocolError(SUCCESSOR, message.word, state.name)
    assert (agent.state, effects) == (after, (error, Close(SUCCESSOR), *consequence))


@pytest.mark.parametrize("message", MESSAGES, ids=str)
@pytest.mark.parametrize("state", OF_SUCCESSOR)
def test_each_message_of_another_connection_changes_no_takeover(state: AgentState, message: Message) -> None:
    """With or without the key. While the agent serves, the request of a connection with the key begins the takeover."""
    for peer in (RIVAL, STRANGER):
        agent = agent_in(state)
        effects = agent.handle(Received(message, peer), 1.0)
        if state is SERVING and message == REQUEST:
            assert (agent.state, agent.successor, effects) == (STANDING_DOWN, peer, (AgentTask.STOP_SUPERVISOR,))
            continue
        assert agent.state is state
        assert agent.successor == (SUCCESSOR if state in {STANDING_DOWN, STOOD_DOWN, LEAVING} else None)
        role: Role | None
        expected: tuple[AgentEffect, ...]
        if message in {WRONG, WRONG_REQUEST, EMPTY_REQUEST}:
            role, expected = Role.CANDIDATE if peer == RIVAL else Role.STRANGER, (Send(Word.REFUSED, peer),)
        elif message in {SHOW, REQUEST}:
            role, expected = Role.CANDIDATE, ()
        elif message == LEAVE and peer == STRANGER:
            role, expected = Role.STRANGER, ()
        else:
            role, expected = None, (RemoteProtocolError(peer, message.word, state.name), Close(peer))
        assert (agent._roles.get(peer), effects) == (role, expected)
        assert (peer in agent._key_dues) == (role is Role.STRANGER)


@pytest.mark.parametrize("state", AFTER_END)
def test_the_end_of_a_connection_in_each_state(state: AgentState) -> None:
    for peer in (SUCCESSOR, RIVAL, STRANGER):
        agent = agent_in(state)
        after, consequence = AFTER_END[state] if peer == SUCCESSOR else (state, ())
        assert agent.handle(Ended(peer), 1.0) == (Close(peer), *consequence)
        assert agent.state is after
        with pytest.raises(LocalProtocolError):
            agent.handle(Ended(peer), 1.0)
        with pytest.raises(LocalProtocolError):
            agent.handle(Received(SHOW, peer), 1.0)


@pytest.mark.parametrize("event", AgentEvent)
@pytest.mark.parametrize("state", AgentState)
def test_each_event_of_the_own_process_in_each_state(state: AgentState, event: AgentEvent) -> None:
    agent = agent_in(state)
    if event in OF_OWN_PROCESS[state]:
        effects = agent.handle(event, 1.0)
        assert (agent.state, effects) == OF_OWN_PROCESS[state][event]
        return
    with pytest.raises(LocalProtocolError, match=f"{event.name} while {state.name}"):
        agent.handle(event, 1.0)
    assert agent.state is state


def test_an_unknown_message_has_no_effect_and_its_descriptor_is_closed() -> None:
    """Also a descriptor of a known message: no replacement may pass one."""
    for state in OF_SUCCESSOR:
        agent = agent_in(state)
        assert agent.handle(Received(None, SUCCESSOR), 1.0) == ()
        assert agent.handle(Received(None, STRANGER, 7), 1.0) == (CloseDescriptor(7),)
        assert agent.handle(Received(SHOW, SUCCESSOR, 8), 1.0) == (CloseDescriptor(8),)
        assert agent.state is state


def test_the_table_has_no_row_that_is_never_used() -> None:
    """Each row is a state and an input of the expectations above."""
    inputs: set[tuple[AgentState, object]] = {(state, event) for state in OF_OWN_PROCESS for event in OF_OWN_PROCESS[state]}
    for state, expected in OF_SUCCESSOR.items():
        inputs |= {(state, word) for word in (Word.STAND_DOWN, Word.LEAVE) if any(m.word is word for m in expected)}
    assert {(state, cause) for state, cause in AGENT if cause in {*AgentEvent, Word.STAND_DOWN, Word.LEAVE}} <= inputs


@pytest.mark.parametrize(
    ("argument", "queues"),
    [
        ("200:203", range(200, 204)),
        ("", range(0)),
        ("200", range(0)),
        ("3:1", range(0)),
        ("x:y", range(0)),
        ("0:70000", range(0)),
    ],
)
def test_leave_names_the_queues_of_the_successor_and_counts_without_them(argument: str, queues: range) -> None:
    """An agent of an earlier version names none. They are forgotten when the successor ends."""
    agent = agent_in(STOOD_DOWN)
    assert agent.handle(Received(Message(Word.LEAVE, argument), RIVAL), 1.0)[-1] == Close(RIVAL)
    assert agent.successor_queues == range(0)
    assert agent.handle(Received(Message(Word.LEAVE, argument), SUCCESSOR), 1.0) == (AgentTask.LEAVE,)
    assert agent.successor_queues == queues
    agent.handle(Ended(SUCCESSOR), 2.0)
    assert agent.successor_queues == range(0)


# --- times and limits --------------------------------------------------------------------------------------------------------------------


def test_a_connection_without_the_key_is_closed_after_five_seconds_and_one_with_it_stays() -> None:
    agent = RunningAgent(KEY)
    agent.handle(Connected(PeerId(1)), 10.0)
    agent.handle(Connected(PeerId(2)), 11.0)
    agent.handle(Received(SHOW, PeerId(2)), 12.0)
    agent.handle(Connected(PeerId(3)), 13.0)
    assert agent.due == 15.0
    assert agent.handle_timer(14.9) == ()
    assert agent.handle_timer(15.0) == (Close(PeerId(1), "no key within 5 s"),)
    assert agent.due == 18.0
    assert agent.handle_timer(18.0) == (Close(PeerId(3), "no key within 5 s"),)
    assert agent.due == math.inf


def test_a_supervisor_that_does_not_leave_is_killed_every_three_seconds_until_it_has_exited() -> None:
    agent = agent_in(SERVING)
    agent.handle(Ended(STRANGER), 0.0)
    assert agent.due == math.inf
    agent.handle(Received(REQUEST, SUCCESSOR), 20.0)
    assert agent.due == 23.0
    agent.handle(Received(REQUEST, SUCCESSOR), 21.0)  # a repetition
    assert (agent.due, agent.handle_timer(22.9)) == (23.0, ())
    assert agent.handle_timer(23.1) == (AgentTask.KILL_SUPERVISOR,)
    assert agent.due == 26.1
    agent.handle(EXITED, 24.0)
    assert (agent.due, agent.handle_timer(100.0)) == (math.inf, ())


def test_no_supervisor_is_killed_after_the_successor_has_ended() -> None:
    agent = agent_in(STANDING_DOWN)
    agent.handle(Ended(SUCCESSOR), 1.0)
    agent.handle(Ended(STRANGER), 1.0)
    assert (agent.due, agent.handle_timer(100.0)) == (math.inf, ())
    agent.handle(Received(REQUEST, RIVAL), 200.0)
    assert (agent.state, agent.successor, agent.due) == (STANDING_DOWN, RIVAL, 203.0)


def connect(agent: RunningAgent, count: int, first: int) -> list[AgentEffects]:
    return [agent.handle(Connected(PeerId(peer)), peer / 100) for peer in range(first, first + count)]


def test_the_oldest_connection_without_the_key_makes_room_for_a_new_one() -> None:
    agent = RunningAgent(KEY)
    greeted = connect(agent, MAX_PEERS, first=1)
    assert greeted == [(Send(Word.QUEUES, PeerId(peer)),) for peer in range(1, MAX_PEERS + 1)]
    assert connect(agent, 1, first=9) == [(Close(PeerId(1), "too many connections"), Send(Word.QUEUES, PeerId(9)))]


@pytest.mark.parametrize("message", [SHOW, REQUEST], ids=str)
def test_of_the_connections_with_the_key_the_newest_is_closed(message: Message) -> None:
    agent = RunningAgent(KEY)
    for peer in map(PeerId, range(1, MAX_PEERS + 1)):
        connect(agent, 1, first=peer)
        assert agent.handle(Received(SHOW, peer), 0.0) == ()
    connect(agent, 1, first=9)
    assert agent.handle(Received(message, PeerId(9)), 0.0) == (Close(PeerId(9), "too many connections"),)
    assert agent.state is SERVING


def test_an_agent_without_a_key_refuses_each_key() -> None:
    agent = RunningAgent()
    agent.handle(Connected(STRANGER), 0.0)
    for message in (EMPTY_REQUEST, Message(Word.KEY), REQUEST, SHOW):
        assert agent.handle(Received(message, STRANGER), 0.0) == (Send(Word.REFUSED, STRANGER),)
