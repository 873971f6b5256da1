"""The replacement's state machine: every event in every state, and its times."""

import math

from collections.abc import Mapping

import pytest

from netpolq.ipc.takeover.machines import Replacement
from netpolq.ipc.takeover.messages import (
    AdoptLock,
    Close,
    CloseDescriptor,
    Ended,
    Failure,
    GiveUp,
    LocalProtocolError,
    Message,
    Received,
    RemoteProtocolError,
    ReplacementEffect,
    ReplacementEvent,
    ReplacementTask,
    Send,
    Word,
)
from netpolq.ipc.takeover.protocol import CONNECTED, REPLACEMENT, ReplacementState

OWN_QUEUES = range(102, 104)
DESCRIPTOR = 9

QUEUES = Received(Message(Word.QUEUES, "100:101"))
QUEUES_IN_USE = Received(Message(Word.QUEUES, "101:102"))
MALFORMED = tuple(Received(Message(Word.QUEUES, text)) for text in ("", "100", "a:b", "1:2:3"))
STANDING_DOWN = Received(Message(Word.STANDING_DOWN))
REFUSED = Received(Message(Word.REFUSED))
LEFT = Received(Message(Word.LEFT))
LEFT_WITH_LOCK = Received(Message(Word.LEFT), descriptor=DESCRIPTOR)
REQUESTS = tuple(Received(Message(word)) for word in (Word.KEY, Word.STAND_DOWN, Word.LEAVE))
END = Ended()
FROM_PEER = (QUEUES, QUEUES_IN_USE, *MALFORMED, STANDING_DOWN, REFUSED, LEFT, LEFT_WITH_LOCK, *REQUESTS, END)

STARTING, GREETING, SYNCING, REQUESTING, INSTALLING, FINISHING, ACQUIRING, SERVING, LOST = ReplacementState
ACQUIRED, AGENT_FOUND, NAME_TAKEN, SYNCED, INSTALLED, STOPPING = ReplacementEvent
EVENTS = (*FROM_PEER, *ReplacementEvent)

Event = Received | Ended | ReplacementEvent
Expected = tuple[ReplacementState, tuple[ReplacementEffect, ...]]

PATH: Mapping[ReplacementState, tuple[Event, ...]] = {
    STARTING: (),
    GREETING: (AGENT_FOUND,),
    SYNCING: (AGENT_FOUND, QUEUES),
    REQUESTING: (AGENT_FOUND, QUEUES, SYNCED),
    INSTALLING: (AGENT_FOUND, QUEUES, SYNCED, STANDING_DOWN),
    FINISHING: (AGENT_FOUND, QUEUES, SYNCED, STANDING_DOWN, INSTALLED),
    ACQUIRING: (AGENT_FOUND, QUEUES, END),
    SERVING: (ACQUIRED,),
    LOST: (AGENT_FOUND, QUEUES, REFUSED),
}

UNSUPPORTED = (LOST, (Close(), GiveUp(Failure.UNSUPPORTED)))
REJECTED = (LOST, (Close(), GiveUp(Failure.REFUSED)))
STOPPED = (LOST, (Close(),))
LEAVES: Mapping[Event, Expected] = {
    LEFT_WITH_LOCK: (ACQUIRING, (Close(), AdoptLock(DESCRIPTOR))),
    END: (ACQUIRING, (Close(), ReplacementTask.ACQUIRE_LOCK)),
    STOPPING: STOPPED,
}
BECOMES_AGENT = (SERVING, (ReplacementTask.SERVE, ReplacementTask.REPORT_STOOD_DOWN, ReplacementTask.REPORT_PEER_GONE))

LEGAL: Mapping[ReplacementState, Mapping[Event, Expected]] = {
    STARTING: {ACQUIRED: (SERVING, ()), AGENT_FOUND: (GREETING, ()), NAME_TAKEN: (STARTING, ())},
    GREETING: {
        QUEUES: (SYNCING, (Send(Word.KEY),)),
        QUEUES_IN_USE: (LOST, (Close(), GiveUp(Failure.QUEUES_IN_USE))),
        END: UNSUPPORTED,
        STOPPING: STOPPED,
    },
    SYNCING: {**LEAVES, SYNCED: (REQUESTING, (Send(Word.STAND_DOWN),)), REFUSED: REJECTED, LEFT: (SYNCING, ())},
    REQUESTING: {
        **LEAVES,
        SYNCED: (REQUESTING, (Send(Word.STAND_DOWN),)),
        STANDING_DOWN: (INSTALLING, (ReplacementTask.REPORT_STOOD_DOWN,)),
        REFUSED: REJECTED,
        LEFT: (REQUESTING, ()),
    },
    INSTALLING: {
        **LEAVES,
        SYNCED: (INSTALLING, (ReplacementTask.REPORT_STOOD_DOWN,)),
        INSTALLED: (FINISHING, (Send(Word.LEAVE),)),
        **dict.fromkeys((STANDING_DOWN, REFUSED, LEFT), (INSTALLING, ())),
    },
    FINISHING: {
        **LEAVES,
        SYNCED: (FINISHING, (ReplacementTask.REPORT_STOOD_DOWN,)),
        INSTALLED: (FINISHING, (Send(Word.LEAVE),)),
        **dict.fromkeys((STANDING_DOWN, REFUSED, LEFT), (FINISHING, ())),
    },
    ACQUIRING: {
        ACQUIRED: BECOMES_AGENT,
        AGENT_FOUND: (LOST, (Close(), GiveUp(Failure.OTHER_AGENT))),
        **dict.fromkeys((NAME_TAKEN, SYNCED, INSTALLED), (ACQUIRING, ())),
        STOPPING: (LOST, ()),
    },
    SERVING: {
        SYNCED: (SERVING, (ReplacementTask.REPORT_STOOD_DOWN,)),
        **dict.fromkeys((INSTALLED, STOPPING), (SERVING, ())),
    },
    LOST: dict.fromkeys((SYNCED, INSTALLED, STOPPING), (LOST, ())),
}


def replacement_in(state: ReplacementState) -> Replacement:
    replacement = Replacement(OWN_QUEUES, 0.0)
    for event in PATH[state]:
        replacement.handle(event, 0.0)
    assert replacement.state is state
    return replacement


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("state", ReplacementState)
def test_each_event_in_each_state(state: ReplacementState, event: Event) -> None:
    """What is not legal is their error if a connected peer has sent it, and ours otherwise."""
    replacement = replacement_in(state)
    if event in LEGAL[state]:
        effects = replacement.handle(event, 1.0)
        assert (replacement.state, effects) == LEGAL[state][event]
    elif state in CONNECTED and isinstance(event, Received) and event.message is not None:
        effects = replacement.handle(event, 1.0)
        error = RemoteProtocolError(word=event.message.word, peer=event.peer, state=state.name)
        failure = GiveUp(Failure.UNSUPPORTED if state is GREETING else Failure.PROTOCOL)
        unused = () if event.descriptor is None else (CloseDescriptor(event.descriptor),)
        assert (replacement.state, effects) == (LOST, (*unused, error, Close(), failure))
    else:
        with pytest.raises(LocalProtocolError, match=state.name):
            replacement.handle(event, 1.0)
        assert replacement.state is state


def test_the_table_has_no_row_that_is_never_used() -> None:
    """Each row is a state and an input of the expectations above, or of the times below."""
    used = {
        state: {event.message.word for event in LEGAL[state] if isinstance(event, Received) and event.message} for state in LEGAL
    }
    for state, cause in REPLACEMENT:
        if isinstance(cause, Word):
            assert cause in used[state]
        elif isinstance(cause, ReplacementEvent):
            assert cause in LEGAL[state]


@pytest.mark.parametrize("state", [state for state in ReplacementState if state in CONNECTED])
def test_a_descriptor_is_closed_unless_it_is_the_lock(state: ReplacementState) -> None:
    for event in FROM_PEER:
        if not isinstance(event, Received) or event == LEFT_WITH_LOCK:
            continue
        effects = replacement_in(state).handle(Received(event.message, descriptor=DESCRIPTOR), 1.0)
        if event == LEFT and state is not GREETING:
            assert effects == (Close(), AdoptLock(DESCRIPTOR))
        else:
            assert effects[0] == CloseDescriptor(DESCRIPTOR)
            assert AdoptLock(DESCRIPTOR) not in effects
    replacement = replacement_in(state)
    assert replacement.handle(Received(None, descriptor=DESCRIPTOR), 1.0) == (CloseDescriptor(DESCRIPTOR),)
    assert replacement.handle(Received(None), 1.0) == ()
    assert replacement.state is state


# --- times -------------------------------------------------------------------------------------------------------------------------------


def test_a_start_tries_to_acquire_the_lock_for_half_a_second() -> None:
    """The program that holds the name may be an agent that starts or ends. After that, the process serves without the lock."""
    replacement = Replacement(OWN_QUEUES, 10.0)
    assert replacement.due == 10.0
    assert replacement.handle_timer(10.0) == (ReplacementTask.ACQUIRE_LOCK,)
    replacement.handle(NAME_TAKEN, 10.0)
    assert replacement.due == 10.05
    assert replacement.handle_timer(10.04) == ()
    assert replacement.handle_timer(10.05) == (ReplacementTask.ACQUIRE_LOCK,)
    assert replacement.due == 10.5
    replacement.handle(NAME_TAKEN, 10.06)
    assert (replacement.handle_timer(10.5), replacement.state, replacement.due) == ((), SERVING, math.inf)


def test_a_replacement_tries_for_half_a_second_to_acquire_the_lock_of_an_agent_that_has_ended() -> None:
    replacement = replacement_in(ACQUIRING)
    replacement.handle(NAME_TAKEN, 0.0)
    assert replacement.due == 0.05
    assert replacement.handle_timer(0.05) == (ReplacementTask.ACQUIRE_LOCK,)
    assert replacement.handle_timer(0.4) == ()  # the attempt has no result yet
    replacement.handle(NAME_TAKEN, 0.4)
    effects = replacement.handle_timer(0.5)
    assert (replacement.state, effects) == BECOMES_AGENT
    assert replacement.due == math.inf


def test_an_agent_that_does_not_send_its_queues_within_two_seconds_does_not_support_takeover() -> None:
    replacement = Replacement(OWN_QUEUES, 0.0)
    replacement.handle(AGENT_FOUND, 5.0)
    assert replacement.due == 7.0
    assert replacement.handle_timer(6.9) == ()
    effects = replacement.handle_timer(7.0)
    assert (replacement.state, effects) == UNSUPPORTED


@pytest.mark.parametrize("state", [SYNCING, REQUESTING, INSTALLING, FINISHING, SERVING, LOST])
def test_the_other_states_have_no_limit(state: ReplacementState) -> None:
    replacement = replacement_in(state)
    assert (replacement.due, replacement.handle_timer(1e9)) == (math.inf, ())
    assert replacement.state is state


def test_the_queues_of_the_running_agent_are_known_after_the_greeting() -> None:
    assert replacement_in(SYNCING).taken == range(100, 102)
