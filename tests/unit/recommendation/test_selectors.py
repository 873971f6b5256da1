"""Which labels a selector has."""

import pytest

from netpolq.enums import SelectorOperator
from netpolq.model import LabelSelector, Requirement
from netpolq.policy.selectors import matches
from netpolq.recommendation.selectors import selector_for
from netpolq.recommendation.workloads import Workload

Labels = dict[str, str]


def workload(labels: Labels) -> Workload:
    return Workload("shop", tuple(sorted(labels.items())))


def chosen(labels: Labels, *others: Labels) -> dict[str, str | None]:
    """The selector as a map; None: the label must be absent."""
    selector = selector_for(workload(labels), [workload(other) for other in others])
    assert matches(selector, labels)
    assert not any(matches(selector, other) for other in others)
    return {key: values[0] if values else None for key, _operator, values in selector.requirements}


@pytest.mark.parametrize(
    ("labels", "others", "expected"),
    [
        ({"app": "web", "team": "a"}, [], {"app": "web"}),
        ({"app.kubernetes.io/name": "web", "app": "web"}, [], {"app.kubernetes.io/name": "web"}),
        ({"app": "web", "tier": "front"}, [{"app": "db"}], {"app": "web"}),
        ({"app": "web", "tier": "front", "x": "1"}, [{"app": "web", "tier": "back"}], {"app": "web", "tier": "front"}),
        ({"app": "web", "x": "1"}, [{"app": "web", "x": "2"}], {"app": "web", "x": "1"}),
        ({"team": "a", "x": "1"}, [{"team": "a", "x": "2"}], {"x": "1"}),
        ({"version": "v1", "x": "1"}, [], {"x": "1"}),
        ({"app": "web"}, [{"app": "web", "track": "canary"}], {"app": "web", "track": None}),
        ({"app": "web", "track": "canary"}, [{"app": "web"}], {"app": "web", "track": "canary"}),
        ({}, [{"app": "web"}, {"k8s-app": "x"}], {"app": None, "k8s-app": None}),
        ({}, [{"app": "web", "x": "1"}, {"x": "2"}], {"x": None}),
    ],
)
def test_the_cheapest_labels_that_tell_a_workload_apart_are_chosen(
    labels: Labels, others: list[Labels], expected: dict[str, str | None]
) -> None:
    """The label that names the workload, and as few others as possible, usual ones first."""
    assert chosen(labels, *others) == expected


def test_many_neighbours_need_more_labels_than_are_searched() -> None:
    """Five labels, each of which excludes one neighbour only."""
    labels = {f"l{number}": "a" for number in range(5)}
    others = [labels | {f"l{number}": "b"} for number in range(5)]
    assert chosen(labels, *others) == labels


def test_the_label_that_excludes_most_is_not_always_among_the_fewest() -> None:
    """It alone excludes four of six neighbours, but the other two together exclude all."""
    labels = {"l0": "a", "l1": "a", "l2": "a"}
    excluded = {"l0": {0, 1, 2, 3}, "l1": {0, 1, 4}, "l2": {2, 3, 5}}
    others = [{key: "b" if number in excluded[key] else "a" for key in labels} for number in range(6)]
    assert chosen(labels, *others) == {"l1": "a", "l2": "a"}


def test_without_labels_and_without_neighbours_everything_is_selected() -> None:
    assert selector_for(workload({}), []) == LabelSelector()


def test_a_workload_with_labels_is_selected_by_one_of_them() -> None:
    """Also where the absence of labels would be enough: pods that are not known yet must not be isolated."""
    found = selector_for(workload({"team": "a"}), [workload({"app": "web", "team": "a"})])
    assert Requirement("team", SelectorOperator.IN, ("a",)) in found.requirements
