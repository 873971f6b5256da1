"""Tables of text with aligned columns."""

from collections.abc import Iterator, Sequence


def columns(rows: Sequence[Sequence[str]], *, align: str = "") -> Iterator[str]:
    """Rows of equal length as lines with aligned columns. `align`: `<` left or `>` right for each column; empty: all left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = align or "<" * len(widths)
    for row in rows:
        yield "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
