"""A cover: few rules, each of peers and ports, that together allow exactly the pairs of a relation.

A rule allows every pair of its peers and its ports, so it may have only peers that were all seen at all of its ports. The fewest such
rules are hard to find (a biclique cover). Three covers are compared: one rule for each set of ports, one for each set of peers, and rules
that are as large as possible, the largest first. The result is never longer than the first two.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

Row = TypeVar("Row", bound=Hashable)
Column = TypeVar("Column", bound=Hashable)

MAX_COMPARED = 64
"""Above this number of different sets, the third cover would take too long."""


class Rectangle(NamedTuple, Generic[Row, Column]):
    """Rows and columns, all of whose pairs are in the relation. Both in the order of the relation."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]


def cover(relation: Mapping[Row, frozenset[Column]], columns: Sequence[Column]) -> list[Rectangle[Row, Column]]:
    """Return rectangles that have all pairs and no other. `columns`: all of them, in order."""
    rows_of = {column: tuple(row for row, found in relation.items() if column in found) for column in columns}
    by_columns: dict[frozenset[Column], list[Row]] = {}
    for row, found in relation.items():
        by_columns.setdefault(found, []).append(row)
    by_rows: dict[tuple[Row, ...], list[Column]] = {}
    for column, rows in rows_of.items():
        if rows:
            by_rows.setdefault(rows, []).append(column)
    covers = [
        [Rectangle(tuple(rows), _ordered(found, columns)) for found, rows in by_columns.items() if found],
        [Rectangle(rows, tuple(found)) for rows, found in by_rows.items()],
    ]
    if 2 < min(map(len, covers)) <= max(map(len, covers)) <= MAX_COMPARED:
        covers.append(_largest_first(relation, columns, covers[0], covers[1]))
    return min(covers, key=len)


def _ordered(found: Iterable[Column], columns: Sequence[Column]) -> tuple[Column, ...]:
    wanted = frozenset(found)
    return tuple(column for column in columns if column in wanted)


def _largest_first(
    relation: Mapping[Row, frozenset[Column]],
    columns: Sequence[Column],
    by_columns: Sequence[Rectangle[Row, Column]],
    by_rows: Sequence[Rectangle[Row, Column]],
) -> list[Rectangle[Row, Column]]:
    candidates = dict.fromkeys(
        [
            *(
                Rectangle(tuple(row for row, found in relation.items() if found.issuperset(one.columns)), one.columns)
                for one in by_columns
            ),
            *(
                Rectangle(one.rows, _ordered(frozenset.intersection(*(relation[row] for row in one.rows)), columns))
                for one in by_rows
            ),
        ]
    )
    pairs = {one: {(row, column) for row in one.rows for column in one.columns} for one in candidates}
    missing = {(row, column) for row, found in relation.items() for column in found}
    chosen: list[Rectangle[Row, Column]] = []
    while missing:
        best = max(pairs, key=lambda one: len(pairs[one] & missing))
        chosen.append(best)
        missing -= pairs[best]
    for one in tuple(chosen):  # the first ones may be covered by the later ones
        others = [other for other in chosen if other != one]
        if pairs[one] <= set().union(*(pairs[other] for other in others)):
            chosen = others
    return chosen
