"""The ledger never knows fewer decisions than the kernel holds."""

import itertools

from netpolq.addresses import parse_address
from netpolq.enums import Protocol, Verdict
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from netpolq.supervisor.verdict_cache_ledger import VerdictLedger

TTL_NS = 1_000_000_000
A, B, C = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "fd00::1"))


def entry(source: bytes = A, destination: bytes = B, port: int = 80, verdict: Verdict = Verdict.ACCEPT) -> CachedVerdict:
    return CachedVerdict(source, destination, port, Protocol.TCP, verdict)


def test_what_is_there_is_not_given_twice() -> None:
    ledger = VerdictLedger(10, TTL_NS)
    assert ledger.admit([entry(), entry(), entry(port=81)]) == ([entry(), entry(port=81)], 0)
    assert ledger.admit([entry()]) == ([], 0)


def test_only_protocols_with_ports_are_taken() -> None:
    assert VerdictLedger(10, TTL_NS).admit([entry()._replace(protocol=1)]) == ([], 0)


def test_nothing_is_taken_that_would_accept_every_port() -> None:
    ledger = VerdictLedger(10, TTL_NS)
    assert ledger.admit([entry(port=EVERY_PORT)]) == ([], 0)
    assert ledger.admit([entry(port=EVERY_PORT, verdict=Verdict.DROP)]) == ([entry(port=EVERY_PORT, verdict=Verdict.DROP)], 0)


def test_the_number_is_bounded_and_drops_leave_half_of_it_to_accepts() -> None:
    ledger = VerdictLedger(10, TTL_NS)
    drops = [entry(port=port, verdict=Verdict.DROP) for port in range(20)]
    assert ledger.admit(drops) == (drops[:5], 15)
    accepts = [entry(port=port) for port in range(100, 120)]
    assert ledger.admit(accepts) == (accepts[:5], 15)
    assert len(ledger) == 10


def test_a_decision_counts_as_held_until_the_kernel_has_surely_forgotten_it() -> None:
    ledger = VerdictLedger(10, TTL_NS)
    ledger.admit([entry()])
    ledger.expire(100 * TTL_NS)
    assert len(ledger) == 1, "what is on its way has not begun to expire"
    ledger.given([entry()], now_ns=5_000)
    ledger.expire(5_000 + TTL_NS)
    assert len(ledger) == 1
    ledger.expire(5_000 + TTL_NS + 100_000_000)
    assert len(ledger) == 0
    assert ledger.about([A, B]) == []


def test_drops_that_expire_make_room_for_others() -> None:
    ledger = VerdictLedger(2, TTL_NS)
    for number in range(5):
        drop = entry(port=number, verdict=Verdict.DROP)
        assert ledger.admit([drop]) == ([drop], 0)
        ledger.given([drop], now_ns=number * 10 * TTL_NS)
        ledger.expire((number + 1) * 10 * TTL_NS)


def test_decisions_are_found_by_both_ends() -> None:
    ledger = VerdictLedger(10, TTL_NS)
    one, two, itself = entry(A, B), entry(C, A), entry(C, C)
    ledger.admit([one, two, itself])
    assert ledger.about([A]) == sorted([one, two])
    assert ledger.about([B, C]) == sorted([one, two, itself])
    ledger.remove([one, itself])
    assert ledger.about([A, B, C]) == [two]
    ledger.clear()
    assert ledger.about([A, B, C]) == []


def test_the_index_agrees_with_the_entries_whatever_happens() -> None:
    ledger = VerdictLedger(50, TTL_NS)
    known: list[CachedVerdict] = []
    for step, (source, destination, port) in enumerate(itertools.product((A, B, C), (A, B, C), range(20))):
        admitted, _ = ledger.admit([entry(source, destination, port, Verdict(port % 2))])
        ledger.given(admitted, now_ns=step * 100_000_000)
        known += admitted
        ledger.expire(step * 100_000_000)
        if step % 7 == 0:
            found = ledger.about([A])
            assert all(A in (one.source, one.destination) for one in found)
            ledger.remove(found)
        assert len(ledger.about([A, B, C])) == len(ledger)
    assert len(known) > 60
