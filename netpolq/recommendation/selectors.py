"""The choice of a label selector: the cheapest one that selects a workload and none of its neighbours.

A selector has the label that names the workload, if there is one, so that it selects nothing of another application that appears later.
To that come as few labels as possible, the usual ones first. Where a neighbour has all labels of the workload and more, a label must be
absent (`DoesNotExist`). Workloads have different labels, so there always is a selector.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement
from netpolq.recommendation.workloads import Workload

_NAMING = ("app.kubernetes.io/name", "app", "k8s-app", "name")
_PREFERRED = (
    *_NAMING,
    *("app.kubernetes.io/component", "component", "tier", "role", "app.kubernetes.io/instance", "app.kubernetes.io/part-of"),
)
"""Labels that name workloads, the best first. Source: recommended labels of Kubernetes, and the usual ones before these."""

_POOR = frozenset({"app.kubernetes.io/managed-by", "heritage", "release", "version"})
"""Labels that say little about a workload, or change with it."""

_COST_PREFERRED = 10
_COST_OTHER = 25
_COST_POOR = 40
_COST_ABSENT = 45
"""Two labels that name workloads cost less than an arbitrary one; a label that must be absent costs most."""

_MAX_SEARCHED = 3
"""Up to so many requirements, all combinations of candidates are tried; above, one after the other is added."""

_MAX_CANDIDATES = 24


class _Candidate(NamedTuple):
    """A requirement that the workload meets. `excluded`: the neighbours that do not, as a bit mask."""

    cost: int
    requirement: Requirement
    excluded: int


def selector_for(workload: Workload, neighbours: Sequence[Workload]) -> LabelSelector:
    """Return the selector. With labels, it has at least one label and its value; without, labels that must be absent."""
    everything = (1 << len(neighbours)) - 1
    candidates = _candidates(workload, neighbours)
    naming = next((one for one in candidates if one.requirement.key in _NAMING and _has_value(one)), None)
    base: tuple[_Candidate, ...] = () if naming is None else (naming,)
    needs_value = bool(workload.labels) and naming is None
    rest = [one for one in candidates if one is not naming]
    excluded = 0 if naming is None else naming.excluded
    if excluded != everything or needs_value:
        base += _searched(rest[:_MAX_CANDIDATES], excluded, everything, needs_value=needs_value) or _greedy(
            rest, excluded, everything, needs_value=needs_value
        )
    return LabelSelector(tuple(sorted(candidate.requirement for candidate in base)))


def _candidates(workload: Workload, neighbours: Sequence[Workload]) -> list[_Candidate]:
    """Return all candidates, the cheapest first."""
    own = dict(workload.labels)
    labels_of = [dict(other.labels) for other in neighbours]
    found = []
    for key, value in own.items():
        excluded = _mask(labels.get(key) != value for labels in labels_of)
        found.append(_Candidate(_cost(key), Requirement(key, SelectorOperator.IN, (value,)), excluded))
    for key in sorted({key for labels in labels_of for key in labels} - own.keys()):
        excluded = _mask(key in labels for labels in labels_of)
        found.append(_Candidate(_COST_ABSENT, Requirement(key, SelectorOperator.DOES_NOT_EXIST, ()), excluded))
    return sorted(found, key=lambda candidate: (candidate.cost, -candidate.excluded.bit_count(), candidate.requirement))


def _searched(candidates: Sequence[_Candidate], excluded: int, everything: int, *, needs_value: bool) -> tuple[_Candidate, ...]:
    """Return the cheapest combination that excludes the other neighbours, or nothing if none of the small ones does."""
    best: tuple[_Candidate, ...] = ()
    for count in range(1, _MAX_SEARCHED + 1):
        for chosen in combinations(candidates, count):
            if best and _total(chosen) >= _total(best):
                continue
            together = excluded
            for candidate in chosen:
                together |= candidate.excluded
            if together == everything and (not needs_value or any(map(_has_value, chosen))):
                best = chosen
    return best


def _greedy(candidates: Sequence[_Candidate], excluded: int, everything: int, *, needs_value: bool) -> tuple[_Candidate, ...]:
    chosen = [next(filter(_has_value, candidates))] if needs_value else []
    excluded |= chosen[0].excluded if chosen else 0
    while excluded != everything:
        best = min(candidates, key=lambda one: (-((one.excluded & ~excluded).bit_count() / one.cost), one.requirement))
        chosen.append(best)
        excluded |= best.excluded
    return tuple(chosen)


def _has_value(candidate: _Candidate) -> bool:
    return candidate.requirement.operator is SelectorOperator.IN


def _total(chosen: Iterable[_Candidate]) -> int:
    return sum(candidate.cost for candidate in chosen)


def _cost(key: str) -> int:
    if key in _PREFERRED:
        # The order among them only decides between selectors that are otherwise alike.
        return _COST_PREFERRED * len(_PREFERRED) + _PREFERRED.index(key)
    return len(_PREFERRED) * (_COST_POOR if key in _POOR else _COST_OTHER)


def _mask(bits: Iterable[bool]) -> int:
    mask = 0
    for position, bit in enumerate(bits):
        mask |= bit << position
    return mask
