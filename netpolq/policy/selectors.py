"""Label selectors, judged exactly as the API does (`meta/v1 LabelSelector`)."""

from collections.abc import Mapping

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every requirement of a selector. The empty selector matches everything."""
    return all(requirement_holds(requirement, labels) for requirement in selector.requirements)


def requirement_holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Whether labels meet one requirement.

    Source: `LabelSelectorRequirement`. In and Exists need the key; NotIn and DoesNotExist also hold where the key is absent.
    """
    value = labels.get(requirement.key)
    match requirement.operator:
        case SelectorOperator.IN:
            return value is not None and value in requirement.values
        case SelectorOperator.NOT_IN:
            return value is None or value not in requirement.values
        case SelectorOperator.EXISTS:
            return value is not None
        case SelectorOperator.DOES_NOT_EXIST:
            return value is None
