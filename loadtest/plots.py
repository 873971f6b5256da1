"""Optional plots and remarks of a shape. A shape can have these methods or not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

Medians = Mapping[str, Mapping[str, float]]
"""Median over the rounds, by variant and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A value over something that variants differ in. `lines`: by name, the points of a line: where on the x axis, and which variant."""

    title: str
    x_label: str
    value: str
    lines: Mapping[str, Sequence[tuple[float, str]]]


@runtime_checkable
class Plotted(Protocol):
    """A shape with plots of its own."""

    def plots(self) -> Sequence[Plot]:
        """What is drawn, besides what is drawn for every shape."""
        ...


@runtime_checkable
class Remarking(Protocol):
    """A shape that draws conclusions."""

    def remarks(self, medians: Medians) -> Sequence[str]:
        """Sentences for the report, from what was measured."""
        ...
