"""Errors of one object, collected during decoding and reported in the order of the document.

An error that only follows from an unknown field is not reported beside it, such as a missing field beside a misspelled one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from netpolq.sources.decode.fields import Field, FieldError, shown

MAX_REPORTED = 20
"""Maximum number of errors reported for one object; the rest is counted."""
MAX_KEPT = 1000
"""Maximum number of errors kept for one object, for sorting; 1000 take about 0.3 MB."""
MAX_CHARACTERS = 300
"""Of a path, and of a message. The longest that the agent writes about fields of the API have some 150 and 250."""


class Problem(NamedTuple):
    """An error as reported."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Problems:
    """Errors of one object. `count`: the number of errors added, duplicates included.

    `roots`: the outermost fields that have errors, relative to the object.
    """

    __slots__ = ("_base", "_kept", "count", "roots")

    def __init__(self, base: str = "") -> None:
        """`base`: the path of the object."""
        self._base = base
        self._kept: dict[tuple[str, str], FieldError] = {}
        self.count = 0
        self.roots: set[str] = set()

    def add(self, error: FieldError) -> None:
        """Note an error."""
        self.count += 1
        self.roots.add(error.path[len(self._base) :].lstrip(".").partition(".")[0].partition("[")[0])
        if len(self._kept) < MAX_KEPT:
            # A traceback would keep its frames alive.
            self._kept.setdefault((error.path, error.message), error.with_traceback(None))

    def add_all(self, errors: Iterable[FieldError]) -> None:
        """Note several errors."""
        for error in errors:
            self.add(error)

    def kept(self) -> list[FieldError]:
        """The distinct errors, in the order of discovery."""
        return list(self._kept.values())

    def reported(self, body: Field) -> list[Problem]:
        """From 1 to `MAX_REPORTED` errors, in the order of the document, then one without a path that counts the rest."""
        errors = self.kept()
        found = _found(body, [error.path for error in errors])
        ranks = {path: rank for rank, path in enumerate(found)}

        def rank(error: FieldError) -> int:
            """The rank of the field, or of the object that lacks it."""
            return max(ranks.get(path, 0) for path in _leading_to(error.path, len(body.path)))

        ordered = sorted(_without_consequences(errors, found, len(body.path)), key=rank)
        reported = [Problem(_clipped(error.path), _clipped(error.message)) for error in ordered[:MAX_REPORTED]]
        if len(ordered) > MAX_REPORTED:
            at_least = "at least " if len(self._kept) >= MAX_KEPT else ""
            reported.append(Problem("", f"and {at_least}{len(ordered) - MAX_REPORTED} more"))
        return reported


def _without_consequences(errors: list[FieldError], found: Mapping[str, object], start: int) -> list[FieldError]:
    """The errors without those that an unknown field explains: one of the same field, and one of a field missing from the same object."""
    unknown = {error.path for error in errors if error.unknown_in is not None}
    if not unknown:
        return errors
    incomplete = {error.unknown_in for error in errors}

    def is_explained(error: FieldError) -> bool:
        if error.unknown_in is not None:
            return False
        objects = [path for path in _leading_to(error.path, start) if isinstance(found.get(path), dict)]
        return error.path in unknown or (error.is_missing and bool(objects) and objects[-1] in incomplete)

    return [error for error in errors if not is_explained(error)]


def _clipped(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 3]}…{text[1 - MAX_CHARACTERS + MAX_CHARACTERS // 3 :]}"


def _found(body: Field, paths: list[str]) -> dict[str, object]:
    """The values of these paths and of the objects and lists that they lead through, in the order of the document. A path of which there is
    nothing is left out.
    """
    wanted = {leading for path in paths for leading in _leading_to(path, len(body.path))}
    found: dict[str, object] = {}
    pending = [body]
    while pending:
        field = pending.pop()
        found.setdefault(field.path, field.value)
        pending += reversed([child for child in _children(field) if child.path in wanted])
    return found


def _leading_to(path: str, start: int) -> list[str]:
    """The path from this length on of every object and list that it may lead through, and the path itself, the longest last."""
    return [path[:start], *(path[:end] for end in range(start + 1, len(path)) if path[end] in ".["), path]


def _children(field: Field) -> Iterator[Field]:
    """The fields of an object, under every path that errors have for them, or the elements of a list."""
    path, value = field
    if isinstance(value, list):
        for index, element in enumerate(value):
            yield Field(f"{path}[{index}]", element)
    elif isinstance(value, dict):
        dotted = f"{path}." if path else ""
        for key, inner in value.items():
            quoted = shown(key)
            yield Field(f"{path}[{quoted}]", inner)
            yield Field(f"{dotted}{quoted}", inner)
            if isinstance(key, str):
                yield Field(f"{dotted}{key}", inner)
