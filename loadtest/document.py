"""The results as one JSON document, the input of the report."""

import inspect

from collections.abc import Sequence
from typing import TypedDict

from loadtest.comparison import ComparedShape
from loadtest.machine import Machine
from loadtest.measure import Sample
from loadtest.plots import Plot, Plotted, Remarking
from loadtest.run import ShapeResult, VariantResult
from loadtest.verdict import Finding, Spread, spread


class SpreadDocument(TypedDict):
    """`lower_bound`: the generator was the bottleneck in most rounds."""

    median: float
    least: float
    most: float
    lower_bound: bool


class SampleDocument(TypedDict):
    """`distribution`: value by quantile, as text such as 0.99."""

    values: dict[str, float]
    generator_limited: bool
    distribution: dict[str, float]
    notes: list[str]


class VariantDocument(TypedDict):
    """`summary`: by name of the value, over the rounds."""

    name: str
    summary: dict[str, SpreadDocument]
    samples: list[SampleDocument]


class TargetDocument(TypedDict):
    """`figure`: the ratio to the reference, or the value itself where `reference` is empty; null where there is none, see `reason`."""

    value: str
    subject: str
    reference: str
    at_least: float | None
    at_most: float | None
    outcome: str
    figure: SpreadDocument | None
    reason: str


class PointDocument(TypedDict):
    """A variant and its position on the x axis of a plot."""

    x: float
    variant: str


class PlotDocument(TypedDict):
    """A plot of a shape; `lines`: points by name."""

    title: str
    x_label: str
    value: str
    lines: dict[str, list[PointDocument]]


class ShapeDocument(TypedDict):
    """`definition`: the compared variants and the method; `failure`: why the shape could not be measured, or empty."""

    name: str
    title: str
    definition: str
    failure: str
    plots: list[PlotDocument]
    remarks: list[str]
    variants: list[VariantDocument]
    targets: list[TargetDocument]


class Document(TypedDict):
    """The whole document. `began`: ISO 8601, UTC. `quick`: the figures have no meaning."""

    netpolq: str
    began: str
    machine: Machine
    rounds: int
    packets: int
    duration_s: float
    quick: bool
    shapes: list[ShapeDocument]


def shape_document(result: ShapeResult) -> ShapeDocument:
    """A shape's part of the document."""
    variants = [_variant(variant) for variant in result.variants]
    medians = {variant["name"]: {name: found["median"] for name, found in variant["summary"].items()} for variant in variants}
    shape = result.shape
    return ShapeDocument(
        name=result.name,
        title=result.title,
        definition=inspect.getdoc(shape.definition if isinstance(shape, ComparedShape) else type(shape)) or "",
        failure=result.failure,
        plots=[_plot(plot) for plot in shape.plots()] if isinstance(shape, Plotted) else [],
        remarks=list(shape.remarks(medians)) if isinstance(shape, Remarking) and not result.failure else [],
        variants=variants,
        targets=[_target(finding) for finding in result.findings],
    )


def value_names(samples: Sequence[Sample]) -> list[str]:
    """Names of all values of some samples, in order of appearance."""
    return list(dict.fromkeys(name for sample in samples for name in sample.values))


def _plot(plot: Plot) -> PlotDocument:
    lines = {name: [PointDocument(x=x, variant=variant) for x, variant in points] for name, points in plot.lines.items()}
    return PlotDocument(title=plot.title, x_label=plot.x_label, value=plot.value, lines=lines)


def _variant(variant: VariantResult) -> VariantDocument:
    summary = {}
    for name in value_names(variant.samples):
        found = spread(variant.samples, name)
        if found is not None:
            summary[name] = _spread(found)
    return VariantDocument(name=variant.name, summary=summary, samples=[_sample(sample) for sample in variant.samples])


def _sample(sample: Sample) -> SampleDocument:
    return SampleDocument(
        values=dict(sample.values),
        generator_limited=sample.generator_limited,
        distribution={f"{quantile:g}": value for quantile, value in sorted(sample.distribution.items())},
        notes=list(sample.notes),
    )


def _target(finding: Finding) -> TargetDocument:
    return TargetDocument(
        value=finding.target.value,
        subject=finding.target.subject,
        reference=finding.target.reference,
        at_least=finding.target.at_least,
        at_most=finding.target.at_most,
        outcome=finding.outcome.value,
        figure=None if finding.figure is None else _spread(finding.figure),
        reason=finding.reason,
    )


def _spread(found: Spread) -> SpreadDocument:
    return SpreadDocument(median=found.median, least=found.least, most=found.most, lower_bound=found.lower_bound)
