"""The plan of writes: what is written when, and when it is not."""

import logging

from dataclasses import replace

import pytest

from netpolq.model import ObjectKey, Rejection
from netpolq.policy_status.conditions import condition_of
from netpolq.policy_status.plan import MAX_WRITES, WritePlan
from netpolq.policy_status.timing import Timing
from netpolq.sources.kubernetes.policy_report import CONDITION_TYPE, PolicyCondition, PolicyReport

TIMING = Timing(confirm_s=60, first_delay_s=1, max_delay_s=60, truce_s=600)
KEY = ObjectKey("ClusterNetworkPolicy", "", "p")
BARE = PolicyReport(
    kind="ClusterNetworkPolicy",
    name="p",
    api_version="policy.networking.k8s.io/v1alpha2",
    generation=1,
    uid="u",
    conditions=(),
    rejection=None,
)


def confirmed(report: PolicyReport) -> PolicyReport:
    """The report after the write."""
    wanted = condition_of(report)
    found = PolicyCondition(CONDITION_TYPE, wanted.status, wanted.reason, wanted.message, wanted.generation, "t")
    return replace(report, conditions=(found,))


def is_due(plan: WritePlan, report: PolicyReport, now: float) -> bool:
    return plan.next_write({KEY: report}, now) is not None


def test_a_policy_without_the_condition_is_due_and_one_that_has_it_is_not() -> None:
    plan = WritePlan(TIMING)
    assert plan.next_write({KEY: BARE}, 0) == (KEY, condition_of(BARE))
    assert not is_due(plan, confirmed(BARE), 1)
    assert not is_due(WritePlan(TIMING), confirmed(BARE), 0)


def test_nothing_is_due_while_a_write_has_not_come_back() -> None:
    plan = WritePlan(TIMING)
    assert is_due(plan, BARE, 0)
    plan.on_written(KEY, 0)
    assert not is_due(plan, BARE, 59.9)
    assert is_due(plan, BARE, 60), "a write that never came back is repeated"


def test_a_newer_report_without_the_condition_is_due_at_once() -> None:
    plan = WritePlan(TIMING)
    assert is_due(plan, BARE, 0)
    plan.on_written(KEY, 0)
    assert is_due(plan, replace(BARE), 1)


def test_a_new_generation_and_a_new_problem_are_written() -> None:
    plan = WritePlan(TIMING)
    assert not is_due(plan, confirmed(BARE), 0)
    assert is_due(plan, replace(confirmed(BARE), generation=2), 1)
    assert is_due(plan, replace(confirmed(BARE), rejection=Rejection(origin="", message="m", consequence="c")), 2)


def overwritten(plan: WritePlan, now: float) -> int:
    """The number of writes until the plan pauses, where each write is followed by a report without the condition."""
    writes = 0
    while is_due(plan, replace(BARE), now):
        plan.on_written(KEY, now)
        writes += 1
    return writes


def test_a_condition_that_is_overwritten_again_and_again_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    plan = WritePlan(TIMING)
    with caplog.at_level(logging.WARNING):
        assert overwritten(plan, 0) == MAX_WRITES
        assert [record.getMessage() for record in caplog.records] == [
            "ClusterNetworkPolicy p: another writer keeps overwriting the condition Accepted; the next write follows in 600 s"
        ]
        assert overwritten(plan, 599.9) == 0
        assert len(caplog.records) == 1
        assert overwritten(plan, 600) == MAX_WRITES
        assert len(caplog.records) == 2


def test_a_change_of_the_policy_ends_the_pause() -> None:
    plan = WritePlan(TIMING)
    overwritten(plan, 0)
    assert is_due(plan, replace(BARE, generation=2), 1)


def test_a_policy_that_is_left_alone_does_not_hold_up_others() -> None:
    plan, other = WritePlan(TIMING), ObjectKey("ClusterNetworkPolicy", "", "q")
    overwritten(plan, 0)
    found = plan.next_write({KEY: replace(BARE), other: replace(BARE, name="q")}, 1)
    assert found is not None
    assert found[0] == other


def test_refusals_are_repeated_with_a_growing_and_bounded_delay() -> None:
    plan, now, delays = WritePlan(TIMING), 0.0, []
    for _ in range(12):
        assert is_due(plan, BARE, now)
        plan.on_refused(KEY, now)
        before = now
        while not is_due(plan, replace(BARE), now):
            now += 0.5
        delays.append(now - before)
    assert delays[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(delays[7:]) == {60}


def test_a_success_ends_the_growth() -> None:
    plan = WritePlan(TIMING)
    assert is_due(plan, BARE, 0)
    for _ in range(5):
        plan.on_refused(KEY, 0)
    assert is_due(plan, BARE, 100)
    plan.on_written(KEY, 100)
    assert is_due(plan, replace(BARE), 101)
    plan.on_refused(KEY, 101)
    assert is_due(plan, replace(BARE), 102)


def test_a_policy_that_is_gone_is_forgotten_and_a_new_one_of_its_name_starts_afresh() -> None:
    plan = WritePlan(TIMING)
    assert is_due(plan, BARE, 0)
    plan.on_refused(KEY, 0)
    assert plan.next_write({}, 0) is None
    assert is_due(plan, BARE, 0)
    plan.on_refused(KEY, 0)
    assert is_due(plan, replace(BARE, uid="v"), 0), "deleted and created again between two looks"


def test_a_new_term_starts_afresh() -> None:
    plan = WritePlan(TIMING)
    assert is_due(plan, BARE, 0)
    plan.on_written(KEY, 0)
    plan.forget()
    assert is_due(plan, BARE, 0)
