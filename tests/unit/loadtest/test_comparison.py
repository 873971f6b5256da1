"""Shapes with netpolq once more."""

import re

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.comparison import ComparedShape
from loadtest.document import shape_document
from loadtest.measure import Sample, Target
from loadtest.packet_load import PacketVariant
from loadtest.parameters import Compared, Parameters
from loadtest.plots import Plotted
from loadtest.run import ShapeResult, VariantResult
from loadtest.shapes import SHAPES
from loadtest.subjects import Netpolq
from loadtest.table import lines
from loadtest.verdict import Outcome, evaluate

BEFORE = Compared(checkout=Path("/before"))
OFF = Compared(flags=("--flows=off",))


def test_each_variant_with_netpolq_has_a_twin_for_each_comparison() -> None:
    shape = SHAPES["new-flows"](Parameters(quick=True))
    assert [variant.name for variant in ComparedShape(shape, [BEFORE, OFF]).variants()] == [
        "no agent",
        "accept-one",
        "accept-batch",
        "netpolq",
        "netpolq (of /before)",
        "netpolq (with --flows=off)",
        "accept-one, half a core",
        "netpolq, half a core",
        "netpolq, half a core (of /before)",
        "netpolq, half a core (with --flows=off)",
    ]


def test_a_twin_differs_in_what_is_compared_alone() -> None:
    found = {variant.name: variant for variant in ComparedShape(SHAPES["new-flows"](Parameters()), [BEFORE, OFF]).variants()}
    for name, subject in [
        ("netpolq (of /before)", Netpolq(checkout=Path("/before"))),
        ("netpolq (with --flows=off)", Netpolq(flags=("--flows=off",))),
    ]:
        ours, twin = found["netpolq"], found[name]
        assert isinstance(ours, PacketVariant)
        assert isinstance(twin, PacketVariant)
        assert replace(twin, name="netpolq", subject=ours.subject) == ours
        assert twin.subject == subject


@pytest.mark.parametrize("name", SHAPES)
def test_all_targets_and_plots_of_a_shape_stay(name: str) -> None:
    shape = SHAPES[name](Parameters(quick=True))
    compared = ComparedShape(shape, [BEFORE])
    names = {variant.name for variant in compared.variants()}
    targets = compared.targets()
    assert list(targets[: len(shape.targets())]) == list(shape.targets())
    assert {target.subject for target in targets} | {target.reference for target in targets if target.reference} <= names
    assert compared.has_twins == (name != "control-plane")
    assert compared.has_twins == (len(targets) > len(shape.targets()))
    assert list(compared.plots()) == (list(shape.plots()) if isinstance(shape, Plotted) else [])


def test_some_variants_can_be_loaded_alone_with_the_targets_among_them() -> None:
    shape = ComparedShape(SHAPES["new-flows"](Parameters()), [OFF], re.compile("^netpolq(?!, half)"))
    assert [variant.name for variant in shape.variants()] == ["netpolq", "netpolq (with --flows=off)"]
    assert list(shape.targets()) == [Target(value="delivered_per_s", subject="netpolq", reference="netpolq (with --flows=off)")]


def test_a_ratio_without_bounds_is_shown_and_is_no_verdict() -> None:
    shape = ComparedShape(SHAPES["not-isolated"](Parameters()), [BEFORE])
    target = Target(value="delivered_per_s", subject="netpolq", reference="netpolq (of /before)")
    ours, before = [Sample(values={"delivered_per_s": 9.0})] * 5, [Sample(values={"delivered_per_s": 10.0})] * 5
    found = evaluate(target, ours, before)
    assert found.outcome is Outcome.COMPARED
    results = tuple(
        VariantResult(name=name, samples=tuple(samples)) for name, samples in ((target.subject, ours), (target.reference, before))
    )
    document = shape_document(ShapeResult(shape=shape, variants=results, findings=(found,)))
    assert document["definition"].startswith("No queue")
    assert list(lines(document))[-1] == "  compared: delivered/s of netpolq beside netpolq (of /before): 0.9"
    assert evaluate(target, ours[:4], before[:4]).outcome is Outcome.UNDECIDED
