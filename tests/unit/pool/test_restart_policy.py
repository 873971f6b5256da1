"""The restart policy of a child process."""

import pytest

from netpolq_worker.pool.restart_policy import Child, Phase, restart_delay

UPTIME_S = 2.0


def test_a_child_that_ran_long_enough_is_restarted_at_once() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    assert child.is_due(0.0)
    child.on_start(10, 0.0)
    assert not child.is_due(100.0)
    child.on_exit(UPTIME_S + 1)
    assert child.pid == 0
    assert child.is_due(UPTIME_S + 1)
    child.on_start(11, UPTIME_S + 1)
    assert child.restarts == 1
    assert child.last_heartbeat_s == UPTIME_S + 1, "a start counts as a heartbeat"


def test_a_stopped_child_can_be_resumed_with_or_without_its_process() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    child.on_start(10, 0.0)
    child.stop()
    child.resume(1.0)
    assert child.phase is Phase.RUNNING
    child.stop()
    child.on_exit(2.0)
    assert not child.is_due(100.0)
    child.resume(3.0)
    assert child.is_due(3.0)


def test_a_child_that_keeps_exiting_early_waits_longer_each_time_up_to_a_limit() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=2)
    now = 0.0
    delays = []
    for pid in range(1, 15):
        child.on_start(pid, now)
        child.on_exit(now)
        delays.append(round(child.due - now, 6))
        now = child.due
    assert delays[:2] == [0.0, 0.0]
    assert delays[2:] == sorted(delays[2:])
    assert delays[2] > 0
    assert delays[-1] == delays[-2] == restart_delay(1000)
    assert delays[2] < delays[-1]


def test_one_long_run_resets_the_count_of_failures() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    for pid in range(1, 6):
        child.on_start(pid, child.due)
        child.on_exit(child.due)
    start = child.due
    child.on_start(9, start)
    child.on_exit(start + UPTIME_S + 1)
    assert child.is_due(start + UPTIME_S + 1)


def test_a_child_that_is_released_may_be_started_again_later() -> None:
    standby = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    for pid in (1, 2):
        standby.on_start(pid, standby.due)
        standby.on_exit(standby.due)
    standby.on_start(3, standby.due)
    standby.release(50.0)
    assert standby.pid == 0
    assert not standby.is_due(49.0)
    assert standby.is_due(50.0)
    standby.on_start(4, 50.0)
    standby.on_exit(50.0)
    assert standby.due == 50.0 + restart_delay(1), "a release resets the count of failures"
    standby.stop()
    standby.release(60.0)
    assert not standby.is_due(100.0)


def test_after_stop_nothing_is_started() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    child.on_start(1, 0.0)
    child.stop()
    child.on_exit(1.0)
    assert child.phase is Phase.STOPPED
    assert not child.is_due(1e9)


def test_a_running_child_is_not_started_twice() -> None:
    child = Child(min_uptime_s=UPTIME_S, free_restarts=0)
    child.on_start(1, 0.0)
    with pytest.raises(ValueError, match="running"):
        child.on_start(2, 0.0)
    assert child.pid == 1
