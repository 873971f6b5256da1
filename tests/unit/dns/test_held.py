"""The responses that wait: order in a lane, numbers, deadlines."""

from collections.abc import Iterable

from netpolq_worker.dns.held import MAX_HELD, MAX_WAIT_NS, HeldResponses, Move, Released


def hold(held: HeldResponses, lane: int, packet_id: int, number: int, now_ns: int = 0) -> None:
    held.hold(lane, Move(packet_id, 100, 0), number, now_ns)


def ids(released: Iterable[Released]) -> list[int]:
    return [packet.move.packet_id for packet in released]


def test_a_number_releases_all_up_to_it() -> None:
    held = HeldResponses()
    for number in (3, 5, 9):
        hold(held, lane=number, packet_id=number, number=number)
    assert ids(held.cover(2, 0)) == []
    assert ids(held.cover(6, 0)) == [3, 5]
    assert ids(held.cover(9, 0)) == [9]
    assert len(held) == 0


def test_packets_of_a_lane_leave_in_order() -> None:
    held = HeldResponses()
    hold(held, 1, packet_id=1, number=3)
    hold(held, 1, packet_id=2, number=0)
    hold(held, 1, packet_id=3, number=4)
    hold(held, 1, packet_id=4, number=0)
    hold(held, 2, packet_id=5, number=5)
    assert held.is_waiting(1)
    assert ids(held.cover(3, 0)) == [1, 2]
    assert ids(held.cover(4, 0)) == [3, 4]
    assert not held.is_waiting(1)
    assert ids(held.cover(5, 0)) == [5]


def test_a_packet_behind_another_leaves_with_it_if_its_own_number_was_released_before() -> None:
    held = HeldResponses()
    hold(held, 1, packet_id=1, number=3)
    hold(held, 1, packet_id=2, number=4)
    assert ids(held.release(4, 0)) == []
    assert len(held) == 2
    assert ids(held.release(3, 0)) == [1, 2]


def test_a_number_that_nothing_waits_for_releases_nothing() -> None:
    held = HeldResponses()
    hold(held, 1, packet_id=1, number=3)
    assert ids(held.release(2, 0)) == []


def test_the_first_deadline_is_the_due_time() -> None:
    held = HeldResponses()
    hold(held, 1, packet_id=1, number=3, now_ns=10)
    hold(held, 2, packet_id=2, number=4, now_ns=20)
    assert (held.due_ns, held.first_number) == (10 + MAX_WAIT_NS, 3)
    assert next(held.cover(3, 50)).waited_ns == 40
    assert held.due_ns == 20 + MAX_WAIT_NS
    assert ids(held.cover(held.first_number, 0)) == [2]
    assert HeldResponses().due_ns is None


def test_it_is_full_with_so_many_packets() -> None:
    held = HeldResponses()
    for number in range(1, MAX_HELD + 1):
        assert not held.is_full
        hold(held, 1, packet_id=number, number=number == 1)
    assert held.is_full
    assert len(ids(held.cover(1, 0))) == MAX_HELD
    assert not held.is_full
