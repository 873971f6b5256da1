"""The cover of a relation by few rules."""

import random

import pytest

from netpolq.recommendation import rule_cover
from netpolq.recommendation.rule_cover import cover
from tests.support.sizes import sized

Relation = dict[str, set[int]]


def covered(relation: Relation) -> list[tuple[str, list[int]]]:
    """The rectangles; rows are letters."""
    columns = sorted(set().union(*relation.values()))
    found = cover({row: frozenset(ports) for row, ports in relation.items()}, columns)
    pairs = {(row, column) for one in found for row in one.rows for column in one.columns}
    assert pairs == {(row, column) for row, ports in relation.items() for column in ports}
    return [("".join(one.rows), list(one.columns)) for one in found]


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        ({"a": {1, 2}}, [("a", [1, 2])]),
        ({"a": {1}, "b": {1}}, [("ab", [1])]),
        ({"a": {1}, "b": {2}}, [("a", [1]), ("b", [2])]),
        ({"a": {1}, "b": {1, 2}, "c": {2}}, [("ab", [1]), ("bc", [2])]),
        ({"a": {1, 2, 3}, "b": {1, 2, 3}, "c": {3}}, [("ab", [1, 2, 3]), ("c", [3])]),
        ({"a": set(), "b": {1, 2}, "c": {2, 3}}, [("b", [1, 2]), ("c", [2, 3])]),
    ],
)
def test_peers_and_ports_that_were_seen_together_are_one_rule(relation: Relation, expected: list[tuple[str, list[int]]]) -> None:
    """And no pair that was not seen is in a rule."""
    assert covered(relation) == expected


def test_large_rules_may_be_fewer_than_sets_of_ports_and_sets_of_peers() -> None:
    """Two overlapping rules for three sets of ports and three sets of peers."""
    relation = {"a": {1, 2, 3}, "b": {1, 2, 3, 4, 5}, "c": {3, 4, 5}, "d": {1, 2, 3, 4, 5}}
    assert covered(relation) == [("abd", [1, 2, 3]), ("bcd", [3, 4, 5])]


@pytest.mark.parametrize("seed", range(sized(200)))
def test_a_cover_has_all_pairs_and_no_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the third cover, which only makes it shorter."""
    rng = random.Random(seed)
    relation = {row: {port for port in range(6) if rng.random() < 0.5} for row in "abcdefg"}
    with_third = covered(relation)
    monkeypatch.setattr(rule_cover, "MAX_COMPARED", 0)
    assert len(with_third) <= len(covered(relation))
