"""The worker's decision and its cache."""

from netpolq.addresses import parse_address
from netpolq.enums import Action, Direction, Protocol, Tier, Verdict
from netpolq.snapshot.encode import encode
from netpolq.snapshot.image import Endpoint, Identity, Image, PortTable, Rule, TierProgram
from netpolq.snapshot.view import SnapshotView
from netpolq_worker.decide import Decider

POD, FRIEND, OTHER = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
POD6, FRIEND6 = (parse_address(text) for text in ("fd00::1", "fd00::2"))


def view_that_admits(*friends: bytes, version: int = 1) -> SnapshotView:
    """A snapshot in which the pod admits some addresses and nobody else."""
    program = (TierProgram(Tier.NETWORK_POLICY, ("a/b",), None, ((0, PortTable(0, (), ())),), ()),)
    image = Image(
        rules=(Rule(Tier.NETWORK_POLICY, "a/b", Direction.INGRESS, 0, Action.ACCEPT),),
        identities=(Identity((0,), ()),),
        addresses=dict.fromkeys(friends, 0),
        endpoints=dict.fromkeys((POD, POD6), Endpoint(None, program)),
    )
    return SnapshotView(encode(image, version=version, created_ns=0))


def question(source: bytes, destination: bytes = POD, port: int = 80) -> tuple[bytes, bytes, int, int]:
    """As a worker asks it: IPv4 addresses in four bytes."""
    if source.startswith(b"\x00" * 10):
        source, destination = source[12:], destination[12:]
    return source, destination, Protocol.TCP, port


def test_without_a_snapshot_nothing_is_decided() -> None:
    assert Decider().decide(question(FRIEND)) is None


def test_both_families_are_judged_by_the_snapshot() -> None:
    decider = Decider()
    decider.adopt(view_that_admits(FRIEND, FRIEND6), None)
    assert decider.decide(question(FRIEND)) is Verdict.ACCEPT
    assert decider.decide(question(OTHER)) is Verdict.DROP
    assert decider.decide(question(FRIEND6, POD6)) is Verdict.ACCEPT
    assert decider.decide(question(OTHER, POD)) is Verdict.DROP


def test_a_question_asked_again_is_answered_from_the_cache() -> None:
    decider = Decider()
    decider.adopt(view_that_admits(FRIEND), None)
    for _ in range(5):
        assert decider.decide(question(FRIEND)) is Verdict.ACCEPT
    assert decider.misses == 1


def test_a_new_snapshot_evicts_what_it_changed_and_keeps_the_rest() -> None:
    decider = Decider()
    decider.adopt(view_that_admits(FRIEND), None)
    assert decider.decide(question(FRIEND)) is Verdict.ACCEPT
    assert decider.decide(question(OTHER)) is Verdict.DROP
    decider.adopt(view_that_admits(FRIEND, OTHER, version=2), (OTHER,))
    assert decider.decide(question(OTHER)) is Verdict.ACCEPT
    assert decider.decide(question(FRIEND)) is Verdict.ACCEPT
    assert decider.misses == 3, "the friend's verdict should have been kept"


def test_eviction_reaches_ipv6_and_the_old_generation() -> None:
    decider = Decider(generation_entries=2)
    decider.adopt(view_that_admits(FRIEND6), None)
    assert decider.decide(question(FRIEND6, POD6)) is Verdict.ACCEPT
    for port in (1, 2):
        decider.decide(question(OTHER, port=port))
    decider.adopt(view_that_admits(version=2), (FRIEND6,))
    assert decider.decide(question(FRIEND6, POD6)) is Verdict.DROP


def test_a_snapshot_that_changes_everything_empties_the_cache() -> None:
    decider = Decider()
    decider.adopt(view_that_admits(FRIEND), None)
    decider.decide(question(FRIEND))
    decider.adopt(view_that_admits(version=2), None)
    assert len(decider) == 0
    assert decider.decide(question(FRIEND)) is Verdict.DROP


def test_the_cache_stays_bounded_and_keeps_what_is_in_use() -> None:
    decider = Decider(generation_entries=100)
    decider.adopt(view_that_admits(FRIEND), None)
    for port in range(5000):
        decider.decide(question(OTHER, port=port))
        decider.decide(question(FRIEND))
    assert len(decider) <= 200
    assert decider.misses == 5001
