"""The states of a series: every step in every state."""

from itertools import product

import pytest

from netpolq.decision import Isolation
from netpolq.enums import Direction
from netpolq.events.series import IN_FLIGHT, TRANSITIONS, Key, PodIdentity, Reason, Series, State, Step

EXPECTED = {
    (State.NEW, Step.DENIED): State.NEW,
    (State.NEW, Step.TAKEN): State.CREATING,
    (State.CREATING, Step.DENIED): State.CREATING,
    (State.CREATING, Step.CURRENT): State.WRITTEN,
    (State.CREATING, Step.BEHIND): State.CHANGED,
    (State.CREATING, Step.FAILED): State.NEW,
    (State.CREATING, Step.GONE): State.DROPPED,
    (State.WRITTEN, Step.DENIED): State.CHANGED,
    (State.CHANGED, Step.DENIED): State.CHANGED,
    (State.CHANGED, Step.TAKEN): State.UPDATING,
    (State.UPDATING, Step.DENIED): State.UPDATING,
    (State.UPDATING, Step.CURRENT): State.WRITTEN,
    (State.UPDATING, Step.BEHIND): State.CHANGED,
    (State.UPDATING, Step.FAILED): State.CHANGED,
    (State.UPDATING, Step.GONE): State.NEW,
}
KEY = Key(PodIdentity("shop", "db-0", ""), Direction.INGRESS, Reason.DENIED, "shop/web", is_outside=False)


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)))
def test_each_step_leads_to_the_state_of_the_table_or_is_an_error(state: State, step: Step) -> None:
    series = Series(KEY, 0, Isolation(Direction.INGRESS, ("shop/db",)), 0.0, 0.0, seen_at=0.0, due_at=0.0, state=state)
    if (state, step) in EXPECTED:
        assert series.step(step) is EXPECTED[state, step]
    else:
        with pytest.raises(KeyError):
            series.step(step)


def test_a_request_under_way_ends_in_every_outcome_and_a_denial_is_taken_in_every_state() -> None:
    outcomes = {Step.CURRENT, Step.BEHIND, Step.FAILED, Step.GONE}
    for state in IN_FLIGHT:
        assert outcomes <= TRANSITIONS[state].keys()
    assert all(Step.DENIED in TRANSITIONS[state] for state in State if state is not State.DROPPED)
