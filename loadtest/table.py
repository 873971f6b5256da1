"""The results of a shape as a table for a terminal."""

import re

from collections.abc import Iterator, Sequence

from loadtest.document import ShapeDocument, VariantDocument
from loadtest.figures import extent, finding, label, median, requirement

_NUMBER = re.compile(r"\d[\d,.]*")


def lines(shape: ShapeDocument) -> Iterator[str]:
    """The medians of all values, the spread of the first, the notes, and the targets."""
    yield f"{shape['name']}: {shape['title']}"
    yield from _aligned(_rows(shape["variants"]))
    for variant in shape["variants"]:
        for note, rounds in notes(variant).items():
            where = f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds)} of {len(variant['samples'])} rounds"
            yield f"  {variant['name']}, {where}: {note}"
    for remark in shape["remarks"]:
        yield f"  {remark}"
    for target in shape["targets"]:
        yield f"  {target['outcome']}: {requirement(target)}: {finding(target)}"
    if shape["failure"]:
        yield f"  failed: {shape['failure']}"


def _rows(variants: Sequence[VariantDocument]) -> list[list[str]]:
    names = columns(variants)
    if not names:
        return []
    first = names[0]
    rows = [["variant", label(first), "least – most", *map(label, names[1:])]]
    for variant in variants:
        summary = variant["summary"]
        cells = [
            variant["name"],
            *((median(first, summary[first]), extent(first, summary[first])) if first in summary else ("", "")),
        ]
        rows.append([*cells, *(median(name, summary[name]) if name in summary else "" for name in names[1:])])
    return rows


def notes(variant: VariantDocument) -> dict[str, list[int]]:
    """Return the notes, and their rounds. Notes that differ only in numbers are merged, with the text of the last round."""
    found: dict[str, tuple[str, list[int]]] = {}
    for number, sample in enumerate(variant["samples"], 1):
        for note in sample["notes"]:
            kind = _NUMBER.sub("#", note)
            found[kind] = note, [*found.get(kind, (note, []))[1], number]
    return dict(found.values())


def columns(variants: Sequence[VariantDocument]) -> list[str]:
    """The values that are not zero everywhere."""
    names = dict.fromkeys(name for variant in variants for name in variant["summary"])
    return [name for name in names if any(variant["summary"][name]["most"] for variant in variants if name in variant["summary"])]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  " + "  ".join(cells).rstrip()
