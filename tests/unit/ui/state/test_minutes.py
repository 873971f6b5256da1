"""Counts by minute."""

import random

from netpolq.ui.state.minutes import KEPT_MINUTES, MinuteCounts


def test_sums_are_those_of_the_kept_minutes_in_any_order_of_counting() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        counts, added = MinuteCounts(), list[tuple[int, int]]()
        minute = 1000
        for _ in range(200):
            minute += rng.choice((0, 0, 0, 1, 2, 70)) if rng.random() < 0.3 else 0
            of = minute - rng.choice((0, 0, 1, 5, 59, 60))
            newest = max([minute for minute, _count in added], default=0)
            counts.add(of, 3)
            if of > newest - KEPT_MINUTES:
                added.append((of, 3))
        newest = max(minute for minute, _count in added)
        for first in range(newest - KEPT_MINUTES + 1, newest + 2):
            assert counts.since(first) == sum(count for minute, count in added if minute >= first), (seed, first)


def test_what_is_taken_away_was_never_counted() -> None:
    counts = MinuteCounts()
    counts.add(10, 5)
    counts.add(11, 2)
    counts.add(10, -5)
    assert counts.since(0) == 2
