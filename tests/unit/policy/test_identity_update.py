"""The shared work of one update of identities."""

from netpolq.enums import Protocol, SelectorOperator
from netpolq.model import Labels, LabelSelector, Requirement
from netpolq.policy.identity_update import Identities, Matches
from netpolq.snapshot.ir import Identity

PORTS = (("http", Protocol.TCP, 80),)


def test_labels_have_the_numbers_of_all_selectors_that_match_them() -> None:
    web = LabelSelector((Requirement("app", SelectorOperator.IN, ("web",)),))
    found = Matches({7: web, 3: LabelSelector(), 5: LabelSelector((Requirement("app", SelectorOperator.DOES_NOT_EXIST, ()),))})

    for _ in range(2):
        assert found.of(Labels(app="web")) == (7, 3)
        assert found.of(Labels(app="web", hash="7c9d8b6f5")) == (7, 3)
        assert found.of(Labels(app="db")) == (3,)
        assert found.of(Labels()) == (3, 5)


def test_labels_that_differ_in_any_key_of_a_selector_are_told_apart() -> None:
    web = LabelSelector(tuple(Requirement(key, SelectorOperator.EXISTS, ()) for key in ("app", "tier")))
    found = Matches({1: web, 2: LabelSelector((Requirement("stage", SelectorOperator.NOT_IN, ("test",)),))})

    assert found.of(Labels(app="web", tier="front")) == (1, 2)
    assert found.of(Labels(app="web")) == (2,)
    assert found.of(Labels(app="web", tier="front", stage="test")) == (1,)
    assert found.of(Labels(app="web", tier="")) == (1, 2)


def test_an_identity_gains_and_loses_numbers_and_keeps_its_ports() -> None:
    after = Identities(gone=frozenset({2, 9}))

    assert after[Identity((1, 2, 4), PORTS), (7, 3)] == Identity((1, 3, 4, 7), PORTS)
    assert after[Identity((2,), ()), ()] == Identity((), ())


def test_equal_identities_become_one_object() -> None:
    after = Identities(gone=frozenset())
    equal = [Identity(tuple(range(1, last)), PORTS) for last in (4, 4)]

    assert after[equal[0], (4,)] is after[equal[1], (4,)]
    assert after[equal[0], (5,)] is not after[equal[1], (4,)]
