"""The matching of label selectors, with the semantics of the API (`meta/v1 LabelSelector`)."""

from bisect import bisect_left
from collections.abc import Mapping

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement

_FEW_VALUES = 16
"""Up to this many values a linear search is faster."""


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement of a selector. The empty selector matches everything."""
    for requirement in selector.requirements:  # noqa: SIM110  # a generator would double the time
        if not requirement_holds(requirement, labels):
            return False
    return True


def requirement_holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether labels meet one requirement.

    Source: `LabelSelectorRequirement`. In and Exists need the key; NotIn and DoesNotExist also hold where the key is absent.
    """
    key, operator, values = requirement
    value = labels.get(key)
    if operator is SelectorOperator.IN:
        return value is not None and _is_among(values, value)
    if operator is SelectorOperator.NOT_IN:
        return value is None or not _is_among(values, value)
    if operator is SelectorOperator.EXISTS:
        return value is not None
    return value is None


def _is_among(values: tuple[str, ...], value: str) -> bool:
    # Values are sorted. A policy may have many, and every peer class is compared with them.
    if len(values) <= _FEW_VALUES:
        return value in values
    index = bisect_left(values, value)
    return index < len(values) and values[index] == value
