"""Packets and bytes of flows: each byte of a connection counts once, for the newest accepted flow, in bounded memory."""

import random

from collections import Counter

from netpolq.addresses import parse_address
from netpolq.dataplane.conntrack import Connection
from netpolq.flows.conntrack_counters import Reading
from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.flows.traffic import Traffic


def connection(number: int) -> Connection:
    return Connection(parse_address(f"10.0.{number >> 8}.{number & 255}"), parse_address("10.1.0.1"), 6, 80)


def flow(number: int, name: str = "web") -> Flow:
    return Flow(FlowEnd(f"10.0.{number >> 8}.{number & 255}", "shop", name), FlowEnd("10.1.0.1"), "TCP", 80, FlowVerdict.ACCEPT)


def reading(of: int, packets: int, *, number: int = 1) -> Reading:
    return Reading(connection(of), number, packets, 100 * packets)


def taken(traffic: Traffic) -> dict[Flow, tuple[int, int]]:
    return {found: (packets, octets) for found, packets, octets in traffic.take(1000)}


def tour(traffic: Traffic, *readings: Reading) -> None:
    traffic.begin_tour()
    for one in readings:
        traffic.living(one)
    traffic.end_tour()


def test_an_ended_connection_counts_for_its_flow_and_one_without_a_flow_does_not() -> None:
    traffic = Traffic()
    traffic.accepted(connection(1), flow(1))
    traffic.ended(reading(1, 5))
    traffic.ended(reading(1, 2, number=2))
    traffic.ended(reading(2, 9))
    assert taken(traffic) == {flow(1): (7, 700)}
    assert taken(traffic) == {}


def test_a_long_connection_counts_while_it_lives_and_once() -> None:
    traffic = Traffic()
    traffic.accepted(connection(1), flow(1))
    for packets, increase in ((5, 5), (5, 0), (7, 2)):
        tour(traffic, reading(1, packets))
        assert taken(traffic) == ({flow(1): (increase, 100 * increase)} if increase else {})
    traffic.ended(reading(1, 10))
    assert taken(traffic) == {flow(1): (3, 300)}


def test_a_connection_that_ends_while_the_others_are_read_counts_once() -> None:
    """The kernel has written its entry before it ended, and it is read afterwards."""
    traffic = Traffic()
    traffic.accepted(connection(1), flow(1))
    tour(traffic, reading(1, 5))
    traffic.begin_tour()
    traffic.ended(reading(1, 8))
    traffic.living(reading(1, 7))
    traffic.end_tour()
    assert taken(traffic) == {flow(1): (8, 800)}
    tour(traffic, reading(1, 2))
    assert taken(traffic) == {flow(1): (2, 200)}, "another one with its number, later"


def test_the_newest_flow_counts_and_the_former_one_keeps_what_it_has() -> None:
    traffic = Traffic()
    traffic.accepted(connection(1), flow(1, "old"))
    traffic.ended(reading(1, 1))
    traffic.accepted(connection(1), flow(1, "new"))
    traffic.ended(reading(1, 2, number=2))
    assert taken(traffic) == {flow(1, "old"): (1, 100), flow(1, "new"): (2, 200)}


def test_a_number_that_another_connection_has_got_counts_from_its_start() -> None:
    traffic = Traffic()
    traffic.accepted(connection(1), flow(1))
    tour(traffic, reading(1, 9))
    tour(traffic, reading(1, 4))
    assert taken(traffic) == {flow(1): (13, 1300)}


def test_memory_is_bounded_and_what_is_not_kept_counts_at_its_end() -> None:
    traffic = Traffic(max_flows=3, max_living=2)
    for number in range(5):
        traffic.accepted(connection(number), flow(number))
    tour(traffic, *(reading(number, 2, number=number) for number in range(5)))
    assert taken(traffic) == {flow(2): (2, 200), flow(3): (2, 200)}
    for number in range(5):
        traffic.ended(reading(number, 3, number=number))
    assert taken(traffic) == {flow(2): (1, 100), flow(3): (1, 100), flow(4): (3, 300)}


def test_connections_whose_end_was_missed_are_forgotten_after_two_tours() -> None:
    traffic = Traffic(max_living=1)
    traffic.accepted(connection(1), flow(1))
    tour(traffic, reading(1, 1, number=1))
    tour(traffic)
    tour(traffic, reading(1, 4, number=2))
    assert taken(traffic) == {flow(1): (1, 100)}, "the place is not free yet"
    tour(traffic, reading(1, 4, number=2))
    assert taken(traffic) == {flow(1): (4, 400)}


def test_every_order_of_tours_and_ends_counts_each_byte_once() -> None:
    rng = random.Random(1)
    for _ in range(200):
        traffic, truth, counted = Traffic(), Counter[Flow](), Counter[Flow]()
        for number in range(4):
            traffic.accepted(connection(number), flow(number))
        alive = dict.fromkeys(range(12), 0)
        for _step in range(60):
            for number in alive:
                more = rng.randrange(3)
                alive[number] += more
                truth[flow(number % 4)] += more
            if rng.random() < 0.3 and alive:
                ended = rng.choice(list(alive))
                traffic.ended(reading(ended % 4, alive.pop(ended), number=ended))
            if rng.random() < 0.4:
                written = [reading(number % 4, packets, number=number) for number, packets in alive.items()]
                traffic.begin_tour()
                for one in written:
                    if rng.random() < 0.1 and one.number in alive:
                        traffic.ended(reading(one.number % 4, alive.pop(one.number), number=one.number))
                    traffic.living(one)
                traffic.end_tour()
            for found, packets, _octets in traffic.take(1000):
                counted[found] += packets
        for number, packets in alive.items():
            traffic.ended(reading(number % 4, packets, number=number))
        for found, packets, _octets in traffic.take(1000):
            counted[found] += packets
        assert counted == truth


def test_what_has_risen_is_taken_in_parts() -> None:
    traffic = Traffic()
    for number in range(5):
        traffic.accepted(connection(number), flow(number))
        traffic.ended(reading(number, 1, number=number))
    assert [found.flow for found in traffic.take(3)] == [flow(0), flow(1), flow(2)]
    traffic.ended(reading(3, 2, number=9))
    assert traffic.take(3) == [(flow(3), 3, 300), (flow(4), 1, 100)]
