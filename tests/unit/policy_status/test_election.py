"""The election: every event in every state, and the times at which leaders stop and followers take over."""

import itertools

import pytest

from netpolq.policy_status.election import REQUESTS, TRANSITIONS, Election, Event, Request, State
from netpolq.policy_status.lease import Lease
from netpolq.policy_status.timing import Timing

TIMING = Timing(lease_s=60, renew_s=15, deadline_s=40, retry_s=5, request_s=10, look_s=30)

EXPECTED: dict[tuple[State, Event], tuple[State, Request | None]] = {
    (State.FOLLOWING, Event.DUE): (State.READING, Request.READ),
    (State.FOLLOWING, Event.STOP): (State.ENDED, None),
    (State.READING, Event.FREE): (State.ACQUIRING, Request.WRITE),
    (State.READING, Event.HELD): (State.FOLLOWING, None),
    (State.READING, Event.FAILED): (State.FOLLOWING, None),
    (State.READING, Event.STOP): (State.ENDED, None),
    (State.ACQUIRING, Event.WRITTEN): (State.LEADING, None),
    (State.ACQUIRING, Event.CONFLICT): (State.FOLLOWING, None),
    (State.ACQUIRING, Event.FAILED): (State.FOLLOWING, None),
    (State.ACQUIRING, Event.STOP): (State.RELEASING, Request.RELEASE),
    (State.LEADING, Event.DUE): (State.RENEWING, Request.WRITE),
    (State.LEADING, Event.EXPIRED): (State.FOLLOWING, None),
    (State.LEADING, Event.STOP): (State.RELEASING, Request.RELEASE),
    (State.RENEWING, Event.WRITTEN): (State.LEADING, None),
    (State.RENEWING, Event.CONFLICT): (State.READING, Request.READ),
    (State.RENEWING, Event.FAILED): (State.LEADING, None),
    (State.RENEWING, Event.STOP): (State.RELEASING, Request.RELEASE),
    (State.RELEASING, Event.WRITTEN): (State.ENDED, None),
    (State.RELEASING, Event.CONFLICT): (State.ENDED, None),
    (State.RELEASING, Event.FAILED): (State.ENDED, None),
}


def election(now: float = 0.0, *, noise: float = 0.5, identity: str = "me") -> Election:
    return Election(identity, TIMING, lambda: noise, now)


def leader(at: float = 0.0) -> Election:
    """An election in LEADING, whose update was sent and answered at that time."""
    made = election(at)
    for event in (Event.DUE, Event.FREE, Event.WRITTEN):
        made.on(event, at)
    return made


def lease(holder: str, *, version: str = "7", duration_s: float = 60.0) -> Lease:
    return Lease(holder=holder, renew_time="2000-01-01T00:00:00.000000Z", duration_s=duration_s, version=version, body={})


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)), ids=lambda value: value.name)
def test_each_event_in_each_state(state: State, event: Event) -> None:
    made = election()
    made.state = state
    if (state, event) in EXPECTED:
        request = made.on(event, 1.0)
        assert (made.state, request) == EXPECTED[state, event]
    else:
        with pytest.raises(KeyError):
            made.on(event, 1.0)
        assert made.state is state


@pytest.mark.parametrize("state", State, ids=lambda value: value.name)
def test_a_state_with_a_request_takes_each_of_its_outcomes_and_the_shutdown(state: State) -> None:
    outcomes = {
        Request.READ: {Event.FREE, Event.HELD, Event.FAILED},
        Request.WRITE: {Event.WRITTEN, Event.CONFLICT, Event.FAILED},
        Request.RELEASE: {Event.WRITTEN, Event.CONFLICT, Event.FAILED},
    }
    request = REQUESTS.get(state)
    if request is not None:
        assert outcomes[request] <= TRANSITIONS[state].keys()
    assert (Event.STOP in TRANSITIONS[state]) == (state not in {State.RELEASING, State.ENDED})


@pytest.mark.parametrize("state", State, ids=lambda value: value.name)
def test_an_agent_leads_in_two_states_only(state: State) -> None:
    made = leader()
    made.state = state
    assert made.is_leading(1.0) == (state in {State.LEADING, State.RENEWING})


def test_a_leader_without_an_answer_stops_counting_from_when_it_sent_the_last_renewal() -> None:
    made = election()
    made.on(Event.DUE, 0.0)
    made.on(Event.FREE, 2.0)
    made.on(Event.WRITTEN, 9.0)
    assert made.is_leading(2.0 + TIMING.deadline_s - 0.1)
    assert not made.is_leading(2.0 + TIMING.deadline_s)
    assert made.due(2.0 + TIMING.deadline_s) is Event.EXPIRED


def test_failed_renewals_are_repeated_and_do_not_prolong_the_term() -> None:
    made, now = leader(), TIMING.renew_s
    while made.is_leading(now):
        assert made.due(now) is Event.DUE
        made.on(Event.DUE, now)
        made.on(Event.FAILED, now + 1)
        now += 1 + made.delay_s(now + 1)
    assert now == pytest.approx(TIMING.deadline_s)
    assert made.due(now) is Event.EXPIRED


def test_a_renewal_prolongs_the_term() -> None:
    made = leader()
    assert made.delay_s(0.0) == TIMING.renew_s
    made.on(Event.DUE, 15.0)
    made.on(Event.WRITTEN, 16.0)
    assert made.is_leading(54.9)
    assert not made.is_leading(55.0)


def test_a_leader_stops_and_its_last_request_ends_before_a_follower_takes_over() -> None:
    """Whatever the follower's clock shows: it starts to count when it sees the change, at or after the time of the renewal."""
    sent_at, offset = 100.0, 1_000_000.0
    made = leader(sent_at)
    follower = election(sent_at + offset, identity="other")
    assert follower.observe(lease("me"), sent_at + offset) is Event.HELD
    takes_over_at = next(at for at in itertools.count(sent_at) if follower.observe(lease("me"), at + offset) is Event.FREE)
    stops_at = next(at for at in itertools.count(sent_at) if not made.is_leading(at))
    assert stops_at + TIMING.request_s < takes_over_at


def test_times_that_leave_no_room_for_the_last_request_are_refused() -> None:
    with pytest.raises(ValueError, match="must stop before"):
        Timing(lease_s=50, deadline_s=40, request_s=10)


def test_a_lease_is_held_for_its_duration_from_the_last_change_that_was_seen() -> None:
    made = election()
    assert made.observe(lease("other", version="7"), 10.0) is Event.HELD
    assert made.observe(lease("other", version="7"), 69.9) is Event.HELD
    assert made.observe(lease("other", version="8"), 69.9) is Event.HELD, "renewed"
    assert made.observe(lease("other", version="8"), 129.8) is Event.HELD
    assert made.observe(lease("other", version="8"), 129.9) is Event.FREE


@pytest.mark.parametrize(
    ("written_s", "granted_s"),
    [(0.0, 60.0), (1.0, 60.0), (120.0, 120.0), (1e9, 3600.0)],
    ids=["none", "shorter than ours", "longer than ours", "endless"],
)
def test_a_written_duration_is_granted_between_bounds(written_s: float, granted_s: float) -> None:
    made, held = election(), lease("other", duration_s=written_s)
    made.observe(held, 0.0)
    assert made.observe(held, granted_s - 0.1) is Event.HELD
    assert made.observe(held, granted_s) is Event.FREE


@pytest.mark.parametrize("found", [None, lease(""), lease("me")], ids=["no Lease", "released", "our own"])
def test_a_lease_without_another_holder_is_free_at_once(found: Lease | None) -> None:
    assert election().observe(found, 0.0) is Event.FREE


@pytest.mark.parametrize(("noise", "delay_s"), [(0.0, 15.0), (0.5, 30.0), (1.0, 45.0)])
def test_followers_look_at_random_times(noise: float, delay_s: float) -> None:
    made = election(noise=noise)
    made.on(Event.DUE, 0.0)
    made.on(Event.HELD, 100.0)
    assert made.delay_s(100.0) == delay_s
    assert made.due(100.0 + delay_s - 0.1) is None
    assert made.due(100.0 + delay_s) is Event.DUE


@pytest.mark.parametrize(("noise", "delay_s"), [(0.0, 0.0), (1.0, 5.0)])
def test_the_first_look_of_many_agents_is_spread(noise: float, delay_s: float) -> None:
    assert election(50.0, noise=noise).delay_s(50.0) == delay_s
