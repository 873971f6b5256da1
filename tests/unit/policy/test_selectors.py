import pytest

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement
from netpolq.policy.selectors import matches

WEB = {"app": "web", "tier": "front"}


def selector(*requirements: tuple[str, SelectorOperator, tuple[str, ...]]) -> LabelSelector:
    return LabelSelector(tuple(Requirement(*requirement) for requirement in requirements))


def test_the_empty_selector_matches_everything() -> None:
    assert matches(LabelSelector(), WEB)
    assert matches(LabelSelector(), {})


@pytest.mark.parametrize(
    ("operator", "values", "with_value", "with_other_value", "without_key"),
    [
        (SelectorOperator.IN, ("db", "web"), True, False, False),
        (SelectorOperator.NOT_IN, ("db", "web"), False, True, True),
        (SelectorOperator.EXISTS, (), True, True, False),
        (SelectorOperator.DOES_NOT_EXIST, (), False, False, True),
    ],
)
def test_operators_on_a_present_and_an_absent_key(
    operator: SelectorOperator, values: tuple[str, ...], with_value: bool, with_other_value: bool, without_key: bool
) -> None:
    """NotIn and DoesNotExist match objects that lack the key; In and Exists do not."""
    condition = selector(("app", operator, values))
    assert matches(condition, {"app": "web"}) is with_value
    assert matches(condition, {"app": "cache"}) is with_other_value
    assert matches(condition, {"other": "web"}) is without_key


def test_every_requirement_must_hold() -> None:
    assert matches(selector(("app", SelectorOperator.IN, ("web",)), ("tier", SelectorOperator.EXISTS, ())), WEB)
    assert not matches(selector(("app", SelectorOperator.IN, ("web",)), ("tier", SelectorOperator.DOES_NOT_EXIST, ())), WEB)


def test_two_requirements_on_one_key_are_both_evaluated() -> None:
    both = selector(("app", SelectorOperator.IN, ("web",)), ("app", SelectorOperator.NOT_IN, ("web",)))
    assert not matches(both, WEB)
    assert not matches(both, {})


def test_an_empty_label_value_is_a_value() -> None:
    assert matches(selector(("app", SelectorOperator.EXISTS, ())), {"app": ""})
    assert matches(selector(("app", SelectorOperator.IN, ("",))), {"app": ""})
    assert not matches(selector(("app", SelectorOperator.IN, ("",))), {})
    assert not matches(selector(("app", SelectorOperator.NOT_IN, ("",))), {"app": ""})
