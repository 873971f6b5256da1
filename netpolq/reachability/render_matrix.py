"""Renderers of a matrix: a table for a terminal, for Markdown and for spreadsheets, and one JSON object for programs."""

import csv
import io

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

import orjson

from netpolq.logs import one_line
from netpolq.model import Rejection
from netpolq.reachability.cluster import Reach
from netpolq.reachability.matrix import Cell, Matrix
from netpolq.reachability.ports import port_fields, ports_text
from netpolq.text_table import columns

_CORNER = "from / to"


class MatrixFormat(StrEnum):
    """The output format of a matrix."""

    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def cell_text(matrix: Matrix, cell: Cell) -> str:
    """Return `all`, `none` or `some` if that holds for all ports, `-` without a pair, or else the allowed ports."""
    if not cell:
        return "-"
    if len(set(cell)) == 1:
        return cell[0].value
    allowed, some = matrix.ports(cell, Reach.ALL), matrix.ports(cell, Reach.SOME)
    return "; ".join(text for text in (ports_text(allowed), some and f"some: {ports_text(some)}") if text)


def as_text(matrix: Matrix) -> str:
    """Return a table whose columns have the numbers of the rows, for names are long."""
    width = len(str(len(matrix.groups)))
    heads = [f"{number:>{width}}" for number in range(1, len(matrix.groups) + 1)]
    rows = [[_CORNER, *map(str.strip, heads)]]
    rows += [[f"{head} {name}", *cells] for head, (name, *cells) in zip(heads, _rows(matrix), strict=True)]
    return "".join(f"{line}\n" for line in columns(rows))


def as_markdown(matrix: Matrix) -> str:
    """Return a Markdown table."""
    names = [group.name for group in matrix.groups]
    rows = [[text.replace("|", "\\|") for text in row] for row in ([_CORNER, *map(one_line, names)], *_rows(matrix))]
    rows.insert(1, ["---"] * (len(names) + 1))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def as_csv(matrix: Matrix) -> str:
    """Return comma-separated values with a line of names (RFC 4180, with line feeds)."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow([_CORNER, *(group.name for group in matrix.groups)])
    writer.writerows(_rows(matrix))
    return output.getvalue()


def as_json(matrix: Matrix, without_address: Sequence[str], rejections: Sequence[Rejection], origin: Mapping[str, object]) -> str:
    """Return one JSON object on one line. `without_address`: pods that are in no group. `origin`: fields about where the objects come from.
    The field `rejected` is there if there are any.
    """
    answer = {
        "groups": [{"name": group.name, "pods": group.pods} for group in matrix.groups],
        "cells": [
            {"source": source, "destination": destination, **_cell_fields(matrix, cell)}
            for (source, destination), cell in matrix.cells.items()
        ],
        "pods_without_address": list(without_address),
        **origin,
        **({"rejected": rejections} if rejections else {}),
    }
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode()


TABLES: Mapping[MatrixFormat, Callable[[Matrix], str]] = MappingProxyType(
    {MatrixFormat.TEXT: as_text, MatrixFormat.MARKDOWN: as_markdown, MatrixFormat.CSV: as_csv}
)


def _rows(matrix: Matrix) -> Iterable[list[str]]:
    names = [group.name for group in matrix.groups]
    for name in names:
        yield [one_line(name), *(cell_text(matrix, matrix.cells[name, other]) for other in names)]


def _cell_fields(matrix: Matrix, cell: Cell) -> dict[str, object]:
    """`connections`: the common result of all ports, `ports` if they differ, null without a pair."""
    results = set(cell)
    return {
        "connections": None if not cell else "ports" if len(results) > 1 else cell[0].value,
        "allowed": port_fields(matrix.ports(cell, Reach.ALL)),
        "allowed_for_some": port_fields(matrix.ports(cell, Reach.SOME)),
    }
