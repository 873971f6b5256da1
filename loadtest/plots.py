"""Optional methods of a shape: plots and remarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Medians = Mapping[str, Mapping[str, float]]
"""Median over the rounds, by variant and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A value over a parameter of the variants. `lines`: by name, the points of a line: position on the x axis, and variant."""

    title: str
    x_label: str
    value: str
    lines: Mapping[str, Sequence[tuple[float, str]]]


@runtime_checkable
class Plotted(Protocol):
    """A shape with plots of its own."""

    def plots(self) -> Sequence[Plot]:
        """The plots besides those of every shape."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A shape with remarks."""

    def remarks(self, medians: Medians) -> Sequence[str]:
        """Sentences for the report, derived from the results."""
        ...
