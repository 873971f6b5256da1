"""Records wait in batches, in order; beyond the capacity the oldest ones that are not being sent give way, and are counted."""

import asyncio

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.flows.export.backlog import Backlog
from tests.support.flow_records import records


def numbers(backlog: Backlog) -> list[int]:
    """Take everything out."""
    found: list[int] = []
    while (batch := backlog.head()) is not None:
        assert batch.first + 1 == batch.records[0].connections, "the first number is that of the record"
        found += [record.connections for record in batch.records]
        backlog.done()
    return found


def test_what_is_added_together_is_one_batch() -> None:
    backlog = Backlog(100)
    backlog.add(records(1, 30))
    backlog.add(records(31, 2))
    head = backlog.head()
    assert head is not None
    assert len(head.records) == 30
    assert backlog.waiting == 32


def test_a_batch_has_at_most_its_size() -> None:
    backlog = Backlog(100, batch_size=10)
    backlog.add(records(1, 25))
    sizes = []
    while (batch := backlog.head()) is not None:
        sizes.append(len(batch.records))
        backlog.done()
    assert sizes == [10, 10, 5]


def test_the_oldest_records_give_way() -> None:
    backlog = Backlog(50)
    backlog.add(records(1, 40))
    backlog.add(records(41, 40))
    assert (backlog.waiting, backlog.dropped) == (50, 30)
    assert numbers(backlog) == list(range(31, 81))


def test_what_is_being_sent_does_not_give_way() -> None:
    backlog = Backlog(20, batch_size=10)
    backlog.add(records(1, 20))
    head = backlog.head()
    backlog.add(records(21, 10))
    assert backlog.head() is head
    assert numbers(backlog) == [*range(1, 11), *range(21, 31)]
    assert backlog.dropped == 10


def test_halves_come_one_after_the_other() -> None:
    backlog = Backlog(100)
    backlog.add(records(1, 9))
    assert backlog.head() is not None
    backlog.split()
    assert backlog.waiting == 9
    assert numbers(backlog) == list(range(1, 10))


async def test_a_waiter_wakes_when_there_is_a_batch_and_sleeps_when_none_is_left() -> None:
    backlog = Backlog(10)
    backlog.add([])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(backlog.filled(), 0.01)
    backlog.add(records(1, 1))
    await backlog.filled()
    backlog.head()
    backlog.done()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(backlog.filled(), 0.01)


@given(
    capacity=st.integers(1, 40),
    batch_size=st.integers(0, 15),
    steps=st.lists(st.integers(0, 60) | st.sampled_from(["head", "done", "split"]), max_size=30),
)
def test_every_record_is_taken_once_or_counted_and_memory_is_bounded(
    capacity: int, batch_size: int, steps: list[int | str]
) -> None:
    backlog = Backlog(capacity, batch_size)
    added, taken = 0, []
    for step in steps:
        if isinstance(step, int):
            in_flight = len(head.records) if (head := backlog._head) is not None else 0
            backlog.add(records(added + 1, step))
            added += step
            assert backlog.waiting <= max(capacity, in_flight)
        elif step == "done" and (batch := backlog._head) is not None:
            taken += [record.connections for record in batch.records]
            backlog.done()
        elif step == "split" and (batch := backlog._head) is not None and len(batch.records) > 1:
            backlog.split()
        else:
            backlog.head()
    taken += numbers(backlog)
    assert len(taken) + backlog.dropped == added
    assert taken == sorted(set(taken))
    assert backlog.waiting == 0
