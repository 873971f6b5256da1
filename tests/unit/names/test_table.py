"""The table of learned names: expiry, grace, bounds, and which addresses change."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import AddressKey, parse_address
from netpolq.names import table
from netpolq.names.table import MAX_TTL_S, NameTable, Refusal

POD, OTHER_POD = parse_address("10.0.0.1"), parse_address("10.0.0.2")
NAME, OTHER_NAME = "a.example.com", "b.example.com"
MIN_TTL_S, GRACE_S = 30, 60


def address(number: int) -> AddressKey:
    return AddressKey(bytes.fromhex("20010db8") + number.to_bytes(12, "big"))


ONE, TWO, THREE, FOUR = map(address, range(1, 5))


def new() -> NameTable:
    return NameTable(min_ttl_s=MIN_TTL_S, grace_s=GRACE_S)


def refused(names: NameTable) -> dict[Refusal, int]:
    return {cause: count for cause, count in names.refused.items() if count}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> NameTable:
    """A table with bounds of 3 addresses of a name, 4 pairs of a pod, and 6 in all."""
    monkeypatch.setattr(table, "MAX_OF_NAME", 3)
    monkeypatch.setattr(table, "MAX_OF_POD", 4)
    monkeypatch.setattr(table, "MAX_PAIRS", 6)
    return new()


@pytest.mark.parametrize(
    ("ttl_s", "valid_s"),
    [
        (0, MIN_TTL_S),
        (29, MIN_TTL_S),
        (31, 31),
        (MAX_TTL_S, MAX_TTL_S),
        (MAX_TTL_S + 1, MAX_TTL_S),
        (2**31, MIN_TTL_S),
        (2**32 - 1, 30),
    ],
)
def test_an_address_stays_for_its_time_to_live_and_the_grace_period(ttl_s: int, valid_s: int) -> None:
    """The time to live has a minimum and a maximum, and its sign bit makes it 0 (RFC 2181 section 8)."""
    names = new()
    assert names.learn(POD, NAME, [(ONE, ttl_s)], 1000.0) == {ONE}
    assert [(pair.name, pair.address, pair.pod, pair.expiry_s) for pair in names] == [(NAME, ONE, POD, 1000.0 + valid_s)]
    end_s = 1000.0 + valid_s + GRACE_S
    assert names.expire(end_s - 0.001) == set()
    assert names.names_of(ONE) == {NAME}
    assert names.expire(end_s) == {ONE}
    assert names.names_of(ONE) == frozenset()
    assert len(names) == 0


def test_a_repeated_answer_prolongs_and_never_shortens_and_changes_no_address() -> None:
    names = new()
    names.learn(POD, NAME, [(ONE, 100)], 0.0)
    assert names.learn(OTHER_POD, NAME, [(ONE, 50)], 20.0) == set()
    assert [pair.expiry_s for pair in names] == [100]
    assert names.learn(OTHER_POD, NAME, [(ONE, 100)], 20.0) == set()
    assert [(pair.expiry_s, pair.pod) for pair in names] == [(120, POD)]
    assert names.expire(120 + GRACE_S - 1) == set()
    assert names.expire(120 + GRACE_S) == {ONE}


def test_in_its_grace_period_an_address_can_be_prolonged() -> None:
    names = new()
    names.learn(POD, NAME, [(ONE, 30)], 0.0)
    names.learn(POD, NAME, [(ONE, 30)], 80.0)
    assert names.expire(30 + GRACE_S) == set()
    assert names.expire(110 + GRACE_S) == {ONE}


def test_an_address_of_two_names_keeps_the_one_that_has_not_expired() -> None:
    names = new()
    names.learn(POD, NAME, [(ONE, 30)], 0.0)
    assert names.learn(POD, OTHER_NAME, [(ONE, 100)], 0.0) == {ONE}
    assert names.names_of(ONE) == {NAME, OTHER_NAME}
    assert names.expire(30 + GRACE_S) == {ONE}
    assert names.names_of(ONE) == {OTHER_NAME}


def test_a_name_has_a_maximum_of_addresses(small: NameTable) -> None:
    assert small.learn(POD, NAME, [(ONE, 30), (TWO, 30), (THREE, 30), (FOUR, 30)], 0.0) == {ONE, TWO, THREE}
    assert refused(small) == {Refusal.NAME_FULL: 1}
    assert small.learn(POD, OTHER_NAME, [(FOUR, 30)], 0.0) == {FOUR}, "another name has room"


def test_answers_to_a_pod_introduce_a_maximum_of_pairs(small: NameTable) -> None:
    small.learn(POD, NAME, [(ONE, 30), (TWO, 30)], 0.0)
    small.learn(POD, OTHER_NAME, [(ONE, 30), (TWO, 30), (THREE, 30)], 0.0)
    assert refused(small) == {Refusal.POD_FULL: 1}
    assert small.learn(OTHER_POD, OTHER_NAME, [(THREE, 30)], 0.0) == {THREE}, "another pod has room"
    assert small.learn(POD, OTHER_NAME, [(THREE, 99)], 0.0) == set()
    assert refused(small) == {Refusal.POD_FULL: 1}, "a known pair is prolonged, also one of another pod"


def test_the_table_has_a_maximum_of_pairs(small: NameTable) -> None:
    for number in range(8):
        small.learn(address(100 + number), f"{number}.example.com", [(address(number), 30)], 0.0)
    assert len(small) == 6
    assert refused(small) == {Refusal.TABLE_FULL: 2}


@pytest.mark.parametrize("bound", ["name", "pod", "table"])
def test_at_a_bound_only_a_pair_in_its_grace_period_makes_room_the_oldest_first(small: NameTable, bound: str) -> None:
    count = {"name": 3, "pod": 4, "table": 6}[bound]
    for number in range(count):
        pod = POD if bound != "table" else address(100 + number)
        name = NAME if bound == "name" else f"{number}.example.com"
        small.learn(pod, name, [(address(number), 40 + (number - 1) % count)], 0.0)  # number 1 expires first, 0 last
    new_name = NAME if bound == "name" else "new.example.com"
    assert small.learn(POD, new_name, [(address(99), 30)], 39.9) == set()
    assert sum(small.refused.values()) == 1
    assert small.learn(POD, new_name, [(address(99), 30)], 41.0) == {address(1), address(99)}
    assert small.learn(POD, new_name, [(address(98), 30)], 41.0) == {address(2), address(98)}
    assert small.learn(POD, new_name, [(address(97), 30)], 41.0) == set()
    assert sum(small.refused.values()) == 2
    assert len(small) == count


def test_a_prolonged_pair_is_not_the_oldest_any_more(small: NameTable) -> None:
    small.learn(POD, NAME, [(ONE, 30), (TWO, 35), (THREE, 40)], 0.0)
    small.learn(POD, NAME, [(ONE, 60)], 0.0)
    assert small.learn(POD, NAME, [(FOUR, 30)], 36.0) == {TWO, FOUR}


def test_no_expired_pair_goes_for_one_that_another_bound_refuses(small: NameTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_PAIRS", 10)
    small.learn(OTHER_POD, NAME, [(ONE, 30), (TWO, 30), (THREE, 30)], 0.0)
    for number in range(4):
        small.learn(POD, f"{number}.example.com", [(ONE, 900)], 0.0)
    assert small.learn(POD, NAME, [(FOUR, 30)], 40.0) == set()
    assert refused(small) == {Refusal.POD_FULL: 1}
    assert len(small) == 7


def test_a_pair_that_is_the_oldest_under_two_bounds_makes_room_once(small: NameTable) -> None:
    small.learn(POD, NAME, [(ONE, 30), (TWO, 90), (THREE, 90)], 0.0)
    small.learn(POD, OTHER_NAME, [(FOUR, 90)], 0.0)
    assert small.learn(POD, NAME, [(FOUR, 30)], 40.0) == {ONE, FOUR}
    assert len(small) == 4


def test_a_name_or_an_address_can_be_forgotten() -> None:
    names = new()
    names.learn(POD, NAME, [(ONE, 30), (TWO, 30)], 0.0)
    names.learn(POD, OTHER_NAME, [(ONE, 30), (THREE, 30)], 0.0)
    assert names.retain(lambda _name: True) == set()
    assert names.forget_address(TWO) == {TWO}
    assert names.forget_address(TWO) == set()
    assert names.retain(lambda name: name == OTHER_NAME) == {ONE}
    assert names.names_of(ONE) == {OTHER_NAME}
    assert names.forget_address(ONE) == {ONE}
    assert [(pair.name, pair.address) for pair in names] == [(OTHER_NAME, THREE)]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("learn"), st.integers(0, 2), st.integers(0, 3), st.lists(st.integers(0, 9), max_size=6), st.integers(0, 200)
        ),
        st.tuples(st.just("forget"), st.integers(0, 9)),
        st.tuples(st.just("retain"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(0, 100)),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_bounds_hold_and_the_changed_addresses_are_told(steps: list[tuple[object, ...]]) -> None:
    """The names of an address at its last change are those in the table."""
    with pytest.MonkeyPatch.context() as patch:
        for bound, value in (("MAX_OF_NAME", 3), ("MAX_OF_POD", 4), ("MAX_PAIRS", 6)):
            patch.setattr(table, bound, value)
        names, now_s = new(), 0.0
        told: dict[AddressKey, frozenset[str]] = {}
        for step in steps:
            changed: set[AddressKey] = set()
            match step:
                case ("learn", int() as pod, int() as name, list() as numbers, int() as ttl_s):
                    pairs = [(address(number), ttl_s) for number in numbers]
                    changed = names.learn(address(100 + pod), f"{name}.example.com", pairs, now_s)
                case ("forget", int() as number):
                    changed = names.forget_address(address(number))
                case ("retain", int() as number):
                    changed = names.retain(lambda name, gone=f"{number}.example.com": name != gone)  # type: ignore[misc]
                case ("wait", int() as seconds):
                    now_s += seconds
                    changed = names.expire(now_s)
            told.update({one: names.names_of(one) for one in changed})
            present: dict[AddressKey, set[str]] = {}
            for pair in names:
                present.setdefault(pair.address, set()).add(pair.name)
                assert now_s < pair.expiry_s + GRACE_S
            assert {one: found for one, found in told.items() if found} == present
            by_name = [pair.name for pair in names]
            by_pod = [pair.pod for pair in names]
            assert len(names) <= 6
            assert all(by_name.count(name) <= 3 for name in by_name)
            assert all(by_pod.count(pod) <= 4 for pod in by_pod)
            assert len(names._all._heap) <= 2 * len(names) + 17


def test_groups_do_not_grow_with_pairs_that_come_and_go() -> None:
    names = new()
    for number in range(1000):
        names.learn(POD, NAME, [(address(number), 30)], float(number))
        names.learn(POD, NAME, [(ONE, 30)], float(number))
        names.expire(float(number))
    for group in (names._all, *names._of_name.values(), *names._of_pod.values()):
        assert len(group._heap) <= 2 * group.count + 17
    assert names._of_name.keys() == {NAME}
    names.expire(2000.0)
    assert not names._of_name
    assert not names._of_pod
