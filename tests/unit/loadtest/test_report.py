"""The document, the table and the page that are made of results."""

import json
import re

from collections.abc import Sequence

import pytest

from loadtest.document import Document, shape_document
from loadtest.machine import facts
from loadtest.measure import Sample, Target
from loadtest.plots import Medians, Plot
from loadtest.report.page import render
from loadtest.run import ShapeResult, VariantResult
from loadtest.table import lines
from loadtest.verdict import evaluate

HOSTILE = "<script>alert('x')</script> & \"more\""


class Shown:
    """First paragraph.

    Second paragraph.
    """

    name = "shown"
    title = f"A shape of {HOSTILE}"

    def variants(self) -> Sequence[object]:
        return []

    def targets(self) -> Sequence[Target]:
        return [
            Target(value="taken_per_s", subject="fast", reference="slow", at_least=1.5),
            Target(value="taken_per_s", subject="slow", reference="fast", at_least=1.5),
            Target(value="connect_p50_us", subject=HOSTILE, at_most=90.0),
        ]

    def plots(self) -> Sequence[Plot]:
        lines_ = {"a line": [(1.0, "slow"), (100.0, "fast"), (1000.0, "never opened")]}
        return [Plot(title="By size", x_label="size", value="taken_per_s", lines=lines_)]

    def remarks(self, medians: Medians) -> Sequence[str]:
        return [f"fast takes {medians['fast']['taken_per_s']:g}"]


def document(*, failure: str = "") -> Document:
    values = {"slow": 100.0, "fast": 200.0}
    results = [
        VariantResult(
            name=name,
            samples=tuple(
                Sample(
                    values={"taken_per_s": value + number, "lost_share": 0.25 if name == "slow" else 0.0, "unjudged": 0.0},
                    generator_limited=name == "fast",
                    notes=(f"{250 + number} of 1,000 packets dropped at the full queue",) if name == "slow" else (),
                )
                for number in range(5)
            ),
        )
        for name, value in values.items()
    ]
    quantiles = {0.5: 80.0, 0.9: 100.0, 0.99: 400.0}
    results.append(
        VariantResult(
            name=HOSTILE, samples=tuple(Sample(values={"connect_p50_us": 80.0}, distribution=quantiles) for _ in range(5))
        )
    )
    by_name = {result.name: result.samples for result in results}
    findings = tuple(evaluate(target, by_name[target.subject], by_name.get(target.reference, ())) for target in Shown().targets())
    result = ShapeResult(shape=Shown(), variants=tuple(results), findings=() if failure else findings, failure=failure)  # type: ignore[arg-type]
    return Document(
        netpolq="1.2.3",
        began="2030-01-02T03:04:05+00:00",
        machine=facts(),
        rounds=5,
        packets=1_000,
        duration_s=1.0,
        quick=False,
        shapes=[shape_document(result)],
    )


def test_the_page_asks_for_nothing_from_anywhere_and_runs_nothing() -> None:
    page = render(document())
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_names_are_text_wherever_they_stand() -> None:
    assert render(document()).count("&lt;script&gt;") >= 4


def test_each_target_is_shown_with_its_outcome_and_the_reason() -> None:
    page = render(document())
    assert page.count('class="outcome met"') == 2
    assert page.count('class="outcome undecided"') == 1
    assert "the generator was the bottleneck of fast: it takes at least 202" in page
    assert "≥ 1.98 (1.96 – 2)" in page


def test_losses_and_notes_are_shown_shortly_and_round_by_round() -> None:
    page = render(document())
    assert "slow: 254 of 1,000 packets dropped at the full queue (5 of 5 rounds)" in page
    assert all(f"slow, round {number + 1}: {250 + number} of 1,000" in page for number in range(5))
    assert "Lost of all packets sent" in page


def test_there_is_a_plot_of_rounds_lines_distributions_and_losses() -> None:
    page = render(document())
    assert page.count("<svg") == 5  # rounds of two values, one line plot, distributions, losses
    assert "By size: taken/s" in page
    assert "Distribution (µs)" in page


def test_nothing_in_one_plot_has_the_name_of_something_in_another() -> None:
    names = re.findall(r'id="([^"]+)"', render(document()))
    assert len(names) == len(set(names))


def test_the_machine_and_the_definition_of_the_shape_are_on_the_page() -> None:
    page = render(document())
    assert facts()["kernel"] in page
    assert "<p>First paragraph.</p>\n<p>Second paragraph.</p>" in page
    assert "<p>fast takes 202</p>" in page


def test_a_shape_that_failed_says_why() -> None:
    page = render(document(failure="fast: no <answer>"))
    assert "Could not be measured: fast: no &lt;answer&gt;" in page
    assert 'class="outcome failed"' in page


def test_the_document_survives_json() -> None:
    before = document()
    assert render(json.loads(json.dumps(before))) == render(before)


def test_the_table_has_a_line_for_each_variant_note_remark_and_target() -> None:
    found = list(lines(document()["shapes"][0]))
    assert found[0] == f"shown: A shape of {HOSTILE}"
    assert "unjudged" not in found[1]  # it was zero everywhere
    assert [line.split()[0] for line in found[2:4]] == ["slow", "fast"]
    assert "≥ 202" in found[3]
    assert "  slow, 5 of 5 rounds: 254 of 1,000 packets dropped at the full queue" in found
    assert "  fast takes 202" in found
    assert [line.split(":")[0].strip() for line in found[-3:]] == ["met", "undecided", "met"]


@pytest.mark.parametrize("name", ["taken_per_s", "connect_p50_us"])
def test_the_document_has_the_spread_of_every_value(name: str) -> None:
    summaries = [variant["summary"] for variant in document()["shapes"][0]["variants"]]
    assert any(name in summary for summary in summaries)
