"""The flow cache."""

from dataclasses import replace

import psutil
import pytest

from netpolq.addresses import parse_address
from netpolq.enums import Protocol, Verdict
from netpolq.errors import SnapshotError
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from netpolq.snapshot.ir import PortRange, PortTable
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.flow_cache import (
    ANSWER_REJECTED,
    GENERATION_ENTRIES,
    MAX_HINTS_A_WINDOW,
    MAX_WAITING_HINTS,
    NO_ANSWER,
    NO_SLOT,
    NOT_CACHED,
    FlowCache,
)
from netpolq_worker.worker.packet import Question, key_of
from tests.support.compiled import encode, ingress_policy

POD, FRIEND, OTHER = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
POD6, FRIEND6, OTHER6 = (parse_address(text) for text in ("fd00::1", "fd00::2", "fd00::3"))


EVERYTHING = PortTable(0, (), ())
RULE, ISOLATION = 1, 2
"""The numbers of the decisions of `view_that_admits`."""

ONLY_9999 = PortTable(None, ((Protocol.TCP, (PortRange(9999, 9999, 0),)),), ())


def view_that_admits(*friends: bytes, version: int = 1, ports: PortTable = EVERYTHING) -> SnapshotReader:
    """A snapshot in which the pod admits these addresses and no others."""
    return SnapshotReader(encode(ingress_policy("a/b", endpoints=(POD, POD6), friends=friends, ports=ports), version=version))


def question(source: bytes, destination: bytes = POD, port: int = 80) -> Question:
    """A question as a worker asks it: IPv4 addresses in four bytes."""
    if source.startswith(b"\x00" * 10):
        source, destination = source[12:], destination[12:]
    return source, destination, Protocol.TCP, port


def verdict(flow_cache: FlowCache, asked: Question) -> Verdict:
    answer = flow_cache.answer(asked)
    assert answer >= 0
    return Verdict(answer & 1)


def test_without_a_snapshot_there_is_no_answer() -> None:
    assert FlowCache().answer(question(FRIEND)) == NO_ANSWER


def test_both_families_are_evaluated_with_the_snapshot() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND, FRIEND6), None)
    assert verdict(flow_cache, question(FRIEND)) is Verdict.ACCEPT
    assert verdict(flow_cache, question(OTHER)) is Verdict.DROP
    assert verdict(flow_cache, question(FRIEND6, POD6)) is Verdict.ACCEPT
    assert verdict(flow_cache, question(OTHER, POD)) is Verdict.DROP


def test_a_question_asked_a_third_time_is_answered_from_the_cache() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND), None)
    for _ in range(5):
        assert verdict(flow_cache, question(FRIEND)) is Verdict.ACCEPT
    assert flow_cache.misses == 2


def test_a_hint_that_is_due_for_a_connection_that_is_no_longer_cached_is_no_answer() -> None:
    """The packet path may have looked the connection up before the cache was emptied. No other connection may get that answer."""
    flow_cache = hinting()
    for _ in range(3):
        flow_cache.answer(question(FRIEND))
    flow_cache.reset_hint_window()
    generation = flow_cache.generation
    due = generation.answers[generation.slots[key_of(question(FRIEND))]]
    assert NOT_CACHED < due < 0
    flow_cache.load(view_that_admits(version=2), None)
    assert flow_cache.answer_key(key_of(question(FRIEND)), due) & 1 == Verdict.DROP
    assert flow_cache.generation.answers[NO_SLOT] == NOT_CACHED
    assert verdict(flow_cache, question(OTHER)) is Verdict.DROP


def test_a_question_asked_once_takes_no_room() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND), None)
    for port in range(100):
        flow_cache.answer(question(OTHER, port=port))
    # Two questions have the same mark once in 65,536 times.
    assert len(flow_cache) <= 1


def test_a_new_snapshot_evicts_the_changed_addresses_and_keeps_the_rest() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND), None)
    for _ in range(2):
        assert verdict(flow_cache, question(FRIEND)) is Verdict.ACCEPT
        assert verdict(flow_cache, question(OTHER)) is Verdict.DROP
    flow_cache.load(view_that_admits(FRIEND, OTHER, version=2), (OTHER,))
    assert verdict(flow_cache, question(OTHER)) is Verdict.ACCEPT
    assert verdict(flow_cache, question(FRIEND)) is Verdict.ACCEPT
    assert flow_cache.misses == 5, "the friend's verdict should have been kept"


def test_eviction_reaches_ipv6_and_the_old_generation() -> None:
    flow_cache = FlowCache(generation_entries=2)
    flow_cache.load(view_that_admits(FRIEND6), None)
    for _ in range(2):
        assert verdict(flow_cache, question(FRIEND6, POD6)) is Verdict.ACCEPT
    for port in (1, 1, 2, 2):
        flow_cache.answer(question(OTHER, port=port))
    flow_cache.load(view_that_admits(version=2), (FRIEND6,))
    assert verdict(flow_cache, question(FRIEND6, POD6)) is Verdict.DROP


def test_a_snapshot_that_changes_everything_empties_the_cache() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND), None)
    for _ in range(2):
        flow_cache.answer(question(FRIEND))
    assert len(flow_cache) == 1
    flow_cache.load(view_that_admits(version=2), None)
    assert len(flow_cache) == 0
    assert verdict(flow_cache, question(FRIEND)) is Verdict.DROP


def test_the_cache_stays_bounded_and_keeps_the_entries_in_use() -> None:
    flow_cache = FlowCache(generation_entries=100)
    flow_cache.load(view_that_admits(FRIEND), None)
    for port in range(5000):
        for _ in range(2):
            flow_cache.answer(question(OTHER, port=port))
        flow_cache.answer(question(FRIEND))
    assert len(flow_cache) <= 200
    # Twice for each of the others, minus marks that are equal by chance, and twice for the friend.
    assert 9_990 < flow_cache.misses <= 10_002


def hinting(*, ports: PortTable = EVERYTHING) -> FlowCache:
    flow_cache = FlowCache(with_hints=True)
    flow_cache.load(view_that_admits(FRIEND, FRIEND6, ports=ports), None)
    return flow_cache


def test_a_question_asked_a_second_time_is_hinted_at_once() -> None:
    flow_cache = hinting(ports=ONLY_9999)
    flow_cache.answer(question(FRIEND, port=9999))
    flow_cache.answer(question(FRIEND6, POD6, 443))
    assert not flow_cache.has_hints
    for _ in range(3):
        assert verdict(flow_cache, question(FRIEND, port=9999)) is Verdict.ACCEPT
        assert verdict(flow_cache, question(FRIEND6, POD6, 443)) is Verdict.DROP
    assert flow_cache.take_hints(10) == [
        CachedVerdict(FRIEND, POD, 9999, Protocol.TCP, Verdict.ACCEPT, 0, RULE),
        CachedVerdict(FRIEND6, POD6, 443, Protocol.TCP, Verdict.DROP, 0, ISOLATION),
    ]
    assert not flow_cache.has_hints
    flow_cache.answer(question(FRIEND, port=9999))
    assert not flow_cache.has_hints


def test_a_pair_that_is_denied_on_every_port_is_hinted_at_once_for_all_ports() -> None:
    flow_cache = hinting()
    for port in range(1, 1000):
        assert verdict(flow_cache, question(OTHER, port=port)) is Verdict.DROP
    assert flow_cache.take_hints(10) == [CachedVerdict(OTHER, POD, EVERY_PORT, Protocol.TCP, Verdict.DROP, 0, ISOLATION)]
    assert len(flow_cache) == 1, "ports that are all denied take no room"
    flow_cache.reset_hint_window()
    assert not flow_cache.has_hints
    flow_cache.answer(question(OTHER, port=5))
    assert len(flow_cache.take_hints(10)) == 1
    flow_cache.answer(question(OTHER, port=6))
    assert not flow_cache.has_hints


def test_addresses_that_are_denied_once_each_cause_no_hints() -> None:
    flow_cache = hinting()
    for number in range(1000):
        flow_cache.answer(question(parse_address(f"10.1.{number // 250}.{number % 250}")))
    assert len(flow_cache.take_hints(10)) <= 1, "two may have equal marks by chance"


def test_a_pair_that_is_later_admitted_on_one_port_is_hinted_by_port() -> None:
    flow_cache = hinting()
    for _ in range(4):
        flow_cache.answer(question(OTHER))
    assert [hint.port for hint in flow_cache.take_hints(10)] == [EVERY_PORT]
    flow_cache.load(view_that_admits(OTHER, version=2, ports=ONLY_9999), (OTHER,))
    for _ in range(2):
        assert verdict(flow_cache, question(OTHER, port=9999)) is Verdict.ACCEPT
        assert verdict(flow_cache, question(OTHER)) is Verdict.DROP
    assert sorted((hint.port, hint.verdict) for hint in flow_cache.take_hints(10)) == [(80, Verdict.DROP), (9999, Verdict.ACCEPT)]


def test_port_0_by_itself_causes_no_hint() -> None:
    flow_cache = hinting(ports=ONLY_9999)
    for _ in range(5):
        flow_cache.answer(question(FRIEND, port=0))
        flow_cache.reset_hint_window()
    assert not flow_cache.has_hints
    accepting = hinting()
    for _ in range(5):
        accepting.answer(question(FRIEND, port=0))
        accepting.reset_hint_window()
    assert not accepting.has_hints


def test_a_question_that_is_asked_again_in_the_next_window_is_hinted_again() -> None:
    flow_cache = hinting()
    for _ in range(2):
        flow_cache.answer(question(FRIEND))
    flow_cache.take_hints(10)
    flow_cache.reset_hint_window()
    assert not flow_cache.has_hints
    flow_cache.answer(question(FRIEND))
    assert len(flow_cache.take_hints(10)) == 1


def test_hints_of_an_older_snapshot_are_dropped() -> None:
    flow_cache = hinting()
    for _ in range(2):
        flow_cache.answer(question(FRIEND))
    flow_cache.load(view_that_admits(FRIEND, OTHER, version=2), (OTHER,))
    assert not flow_cache.has_hints


def test_nothing_is_hinted_for_protocols_without_ports_nor_unless_wanted() -> None:
    flow_cache, silent = hinting(), FlowCache()
    silent.load(view_that_admits(FRIEND), None)
    for _ in range(5):
        flow_cache.answer((FRIEND[12:], POD[12:], 1, 0))
        silent.answer(question(FRIEND))
    assert not flow_cache.has_hints
    assert not silent.has_hints


def test_hints_are_bounded_in_number_and_in_time() -> None:
    flow_cache = hinting()
    for port in range(1, 5000):
        for _ in range(2):
            flow_cache.answer(question(FRIEND, port=port))
    assert len(flow_cache.take_hints(10**6)) == MAX_WAITING_HINTS
    taken = MAX_WAITING_HINTS
    for _ in range(20):
        for port in range(1, 5000):
            flow_cache.answer(question(FRIEND, port=port))
        taken += len(flow_cache.take_hints(10**6))
    assert taken == MAX_HINTS_A_WINDOW


def test_drops_leave_half_of_the_hints_to_accepts() -> None:
    flow_cache = hinting(ports=ONLY_9999)
    taken = []
    for _ in range(20):
        for port in range(1, 5000):
            flow_cache.answer(question(FRIEND, port=port))
        for _ in range(2):
            flow_cache.answer(question(FRIEND6, POD6, 9999))
        taken += flow_cache.take_hints(10**6)
    assert sum(hint.verdict is Verdict.DROP for hint in taken) == MAX_HINTS_A_WINDOW // 2 - 1
    assert sum(hint.verdict is Verdict.ACCEPT for hint in taken) == 1


def test_a_snapshot_that_points_outside_of_itself_does_not_replace_the_present_one() -> None:
    flow_cache = FlowCache()
    flow_cache.load(view_that_admits(FRIEND), None)
    outside = replace(ingress_policy("a/b", endpoints=(POD,)), addresses={POD: 4000})
    with pytest.raises(SnapshotError, match="points outside"):
        flow_cache.load(SnapshotReader(encode(outside, version=2)), None)
    assert verdict(flow_cache, question(FRIEND)) is Verdict.ACCEPT
    assert flow_cache.view is not None
    assert flow_cache.view.version == 1


def test_several_times_as_many_connections_take_no_more_memory() -> None:
    """Each is asked for twice, so that all are cached. Half of them have a source of their own and are denied."""
    flow_cache = FlowCache(with_hints=True)
    flow_cache.load(view_that_admits(*(parse_address(f"10.1.0.{host}") for host in range(256))), None)

    def ask(first: int, count: int) -> None:
        for number in range(first, first + count):
            source = (0x0A010000 + (number % 256 if number % 2 else number)).to_bytes(4)
            for _ in range(2):
                flow_cache.answer((source, POD[12:], Protocol.TCP, 1024 + number // 256 if number % 2 else 80))
        flow_cache.take_hints(MAX_WAITING_HINTS)
        flow_cache.reset_hint_window()

    ask(0, 20_000)  # more than the cache holds
    before = psutil.Process().memory_info().rss
    for times in range(1, 4):
        ask(times * 20_000, 20_000)
        assert len(flow_cache) <= 2 * GENERATION_ENTRIES
    assert psutil.Process().memory_info().rss < before + (4 << 20)


def view_that_answers(ports: PortTable = EVERYTHING) -> SnapshotReader:
    """A snapshot in which denied packets are answered."""
    delta = ingress_policy("a/b", endpoints=(POD, POD6), friends=(FRIEND, FRIEND6), ports=ports)
    (program,) = filter(None, delta.programs.values())
    return SnapshotReader(encode(replace(delta, programs={1: program._replace(is_rejected=True)})))


def rejecting(ports: PortTable = EVERYTHING) -> FlowCache:
    """A flow cache with hints and such a snapshot."""
    flow_cache = FlowCache(with_hints=True)
    flow_cache.load(view_that_answers(ports), None)
    return flow_cache


def test_the_bit_of_a_decision_tells_whether_its_packets_are_answered() -> None:
    flow_cache, other = rejecting(), hinting()
    assert flow_cache.answer(question(OTHER)) & ANSWER_REJECTED
    assert not flow_cache.answer(question(FRIEND)) & ANSWER_REJECTED
    assert not other.answer(question(OTHER)) & ANSWER_REJECTED


@pytest.mark.parametrize(("client", "port"), [(OTHER, EVERY_PORT), (FRIEND, 80)], ids=["every port", "one port"])
def test_a_denial_with_answers_is_hinted_only_after_a_client_has_got_all_that_it_may(client: bytes, port: int) -> None:
    flow_cache = rejecting(ports=ONLY_9999)
    *_, answer = [flow_cache.answer(question(client)) for _ in range(5)]
    assert not flow_cache.has_hints
    flow_cache.hint_denial(question(client), answer)
    assert not flow_cache.has_hints, "not before the next packet"
    for _ in range(3):
        assert flow_cache.answer(question(client)) == answer
        flow_cache.hint_denial(question(client), answer)
    (hint,) = flow_cache.take_hints(10)
    assert hint == CachedVerdict(client, POD, port, Protocol.TCP, Verdict.DROP, 0, hint.ingress)


def test_in_the_next_window_a_denial_with_answers_is_hinted_only_if_its_client_is_refused_again() -> None:
    flow_cache = rejecting()
    *_, answer = [flow_cache.answer(question(OTHER)) for _ in range(3)]
    for _ in range(2):
        flow_cache.hint_denial(question(OTHER), answer)
        flow_cache.answer(question(OTHER))
        assert len(flow_cache.take_hints(10)) == 1
        flow_cache.reset_hint_window()
        for _ in range(3):
            flow_cache.answer(question(OTHER))
        assert not flow_cache.has_hints


def test_accepts_are_hinted_beside_denials_with_answers() -> None:
    flow_cache = rejecting()
    for _ in range(3):
        flow_cache.answer(question(FRIEND))
    assert [hint.verdict for hint in flow_cache.take_hints(10)] == [Verdict.ACCEPT]


def test_a_denial_that_the_cache_does_not_have_is_not_hinted() -> None:
    flow_cache = rejecting()
    answer = flow_cache.answer(question(OTHER))
    flow_cache.hint_denial(question(OTHER), answer)
    flow_cache.load(view_that_admits(OTHER, version=2), None)
    for _ in range(2):
        flow_cache.hint_denial(question(OTHER), answer)
    assert len(flow_cache) == 0


def test_a_number_that_is_another_decision_in_the_next_snapshot_has_the_bit_of_that() -> None:
    flow_cache = FlowCache()
    for version, view in enumerate((view_that_admits(FRIEND), view_that_answers(), view_that_admits(FRIEND))):
        flow_cache.load(view, None if not version else (POD,))
        for _ in range(3):
            answer = flow_cache.answer(question(OTHER))
            assert bool(answer & ANSWER_REJECTED) is view.has_rejections
            assert flow_cache.evaluation(answer).ingress == ISOLATION
    assert len(flow_cache._evaluations) == 2, "the third snapshot has the decision of the first"
