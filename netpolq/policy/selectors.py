"""Label selectors, judged exactly as the API does (`meta/v1 LabelSelector`)."""

from collections.abc import Mapping

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement of a selector. The empty selector matches everything."""
    for requirement in selector.requirements:  # noqa: SIM110  # a generator would take as long as all the rest
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
        return value is not None and value in values
    if operator is SelectorOperator.NOT_IN:
        return value is None or value not in values
    if operator is SelectorOperator.EXISTS:
        return value is not None
    return value is None
