"""What may be concluded from samples, and what may not."""

from collections.abc import Sequence

import pytest

from loadtest.measure import Sample, Target
from loadtest.verdict import Outcome, evaluate, spread

TWICE = Target(value="taken_per_s", subject="subject", reference="reference", at_least=2.0)
AT_MOST = Target(value="taken_per_s", subject="subject", reference="reference", at_most=2.0)


def samples(values: Sequence[float], *, limited: int = 0) -> list[Sample]:
    """One for each value; the first so many were limited by the generator."""
    return [Sample(values={"taken_per_s": value}, generator_limited=number < limited) for number, value in enumerate(values)]


def test_a_ratio_is_taken_within_each_round_and_of_the_rounds_the_median() -> None:
    """Here the medians themselves are in a ratio of 3, which no round but one has seen."""
    found = evaluate(TWICE, samples([20, 40, 60, 80, 100]), samples([10, 20, 20, 40, 50]))
    assert found.figure is not None
    assert (found.figure.median, found.figure.least, found.figure.most) == (2.0, 2.0, 3.0)
    assert found.outcome is Outcome.MET


@pytest.mark.parametrize(("subject", "outcome"), [(20.0, Outcome.MET), (19.9, Outcome.MISSED)])
def test_the_bound_itself_is_enough(subject: float, outcome: Outcome) -> None:
    assert evaluate(TWICE, samples([subject] * 5), samples([10] * 5)).outcome is outcome


@pytest.mark.parametrize(("subject", "outcome"), [(20.0, Outcome.MET), (20.1, Outcome.MISSED)])
def test_at_most_is_the_other_way_round(subject: float, outcome: Outcome) -> None:
    assert evaluate(AT_MOST, samples([subject] * 5), samples([10] * 5)).outcome is outcome


def test_without_a_reference_the_value_itself_is_compared() -> None:
    target = Target(value="taken_per_s", subject="subject", at_least=7.0)
    assert evaluate(target, samples([7] * 5), ()).outcome is Outcome.MET
    assert evaluate(target, samples([6] * 5), ()).outcome is Outcome.MISSED


def test_a_lower_bound_above_the_line_decides_a_target_that_it_reaches() -> None:
    found = evaluate(TWICE, samples([25] * 5, limited=5), samples([10] * 5))
    assert found.outcome is Outcome.MET
    assert found.figure is not None
    assert found.figure.lower_bound


def test_a_lower_bound_that_does_not_reach_it_decides_nothing() -> None:
    found = evaluate(TWICE, samples([15] * 5, limited=5), samples([10] * 5))
    assert found.outcome is Outcome.UNDECIDED
    assert found.reason == "the generator was the bottleneck: at least 1.5"


def test_a_lower_bound_below_a_limit_decides_nothing_and_above_it_everything() -> None:
    assert evaluate(AT_MOST, samples([15] * 5, limited=5), samples([10] * 5)).outcome is Outcome.UNDECIDED
    assert evaluate(AT_MOST, samples([25] * 5, limited=5), samples([10] * 5)).outcome is Outcome.MISSED


def test_a_reference_that_could_have_taken_more_gives_no_ratio() -> None:
    found = evaluate(TWICE, samples([25] * 5), samples([10] * 5, limited=3))
    assert found.outcome is Outcome.UNDECIDED
    assert found.figure is None
    assert found.reason == "the generator was the bottleneck of reference: it takes at least 10"


def test_one_limited_round_of_five_does_not_matter() -> None:
    found = evaluate(TWICE, samples([25] * 5, limited=2), samples([10] * 5, limited=2))
    assert found.outcome is Outcome.MET
    assert found.figure is not None
    assert not found.figure.lower_bound


def test_four_rounds_are_too_few_for_a_verdict() -> None:
    found = evaluate(TWICE, samples([50] * 4), samples([10] * 4))
    assert found.outcome is Outcome.UNDECIDED
    assert found.figure is not None
    assert "4 rounds are too few" in found.reason


def test_a_value_that_was_not_measured_is_undecided_by_name() -> None:
    target = Target(value="other", subject="subject", reference="reference", at_least=1.0)
    assert evaluate(target, samples([1] * 5), samples([1] * 5)).reason == "subject has no value other"
    assert evaluate(TWICE, samples([1] * 5), [Sample(values={})] * 5).reason == "reference has no value taken_per_s"


@pytest.mark.parametrize(("share", "outcome"), [(0.1, Outcome.MET), (0.2, Outcome.UNDECIDED)])
@pytest.mark.parametrize("disturbed", ["subject", "reference"])
def test_there_is_no_verdict_when_other_programs_took_much_in_most_rounds(disturbed: str, share: float, outcome: Outcome) -> None:
    calm, busy = (
        [Sample(values={"taken_per_s": 10.0, "others_cpu_share": share if number < limit else 0.0}) for number in range(5)]
        for limit in (2, 3)
    )
    target = Target(value="taken_per_s", subject="subject", reference="reference", at_least=1.0)
    found = evaluate(target, busy if disturbed == "subject" else calm, busy if disturbed == "reference" else calm)
    assert found.outcome is outcome
    assert found.figure is not None
    if outcome is Outcome.UNDECIDED:
        assert found.reason == "other programs took 20 % of the machine's CPU time"
    assert evaluate(target, calm, calm).outcome is Outcome.MET


def test_nothing_is_divided_by_zero() -> None:
    found = evaluate(TWICE, samples([1] * 5), samples([1, 1, 0, 1, 1]))
    assert (found.outcome, found.figure) == (Outcome.UNDECIDED, None)


def test_a_spread_covers_the_samples_that_have_the_value() -> None:
    found = spread([*samples([3, 1]), Sample(values={})], "taken_per_s")
    assert found is not None
    assert (found.median, found.least, found.most) == (2.0, 1.0, 3.0)
    assert spread([], "taken_per_s") is None
