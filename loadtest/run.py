"""Runs a shape: opens all variants, loads each in turn in every round, evaluates the targets."""

import subprocess

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from loadtest.measure import Running, Sample, Shape, Variant
from loadtest.verdict import Finding, Outcome, evaluate

Progress = Callable[[str], None]
_FAILURES = (RuntimeError, OSError, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantResult:
    """The samples of a variant, in the order of the rounds."""

    name: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeResult:
    """`failure`: why the shape could not be measured to its end; empty if it was."""

    shape: Shape
    variants: tuple[VariantResult, ...]
    findings: tuple[Finding, ...]
    failure: str = ""

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def title(self) -> str:
        return self.shape.title

    @property
    def is_bad(self) -> bool:
        """Whether a target was missed, or the shape failed."""
        return bool(self.failure) or any(finding.outcome is Outcome.MISSED for finding in self.findings)

    def variant(self, name: str) -> VariantResult:
        """The variant by name. Raises `KeyError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def run_shape(shape: Shape, rounds: int, progress: Progress) -> ShapeResult:
    """Measure a shape. A failure ends the shape and is in the result. The cleanup is always complete."""
    variants = shape.variants()
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in variants}
    failure = ""
    try:
        with ExitStack() as stack:
            running = _open(shape, variants, stack, progress)
            for number in range(1, rounds + 1):
                for name in _order(tuple(running), number):
                    samples[name].append(_measure(running[name], name, number))
                    progress(f"{shape.name}: round {number} of {rounds}, {name}: {_brief(samples[name][-1])}")
    except _FAILURES as error:
        failure = str(error)
        progress(f"{shape.name}: failed: {failure}")
    results = tuple(VariantResult(name=name, samples=tuple(taken)) for name, taken in samples.items())
    targets = () if failure else shape.targets()
    findings = [
        evaluate(target, samples[target.subject], samples[target.reference] if target.reference else ()) for target in targets
    ]
    return ShapeResult(shape=shape, variants=results, findings=tuple(findings), failure=failure)


def _open(shape: Shape, variants: Sequence[Variant], stack: ExitStack, progress: Progress) -> dict[str, Running]:
    running: dict[str, Running] = {}
    for variant in variants:
        progress(f"{shape.name}: opening {variant.name}")
        try:
            running[variant.name] = stack.enter_context(variant.open())
        except _FAILURES as error:
            raise RuntimeError(f"{variant.name}: {error}") from error
    return running


def _measure(running: Running, name: str, number: int) -> Sample:
    try:
        return running.measure(number)
    except _FAILURES as error:
        raise RuntimeError(f"{name}, round {number}: {error}") from error


def _order(names: tuple[str, ...], number: int) -> tuple[str, ...]:
    """The variants in the order of a round. Each round begins with another one, so that the order has no systematic effect."""
    start = (number - 1) % len(names)
    return names[start:] + names[:start]


def _brief(sample: Sample) -> str:
    name, value = next(iter(sample.values.items()))
    return f"{name} {'≥ ' if sample.generator_limited else ''}{value:,.4g}"
