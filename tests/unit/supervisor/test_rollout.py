"""Versions on their way into force: each fact in each step, and every order of events of up to three versions against an oracle."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.supervisor.rollout import MAX_ADDRESSES, MAX_WAITING, TRANSITIONS, Fact, Rollout, Step
from netpolq.supervisor.rollout_events import (
    CacheClean,
    CacheLost,
    CompileStarted,
    Event,
    InForce,
    Kept,
    Noticed,
    OtherAgentLeft,
    Published,
    Refused,
    RulesetReinstalled,
    Scope,
    SetsInstalled,
    StrictPassDone,
    WorkerReported,
)

A, B = b"a" * 16, b"b" * 16


def rollout_of(workers: int = 2, *, has_verdict_cache: bool = True, has_strict_mode: bool = True) -> Rollout:
    return Rollout(workers=(0,) * workers, has_verdict_cache=has_verdict_cache, has_strict_mode=has_strict_mode)


def after(rollout: Rollout, *events: Event, now_ns: int = 0) -> Rollout:
    for event in events:
        rollout, _effects = rollout.after(event, now_ns)
    return rollout


def all_workers(version: int, workers: int = 2) -> tuple[WorkerReported, ...]:
    return tuple(WorkerReported(slot, version) for slot in range(workers))


def cleaned(rollout: Rollout) -> Rollout:
    """After the pass of the verdict cache that is due."""
    scope = rollout.to_clean
    assert scope is not None
    return after(rollout, CacheClean(scope.version, scope.doubts))


def in_force(version: int = 1) -> Rollout:
    """The state of every day: this version is in force, and all connections are evaluated."""
    rollout = cleaned(
        after(rollout_of(), Published(version, None), RulesetReinstalled(), SetsInstalled(version), *all_workers(version))
    )
    assert rollout.in_force_version == version
    scope = rollout.to_examine
    assert scope is not None
    return after(rollout, StrictPassDone(scope.version, scope.doubts))


# --- the table --------------------------------------------------------------------------------------------------------------------

REACHED = {
    Step.PUBLISHED: frozenset(),
    Step.ACKNOWLEDGED: frozenset({"workers"}),
    Step.CLEAN: frozenset({"workers", "cache"}),
    Step.INSTALLED: frozenset({"sets"}),
    Step.APPLIED: frozenset({"workers", "sets"}),
    Step.IN_FORCE: frozenset({"workers", "sets", "cache"}),
}
STEPS = {reached: step for step, reached in REACHED.items()}


@pytest.mark.parametrize(("step", "fact"), [*product(STEPS.values(), Fact)][: -len(Fact)])
def test_a_version_is_in_force_when_workers_sets_and_cache_have_it(step: Step, fact: Fact) -> None:
    """The cache is clean for a version only while all workers have it: until then they hint older decisions."""
    reached = REACHED[step]
    match fact:
        case Fact.HAS_WORKERS:
            reached |= {"workers"}
        case Fact.LACKS_WORKERS:
            reached -= {"workers", "cache"}
        case Fact.HAS_SETS:
            reached |= {"sets"}
        case Fact.CACHE_CLEAN if "workers" in reached:
            reached |= {"cache"}
        case Fact.CACHE_LOST:
            reached -= {"cache"}
    assert TRANSITIONS[step][fact] is STEPS[reached]


@pytest.mark.parametrize("fact", Fact)
def test_what_is_in_force_stays_until_its_connections_are_evaluated(fact: Fact) -> None:
    assert TRANSITIONS[Step.IN_FORCE][fact] is (Step.DONE if fact is Fact.EXAMINED else Step.IN_FORCE)
    assert TRANSITIONS[Step.DONE][fact] is Step.DONE


# --- every order ------------------------------------------------------------------------------------------------------------------


class Oracle(NamedTuple):
    """The rule in three numbers: a version is in force once workers, sets and cache have all reached it.

    `is_pass_sound`: the content of the cache has not become uncertain since the pass over it began.
    """

    published: int = 0
    reports: tuple[int, ...] = (0, 0)
    sets: int = 0
    clean: int = 0
    is_pass_sound: bool = False
    in_force: int = 0

    def told(self, action: Event | str) -> "Oracle":
        now = self
        match action:
            case "the pass over the cache begins":
                now = now._replace(is_pass_sound=True)
            case Published(version) | Kept(version):
                now = now._replace(published=version)
            case WorkerReported(slot, version):
                reports = tuple(version if known == slot else report for known, report in enumerate(now.reports))
                now = now._replace(reports=reports, clean=min(now.clean, max(min(reports), now.in_force)))
            case SetsInstalled(version):
                now = now._replace(sets=max(now.sets, min(version, now.published)))
            case RulesetReinstalled() | CacheLost():
                now = now._replace(clean=0, is_pass_sound=False)
            case CacheClean(version) if now.is_pass_sound:
                now = now._replace(clean=max(now.clean, min(version, now.workers, now.published)))
        return now._replace(in_force=max(now.in_force, min(now.workers, now.sets, now.clean)))

    @property
    def workers(self) -> int:
        return max(min(self.reports), self.in_force)


class State(NamedTuple):
    """Positions in the streams, both sides, and the scope of the pass over the verdict cache that runs."""

    positions: tuple[int, ...]
    rollout: Rollout
    oracle: Oracle
    scope: Scope | None


NOTICED_NS = 10
"""Time of the notice of the first version; each later one is noticed a nanosecond later."""

BEGIN, END = "the pass over the cache begins", "it ends"
Stream = Sequence[Event | str]


def followers(state: State, streams: Sequence[Stream]) -> Iterable[State]:
    """The states after the next action of each stream. A part cannot be ahead of the version that is published."""
    for number, stream in enumerate(streams):
        if state.positions[number] == len(stream):
            continue
        positions = (*state.positions[:number], state.positions[number] + 1, *state.positions[number + 1 :])
        action = stream[state.positions[number]]
        match action:
            case WorkerReported(_, version) | SetsInstalled(version) if version > state.rollout.version:
                continue
            case "the pass over the cache begins":
                yield State(positions, state.rollout, state.oracle.told(action), state.rollout.to_clean)
            case str():
                yield ended(state, positions)
            case Published(version):
                compiling = after(state.rollout, Noticed(NOTICED_NS + version - 1), CompileStarted())
                yield State(positions, after(compiling, action), state.oracle.told(action), state.scope)
            case _:
                yield State(positions, after(state.rollout, action), state.oracle.told(action), state.scope)


def ended(state: State, positions: tuple[int, ...]) -> State:
    if state.scope is None:
        return state._replace(positions=positions)
    done = CacheClean(state.scope.version, state.scope.doubts)
    return State(positions, after(state.rollout, done), state.oracle.told(done), None)


def check_every_order(streams: Sequence[Stream]) -> set[int]:
    """Visit each state that any interleaving of the streams leads to. Returns the versions that were in force."""
    states = [State((0,) * len(streams), rollout_of(), Oracle(), None)]
    known = set(states)
    for state in states:
        rollout, oracle = state.rollout, state.oracle
        assert rollout.in_force_version == oracle.in_force, state
        is_behind = oracle.in_force < oracle.published
        assert rollout.behind_s(100) == ((100 - NOTICED_NS - oracle.in_force) / 1e9 if is_behind else 0), state
        for follower in followers(state, streams):
            assert follower.rollout.in_force_version >= rollout.in_force_version, follower
            if follower not in known:
                known.add(follower)
                states.append(follower)
    return {state.rollout.in_force_version for state in states}


def publications(count: int) -> Stream:
    return [Published(version, (A,)) for version in range(1, count + 1)]


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param(
            [
                publications(2),
                [WorkerReported(0, 1), WorkerReported(0, 2)],
                [WorkerReported(1, 1), WorkerReported(1, 0), WorkerReported(1, 2)],
                [RulesetReinstalled(), SetsInstalled(1), SetsInstalled(2)],
                [BEGIN, END] * 3,
            ],
            id="a worker is replaced",
        ),
        pytest.param(
            [
                publications(2),
                [WorkerReported(0, 2)],
                [WorkerReported(1, 2), WorkerReported(1, 1), WorkerReported(1, 2)],
                [RulesetReinstalled(), SetsInstalled(2)],
                [BEGIN, END] * 3,
            ],
            id="a worker restarts with an older version",
        ),
        pytest.param(
            [
                publications(3),
                [WorkerReported(0, 1), WorkerReported(0, 2), WorkerReported(0, 3)],
                [WorkerReported(1, 2), WorkerReported(1, 3)],
                [RulesetReinstalled(), SetsInstalled(1), SetsInstalled(3)],
                [BEGIN, END] * 4,
            ],
            id="three versions",
        ),
        pytest.param(
            [
                publications(2),
                [WorkerReported(0, 1), WorkerReported(0, 2)],
                [WorkerReported(1, 2)],
                [RulesetReinstalled(), SetsInstalled(1), RulesetReinstalled(), SetsInstalled(2)],
                [CacheLost()],
                [BEGIN, END] * 4,
            ],
            id="the ruleset is installed again and a write fails",
        ),
    ],
)
def test_in_every_order_a_version_is_in_force_when_the_oracle_says_so(streams: Sequence[Stream]) -> None:
    assert check_every_order(streams) == {0, *(event.version for event in streams[0] if isinstance(event, Published))}


EVENTS = st.one_of(
    st.builds(WorkerReported, st.integers(0, 1), st.integers(0, 4)),
    st.builds(SetsInstalled, st.integers(0, 4)),
    st.sampled_from([RulesetReinstalled(), CacheLost(), OtherAgentLeft(), Refused(), CompileStarted()]),
    st.builds(Noticed, st.integers(0, 100)),
    st.sampled_from(["publish", "republish", BEGIN, END, "examine"]),
)


class Run:
    """Both sides, driven by any events. A part only tells what it has been asked to do."""

    def __init__(self) -> None:
        self.rollout = rollout_of()
        self.oracle = Oracle()
        self.scope: Scope | None = None
        self.changes: list[tuple[int, int]] = []  # version, time of the notice
        self.effects: list[InForce] = []

    def tell(self, event: Event) -> None:
        before = self.rollout
        self.rollout, effects = before.after(event, 1000)
        self.oracle = self.oracle.told(event)
        self.effects += effects
        assert self.rollout.in_force_version == self.oracle.in_force
        assert self.rollout.in_force_version >= before.in_force_version
        if isinstance(event, Published) and event.version > before.in_force_version and before.compiling_ns is not None:
            self.changes.append((event.version, before.compiling_ns))
        self.check_behind()

    def check_behind(self) -> None:
        waiting = [noticed_ns for version, noticed_ns in self.changes if version > self.oracle.in_force]
        waiting += [time for time in (self.rollout.noticed_ns, self.rollout.compiling_ns) if time is not None]
        assert self.rollout.behind_s(1000) == (1000 - min(waiting, default=1000)) / 1e9

    def do(self, action: Event | str) -> None:
        match action:
            case "publish":
                self.tell(Published(self.rollout.version + 1, (A,)))
            case "republish" if self.rollout.version > self.rollout.in_force_version:
                self.tell(Published(self.rollout.version, ()))
            case "the pass over the cache begins":
                self.scope, self.oracle = self.rollout.to_clean, self.oracle.told(action)
            case "it ends" if self.scope is not None:
                self.tell(CacheClean(self.scope.version, self.scope.doubts))
                self.scope = None
            case "examine" if (due := self.rollout.to_examine) is not None:
                self.tell(StrictPassDone(due.version, due.doubts))
            case str():
                pass
            case _:
                self.tell(action)

    def finish(self) -> None:
        """All parts do what is due."""
        version = self.rollout.version
        last: tuple[Event, ...] = (RulesetReinstalled(), SetsInstalled(version), *all_workers(version))
        for event in last:
            self.tell(event)
        for action in (BEGIN, END, "examine"):
            self.do(action)


@given(st.lists(EVENTS, max_size=40))
def test_after_any_events_the_oracle_agrees_and_the_parts_can_finish(actions: list[Event | str]) -> None:
    run = Run()
    run.do("publish")
    for action in actions:
        run.do(action)
    run.finish()
    assert run.rollout.in_force_version == run.rollout.version
    assert run.rollout.waiting == ()
    assert (run.rollout.to_clean, run.rollout.to_examine) == (None, None)
    assert [effect.version for effect in run.effects] == sorted(effect.version for effect in run.effects)
    assert {effect.version for effect in run.effects} == set(range(1, run.rollout.version + 1))


# --- single claims ----------------------------------------------------------------------------------------------------------------


def test_a_slot_that_has_not_reported_yet_keeps_every_version_out_of_force() -> None:
    rollout = after(rollout_of(3), Published(1, None), RulesetReinstalled(), SetsInstalled(1), *all_workers(1, workers=2))
    assert rollout.acknowledged_version == 0
    assert rollout.waits_for == "workers"
    assert cleaned(rollout).in_force_version == 0
    assert cleaned(after(rollout, WorkerReported(2, 1))).in_force_version == 1


def test_a_report_of_a_slot_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="slot 2 of 2"):
        after(rollout_of(), WorkerReported(2, 1))


def test_a_change_counts_from_its_notice_until_it_is_in_force() -> None:
    rollout = in_force(1)
    assert rollout.behind_s(10**9) == 0
    rollout = after(rollout, Noticed(2_000), Noticed(1_000), Noticed(3_000))
    assert (rollout.behind_s(5_000), rollout.waits_for) == (4e-6, "its publication")
    rollout = after(rollout, CompileStarted(), Noticed(3_000), CompileStarted())
    assert (rollout.noticed_ns, rollout.behind_s(5_000)) == (None, 4e-6)
    rollout = after(rollout, Noticed(4_000), Published(2, (A,), "NetworkPolicy x/y changed"))
    assert (rollout.noticed_ns, rollout.behind_s(5_000)) == (4_000, 4e-6)
    rollout, effects = cleaned(after(rollout, *all_workers(2))).after(SetsInstalled(2), 6_000)
    assert effects == (InForce(2, 5e-6, "NetworkPolicy x/y changed"),)
    assert (rollout.last_latency_s, rollout.behind_s(6_000)) == (5e-6, 2e-6)


def test_new_connections_meet_a_change_when_workers_use_it_and_the_cache_is_clean() -> None:
    """The sets of isolated pods may follow."""
    rollout = after(in_force(1), Noticed(3_000))
    assert rollout.is_in_use(2_999)
    states = [rollout]
    events: tuple[Event, ...] = (CompileStarted(), Published(2, (A,)), *all_workers(2))
    for event in events:
        states.append(after(states[-1], event))
    assert [one.is_in_use(3_000) for one in states] == [False] * 5
    clean = cleaned(states[-1])
    assert clean.is_in_use(3_000)
    assert clean.in_force_version == 1
    assert after(clean, SetsInstalled(2)).is_in_use(3_000)
    assert not after(clean, WorkerReported(0, 0)).is_in_use(3_000), "its replacement may begin with an older version"
    assert after(clean, Noticed(3_001)).is_in_use(3_000)


def test_a_change_of_an_earlier_time_that_comes_later_is_waited_for() -> None:
    """A source may notice a change earlier than it delivers it."""
    rollout = after(in_force(1), Noticed(5), CompileStarted(), Noticed(3), Published(2, (A,)), *all_workers(2))
    assert not cleaned(rollout).is_in_use(5)


def test_a_change_is_awaited_until_it_is_compiled() -> None:
    rollout = after(in_force(1), Noticed(1))
    assert not rollout.is_awaited
    rollout = after(rollout, Noticed(2, is_awaited=True), Noticed(3))
    assert rollout.is_awaited
    rollout = after(rollout, CompileStarted())
    assert not rollout.is_awaited
    assert after(rollout, Noticed(4, is_awaited=True), Published(2, (A,))).is_awaited


def test_a_refusal_makes_the_next_snapshot_complete_and_loses_no_change() -> None:
    rollout = rollout_of()
    assert rollout.next_is_complete
    rollout = after(rollout, Noticed(1), CompileStarted(), Published(1, None))
    assert not rollout.next_is_complete
    rollout = after(rollout, Noticed(5), CompileStarted(), Noticed(7), Refused())
    assert rollout.next_is_complete
    assert (rollout.noticed_ns, rollout.compiling_ns) == (5, None)
    assert rollout.behind_s(11) == 10e-9


def test_a_refused_version_comes_into_force_with_the_next_one() -> None:
    rollout = after(in_force(1), Published(2, (A,)), Refused(), Published(3, None), SetsInstalled(3), *all_workers(1))
    assert rollout.in_force_version == 1
    rollout = after(rollout, *all_workers(3))
    assert rollout.to_clean == Scope(3, None, rollout.cache_doubts, is_doubtful=False)
    assert cleaned(rollout).in_force_version == 3


def test_a_kept_snapshot_is_in_force_without_a_latency() -> None:
    rollout = after(rollout_of(), Kept(7), *all_workers(7), RulesetReinstalled(), SetsInstalled(7))
    assert rollout.version == 7
    assert rollout.behind_s(10**9) == 0
    scope = rollout.to_clean
    assert scope == Scope(7, frozenset(), rollout.cache_doubts, is_doubtful=True)
    rollout, effects = rollout.after(CacheClean(7, scope.doubts), 10**9)
    assert effects == (InForce(7, None, ""),)
    assert (rollout.in_force_version, rollout.last_latency_s) == (7, None)


def test_a_kept_snapshot_without_its_sets_does_not_come_into_force() -> None:
    rollout = cleaned(after(rollout_of(), Kept(7), RulesetReinstalled(), SetsInstalled(0), *all_workers(7)))
    assert rollout.in_force_version == 0


def test_changes_that_need_no_new_version_wait_for_the_sets_but_for_no_worker() -> None:
    """A worker that is being replaced starts with the version in force."""
    rollout = after(in_force(1), WorkerReported(1, 0), Noticed(1_000), CompileStarted(), Published(1, ()))
    assert (rollout.waits_for, rollout.behind_s(2_000)) == (Step.ACKNOWLEDGED.value, 1e-6)
    rollout, effects = cleaned(rollout).after(SetsInstalled(1), 3_000)
    assert effects == (InForce(1, 2e-6, ""),)
    assert rollout.behind_s(4_000) == 0


def test_nothing_is_cleaned_before_the_ruleset_is_installed() -> None:
    rollout = after(rollout_of(), Published(1, None), *all_workers(1))
    assert rollout.to_clean is None
    assert after(rollout, RulesetReinstalled()).to_clean is not None


def test_the_cache_is_cleaned_of_what_all_acknowledged_versions_change() -> None:
    rollout = after(in_force(1), Published(2, (A,)), Published(3, (B,)), Published(4, None), *all_workers(3))
    assert rollout.to_clean == Scope(3, frozenset({A, B}), rollout.cache_doubts, is_doubtful=False)
    assert after(rollout, *all_workers(4)).to_clean == Scope(4, None, rollout.cache_doubts, is_doubtful=False)


@pytest.mark.parametrize("doubt", [CacheLost(), RulesetReinstalled()])
def test_a_pass_that_began_before_a_doubt_does_not_make_the_cache_clean(doubt: Event) -> None:
    rollout = after(in_force(1), Published(2, (A,)), SetsInstalled(2), *all_workers(2))
    scope = rollout.to_clean
    assert scope is not None
    rollout = after(rollout, doubt, CacheClean(scope.version, scope.doubts))
    assert rollout.in_force_version == 1
    assert rollout.to_clean is not None
    assert rollout.to_clean.is_doubtful
    assert cleaned(rollout).in_force_version == 2


def test_connections_are_evaluated_that_a_version_in_force_changes() -> None:
    rollout = after(in_force(1), Published(2, (A,)), Published(3, (B,)), *all_workers(3))
    rollout = after(cleaned(rollout), SetsInstalled(2))
    assert rollout.to_examine == Scope(2, frozenset({A}), rollout.connection_doubts, is_doubtful=False)
    rollout = after(rollout, SetsInstalled(3), StrictPassDone(2, rollout.connection_doubts))
    assert rollout.examined_version == 2
    assert rollout.to_examine == Scope(3, frozenset({B}), rollout.connection_doubts, is_doubtful=False)


def test_connections_of_addresses_whose_names_alone_changed_go_on_and_the_cache_forgets_them() -> None:
    rollout = after(in_force(1), Published(2, (A, B), "", frozenset({A})), SetsInstalled(2), *all_workers(2))
    assert rollout.to_clean == Scope(2, frozenset({A, B}), rollout.cache_doubts, is_doubtful=False)
    rollout = cleaned(rollout)
    assert rollout.to_examine == Scope(2, frozenset({B}), rollout.connection_doubts, is_doubtful=False)
    both = after(in_force(1), Published(2, (A,), "", frozenset({A})), Published(3, (A, B), "", frozenset({B})), SetsInstalled(3))
    both = cleaned(after(both, *all_workers(3)))
    assert both.to_examine == Scope(3, frozenset({A}), both.connection_doubts, is_doubtful=False)
    every = cleaned(after(in_force(1), Published(2, None, "", frozenset({A})), SetsInstalled(2), *all_workers(2)))
    assert every.to_examine == Scope(2, None, every.connection_doubts, is_doubtful=False)


@pytest.mark.parametrize("doubt", [OtherAgentLeft(), RulesetReinstalled()])
def test_all_connections_are_evaluated_again_after_a_doubt(doubt: Event) -> None:
    rollout = in_force(1)
    assert rollout.to_examine is None
    began = after(rollout, doubt)
    assert began.to_examine == Scope(1, None, began.connection_doubts, is_doubtful=True)
    again = after(began, doubt, StrictPassDone(1, began.connection_doubts))
    assert again.to_examine is not None, "the second doubt arose while the pass ran"
    assert after(again, StrictPassDone(1, again.connection_doubts)).to_examine is None


def test_nothing_is_evaluated_before_a_version_is_in_force() -> None:
    rollout = after(rollout_of(), Published(1, None), RulesetReinstalled(), OtherAgentLeft())
    assert rollout.to_examine is None


def test_too_many_changed_addresses_are_all_addresses() -> None:
    rollout = after(in_force(1), Published(2, [number.to_bytes(16) for number in range(MAX_ADDRESSES)]), *all_workers(2))
    assert rollout.to_clean is not None
    assert rollout.to_clean.changed is not None
    rollout = after(rollout, Published(3, (A,)), *all_workers(3))
    assert rollout.to_clean is not None
    assert rollout.to_clean.changed is None


def test_without_a_verdict_cache_nothing_waits_for_it() -> None:
    rollout = after(rollout_of(has_verdict_cache=False), Published(1, None), RulesetReinstalled(), *all_workers(1))
    assert rollout.to_clean is None
    rollout = after(rollout, RulesetReinstalled(), CacheLost())
    assert rollout.waits_for == "the sets of isolated pods"
    assert after(rollout, SetsInstalled(1)).in_force_version == 1


def test_without_strict_mode_a_version_in_force_is_done() -> None:
    rollout = after(rollout_of(has_strict_mode=False), Published(1, None), RulesetReinstalled(), SetsInstalled(1))
    rollout = cleaned(after(rollout, *all_workers(1)))
    assert (rollout.in_force_version, rollout.waiting, rollout.to_examine) == (1, (), None)


def test_of_many_versions_that_wait_the_newest_two_become_one() -> None:
    rollout = in_force(1)
    for version in range(2, MAX_WAITING + 10):
        rollout = after(rollout, Noticed(version), CompileStarted(), Published(version, (version.to_bytes(16),)))
    assert len(rollout.waiting) == MAX_WAITING
    merged = range(MAX_WAITING + 1, MAX_WAITING + 10)
    assert rollout.waiting[-1].changed == frozenset(version.to_bytes(16) for version in merged)
    assert rollout.waiting[-1].noticed_ns == MAX_WAITING + 1
    rollout = cleaned(after(rollout, *all_workers(MAX_WAITING + 9), SetsInstalled(MAX_WAITING + 9)))
    assert rollout.in_force_version == MAX_WAITING + 9


def test_a_report_that_changes_nothing_for_all_workers_is_no_news() -> None:
    """The parts that wait for a change of the rollout are not woken four times a second by each worker."""
    rollout = after(rollout_of(), Published(1, None))
    assert after(rollout, WorkerReported(0, 1)) == rollout
    assert after(rollout, *all_workers(1)) != rollout
