"""The types of a measurement: shapes, variants, targets and samples.

A shape names the variants to compare. Each variant is opened once, with namespaces, an agent or a reference of its own, and all stay open:
in every round each is loaded in turn, so that a noise of the machine meets all of them alike. Only ratios within a round are compared.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one variant did in one round. `values`: number by name, with its unit in the name (`delivered_per_s`, `connect_p50_us`).

    `generator_limited`: the load was smaller than what the variant could have taken, so `values` are lower bounds of what it can do.
    `distribution`: quantile → value in the unit of the shape, for plots of latency. `notes`: what a reader must know: drops,
    retransmissions, anything that failed.
    """

    values: Mapping[str, float]
    generator_limited: bool = False
    distribution: Mapping[float, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Running(Protocol):
    """An open variant."""

    def measure(self, round_number: int) -> Sample:
        """Load it once. Raises `RuntimeError` when what is to be measured does not work."""
        ...


class Variant(Protocol):
    """One of the things that a shape compares: an agent or a reference, with its parameters."""

    @property
    def name(self) -> str:
        """Unique within the shape, e.g. `netpolq, 1,000 policies`."""
        ...

    def open(self) -> AbstractContextManager[Running]:
        """Set everything up; leaving the context removes it all."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a shape must reach: the median over the rounds of `subject`'s value divided by `reference`'s, at least or at most a bound.

    `reference` empty: the value itself is compared (a latency bound of its own, a size, a count). `bound` is inclusive.
    """

    value: str
    subject: str
    reference: str = ""
    at_least: float | None = None
    at_most: float | None = None


class Shape(Protocol):
    """A kind of load. `name`: as on the command line; `title`: a line for people."""

    name: str
    title: str

    def variants(self) -> Sequence[Variant]:
        """What is compared, references first."""
        ...

    def targets(self) -> Sequence[Target]:
        """What must be reached."""
        ...
