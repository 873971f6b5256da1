"""What is said of timed connections."""

import pytest

from loadtest.connects import Connects


def connects(*took_us: float, failed: int = 0) -> Connects:
    return Connects(failed=failed, seconds=0.5, took_us=took_us)


def test_quantiles_are_of_those_that_succeeded() -> None:
    made = connects(*map(float, range(1, 1002)), failed=5)
    assert made.quantile_us(0.5) == 501.0
    assert made.quantile_us(0.99) == 991.0
    assert made.quantile_us(0.999) == 1000.0
    assert made.values()["connect_p999_us"] == 1000.0


def test_the_rate_is_of_those_that_succeeded() -> None:
    assert connects(1.0, 2.0, 3.0, failed=7).per_s == 6.0


def test_the_distribution_does_not_fall() -> None:
    found = connects(*(float(value % 97) for value in range(500))).distribution_us()
    assert list(found) == sorted(found)
    assert list(found.values()) == sorted(found.values())


def test_failures_are_noted_and_counted() -> None:
    assert connects(1.0, 2.0, failed=3).notes() == ("3 connections failed",)
    assert connects(1.0, 2.0, failed=3).values()["failed"] == 3.0
    assert connects(1.0, 2.0).notes() == ()


def test_no_quantile_is_made_of_hardly_any_connection() -> None:
    with pytest.raises(RuntimeError, match="9 of 10 connections failed"):
        connects(1.0, failed=9).quantile_us(0.5)
