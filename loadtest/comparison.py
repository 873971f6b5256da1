"""Shapes with netpolq once more in each: as another checkout has it, or with other flags, beside the build of this checkout.

And shapes with some of their variants only, so that there is time for many rounds.
"""

import re

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from loadtest.measure import Shape, Target, Variant
from loadtest.parameters import Compared
from loadtest.plots import Medians, Plot, Plotted, Remarking
from loadtest.subjects import Netpolq


def twin_name(name: str, compared: Compared) -> str:
    """The name of a variant's twin, e.g. `netpolq (of ../before)`."""
    return f"{name} ({compared.label})"


@dataclass(frozen=True, slots=True)
class ComparedShape:
    """A shape in which each variant with netpolq has a twin for each comparison, loaded in turn with the others.

    The targets are those of the shape, and one without bounds for each twin and each value that the shape has a target for. `only`: found
    in the names of the variants to load; None: all are loaded.
    """

    shape: Shape
    compared: Sequence[Compared]
    only: re.Pattern[str] | None = None

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def title(self) -> str:
        return self.shape.title

    @property
    def definition(self) -> type:
        """The class with the description."""
        return type(self.shape)

    @property
    def has_twins(self) -> bool:
        """Whether any variant has netpolq as a subject of its own."""
        return any(_twin(variant, Compared()) is not None for variant in self.shape.variants())

    def variants(self) -> Sequence[Variant]:
        found: list[Variant] = []
        for variant in self.shape.variants():
            twins = [_twin(variant, compared) for compared in self.compared]
            found += [variant, *(twin for twin in twins if twin is not None)]
        return [variant for variant in found if self.only is None or self.only.search(variant.name)]

    def targets(self) -> Sequence[Target]:
        targets = self.shape.targets()
        names = {variant.name for variant in self.variants()}
        values: dict[tuple[str, str], None] = {}
        for target in targets:
            values |= {(target.value, name): None for name in (target.subject, target.reference)}
        pairs = [(value, name, twin_name(name, compared)) for value, name in values for compared in self.compared]
        compared = [Target(value=value, subject=name, reference=twin) for value, name, twin in pairs]
        return [target for target in (*targets, *compared) if {target.subject, target.reference or target.subject} <= names]

    def plots(self) -> Sequence[Plot]:
        return self.shape.plots() if isinstance(self.shape, Plotted) else ()

    def remarks(self, medians: Medians) -> Sequence[str]:
        return self.shape.remarks(medians) if isinstance(self.shape, Remarking) else ()


def _twin(variant: Variant, compared: Compared) -> Variant | None:
    """The same variant with the other netpolq; None if it has none."""
    subject: object = getattr(variant, "subject", None)
    if not isinstance(subject, Netpolq):
        return None
    other = replace(subject, checkout=compared.checkout or subject.checkout, flags=(*subject.flags, *compared.flags))
    changed: Mapping[str, Any] = {"name": twin_name(variant.name, compared), "subject": other}
    return cast("Variant", replace(cast("Any", variant), **changed))
