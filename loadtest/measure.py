"""The types of a measurement: shapes, variants, targets and samples.

A shape names the variants to compare. Each variant is opened once, with its own namespaces and its own agent or reference, and all stay
open. Every round loads each variant in turn, so that noise of the machine affects all of them alike. Only ratios within a round are
compared.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The result of one variant in one round. `values`: number by name, with its unit in the name (`delivered_per_s`, `connect_p50_us`).

    `generator_limited`: the load was below the capacity of the variant, so `values` are lower bounds of it.
    `distribution`: quantile → value in the unit of the shape, for plots of latency. `notes`: drops, retransmissions, failures.
    """

    values: Mapping[str, float]
    generator_limited: bool = False
    distribution: Mapping[float, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Running(Protocol):
    """An open variant."""

    def measure(self, round_number: int) -> Sample:
        """Send one load. Raises `RuntimeError` if the measured subject fails."""
        ...


class Variant(Protocol):
    """One of the compared subjects of a shape: an agent or a reference, with its parameters."""

    @property
    def name(self) -> str:
        """Unique within the shape, e.g. `netpolq, 1,000 policies`."""
        ...

    def open(self) -> AbstractContextManager[Running]:
        """Set everything up; the end of the context removes everything."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A requirement of a shape: a bound of the median, over the rounds, of `subject`'s value divided by `reference`'s.

    `reference` empty: the value itself is compared (a latency bound of its own, a size, a count). `bound` is inclusive.
    """

    value: str
    subject: str
    reference: str = ""
    at_least: float | None = None
    at_most: float | None = None


class Shape(Protocol):
    """A kind of load."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    @property
    def title(self) -> str:
        """Its title in the report."""
        ...

    def variants(self) -> Sequence[Variant]:
        """The compared variants, references first."""
        ...

    def targets(self) -> Sequence[Target]:
        """The requirements."""
        ...
