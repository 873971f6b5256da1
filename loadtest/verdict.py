"""The evaluation of targets: from samples to figures, and to met, missed or undecided.

Pure. Only the ratio within a round counts, and the median of the rounds. A sample with a load below the variant's capacity is a lower
bound. A ratio with it as the numerator is then a lower bound too; with it as the denominator there is no ratio.
"""

import statistics

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadtest.measure import Sample, Target

ROUNDS_FOR_A_VERDICT = 5
OTHERS_SHARE = "others_cpu_share"
"""Name of the value with the share of all CPUs that other programs used."""

MAX_OTHERS_SHARE = 0.1
"""With more than this in most rounds there is no verdict: the disturbance is random."""


class Outcome(StrEnum):
    """UNDECIDED: the samples do not decide it; the reason is given. COMPARED: there are no bounds, only a figure."""

    COMPARED = "compared"
    MET = "met"
    MISSED = "missed"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, minimum and maximum of a value over the rounds. `lower_bound`: the generator was the bottleneck in most of them."""

    median: float
    least: float
    most: float
    lower_bound: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a target. `figure`: the ratio, or the value itself without a reference; None: there is none, see `reason`."""

    target: Target
    outcome: Outcome
    figure: Spread | None
    reason: str = ""


def spread(samples: Sequence[Sample], value: str) -> Spread | None:
    """The spread of a value over the samples that have it; None if none has it."""
    having = [sample for sample in samples if value in sample.values]
    if not having:
        return None
    return _spread([sample.values[value] for sample in having], lower_bound=_mostly_limited(having))


def evaluate(target: Target, subject: Sequence[Sample], reference: Sequence[Sample]) -> Finding:
    """Evaluate a target by the samples of all rounds, in the order of the rounds. `reference` empty: the target has none."""
    figures, problem = _figures(target, subject, reference)
    if problem:
        return Finding(target=target, outcome=Outcome.UNDECIDED, figure=None, reason=problem)
    found = _spread(figures, lower_bound=_mostly_limited(subject))
    outcome, reason = _compare(target, found)
    if len(figures) < ROUNDS_FOR_A_VERDICT:
        outcome, reason = Outcome.UNDECIDED, f"{len(figures)} rounds are too few for a verdict, {ROUNDS_FOR_A_VERDICT} are needed"
    others_share = _others_share(subject, reference)
    if others_share > MAX_OTHERS_SHARE:
        outcome, reason = Outcome.UNDECIDED, f"other programs took {100 * others_share:.0f} % of the machine's CPU time"
    return Finding(target=target, outcome=outcome, figure=found, reason=reason)


def _figures(target: Target, subject: Sequence[Sample], reference: Sequence[Sample]) -> tuple[list[float], str]:
    """The figure of each round, or why there are none."""
    above = [sample.values.get(target.value) for sample in subject]
    if not above or None in above:
        return [], f"{target.subject} has no value {target.value}"
    if not target.reference:
        return [value for value in above if value is not None], ""
    below = [sample.values.get(target.value) for sample in reference]
    if len(below) != len(above) or None in below:
        return [], f"{target.reference} has no value {target.value}"
    if not all(below):
        return [], f"{target.value} of {target.reference} was 0"
    if _mostly_limited(reference):
        least = statistics.median(value for value in below if value is not None)
        return [], f"the generator was the bottleneck of {target.reference}: it takes at least {least:,.4g}"
    return [one / other for one, other in zip(above, below, strict=True) if one is not None and other], ""


def _others_share(subject: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """The larger share of the two samples in each round, as the median of the rounds; 0 if it was not measured."""
    shares = [sample.values.get(OTHERS_SHARE, 0.0) for sample in subject]
    for round_index, sample in enumerate(reference):
        shares[round_index] = max(shares[round_index], sample.values.get(OTHERS_SHARE, 0.0))
    return statistics.median(shares)


def _compare(target: Target, found: Spread) -> tuple[Outcome, str]:
    if target.at_least is None and target.at_most is None:
        return Outcome.COMPARED, ""
    limit = "the generator was the bottleneck: at least "
    if target.at_least is not None and found.median < target.at_least:
        if found.lower_bound:
            return Outcome.UNDECIDED, f"{limit}{found.median:,.3g}"
        return Outcome.MISSED, ""
    if target.at_most is not None:
        if found.median > target.at_most:
            return Outcome.MISSED, ""
        if found.lower_bound:
            return Outcome.UNDECIDED, f"{limit}{found.median:,.3g}"
    return Outcome.MET, ""


def _spread(figures: Sequence[float], *, lower_bound: bool) -> Spread:
    return Spread(median=statistics.median(figures), least=min(figures), most=max(figures), lower_bound=lower_bound)


def _mostly_limited(samples: Sequence[Sample]) -> bool:
    """Whether half of the samples or more are limited: then the median is a lower bound, or next to one."""
    return 2 * sum(sample.generator_limited for sample in samples) >= len(samples)
