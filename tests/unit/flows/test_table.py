"""The flow table: windows, their bounds, and what a follower gets."""

import pytest

from netpolq.flows.record import OTHER_ADDRESSES, Flow, FlowEnd, FlowRecord, FlowVerdict
from netpolq.flows.table import HISTORY_S, MAX_INCREMENTS, MAX_OUTSIDE_ADDRESSES, WINDOW_S, FlowTable

START_S = 1_800_000_000.0
"""The start of a window."""

POD = FlowEnd("10.0.0.1", "shop", "db-0")


def flow(source: FlowEnd = POD, port: int = 80, verdict: FlowVerdict = FlowVerdict.ACCEPT) -> Flow:
    return Flow(source, POD, "TCP", port, verdict)


def outside(number: int) -> FlowEnd:
    return FlowEnd(f"192.0.{number >> 8}.{number & 255}")


def pod(number: int) -> FlowEnd:
    return FlowEnd(f"10.1.{number >> 8}.{number & 255}", "shop", f"web-{number}")


@pytest.fixture
def table() -> FlowTable:
    return FlowTable("node-1", 4000, START_S)


def add(table: FlowTable, time_s: float, *, connections: int = 1, source: FlowEnd = POD, port: int = 80) -> None:
    table.add(flow(source, port), time_s - 0.25, time_s, connections)


def all_of(table: FlowTable) -> list[FlowRecord]:
    return list(table.since(0))


def test_connections_of_a_window_are_one_record_and_of_two_windows_two(table: FlowTable) -> None:
    for time_s in (START_S + 1, START_S + 3, START_S + 2, START_S + WINDOW_S):
        add(table, time_s, connections=2)
    first, second = all_of(table)
    assert (first.connections, first.first_seen_s, first.last_seen_s) == (6, START_S + 0.75, START_S + 3)
    assert (first.window_start_s, first.window_s, first.node) == (START_S, WINDOW_S, "node-1")
    assert (second.connections, second.window_start_s) == (2, START_S + WINDOW_S)
    assert table.records == 2
    assert first.flow is second.flow, "equal flows share their memory"


def test_since_gives_what_was_seen_then_or_later(table: FlowTable) -> None:
    add(table, START_S + 1)
    add(table, START_S + 5, port=81)
    add(table, START_S + 20)
    assert [record.flow.port for record in table.since(START_S + 5)] == [81, 80]
    assert list(table.since(START_S + 20.5)) == []


def test_what_is_counted_while_a_reader_reads_is_an_increment_and_in_no_record(table: FlowTable) -> None:
    for time_s in (START_S, START_S + WINDOW_S - 1, START_S + WINDOW_S):
        add(table, time_s)
    number, records = table.last_number, table.since(0)
    first = next(records)
    add(table, START_S + WINDOW_S + 1)
    add(table, START_S + WINDOW_S - 1)
    add(table, START_S + WINDOW_S + 1, port=443)
    assert [first.connections, *(record.connections for record in records)] == [2, 1]
    assert len(list(table.after(number)[1])) == 3


def test_windows_are_kept_for_an_hour(table: FlowTable) -> None:
    add(table, START_S)
    add(table, START_S + WINDOW_S)
    table.expire(START_S + HISTORY_S)
    assert table.records == 2
    table.expire(START_S + HISTORY_S + 1)
    assert [record.window_start_s for record in all_of(table)] == [START_S + WINDOW_S]
    assert table.dropped_early == 0


def test_late_counts_go_into_their_window_while_it_is_open(table: FlowTable) -> None:
    add(table, START_S + 14)
    add(table, START_S + 16)
    add(table, START_S + 14.5)
    assert [(record.window_start_s, record.connections) for record in all_of(table)] == [(START_S, 2), (START_S + 15, 1)]
    assert [record.connections for record in table.close_windows(START_S + 17)] == [2]
    add(table, START_S + 14.5)
    assert [record.connections for record in all_of(table)] == [2, 2], "a closed window does not change"
    assert table.close_windows(START_S + 17) == []
    assert [record.connections for record in table.close_windows(START_S + 32)] == [2]


def test_a_clock_that_was_set_back_loses_no_connection(table: FlowTable) -> None:
    add(table, START_S + 1000)
    for second in range(100):
        add(table, START_S + second)
    table.expire(START_S + 100)
    assert sum(record.connections for record in all_of(table)) == 101
    assert len(table.close_windows(START_S + 2000)) == table.records


def test_addresses_outside_are_recorded_one_by_one_up_to_a_limit_and_then_together(table: FlowTable) -> None:
    for number in range(MAX_OUTSIDE_ADDRESSES + 44):
        add(table, START_S, source=outside(number))
    add(table, START_S, source=outside(0))
    records = all_of(table)
    assert len(records) == MAX_OUTSIDE_ADDRESSES + 1
    (other,) = [record for record in records if record.flow.source.address == OTHER_ADDRESSES]
    assert other.connections == 44
    assert records[0].connections == 2, "one that has a record keeps it"
    add(table, START_S, source=outside(999), port=81)
    assert len(all_of(table)) == MAX_OUTSIDE_ADDRESSES + 2, "the limit is for flows that differ only in the address"
    add(table, START_S + WINDOW_S, source=outside(999))
    assert all_of(table)[-1].flow.source == outside(999), "each window has its own limit"


def test_pods_and_addresses_with_names_are_not_outside(table: FlowTable) -> None:
    for number in range(2 * MAX_OUTSIDE_ADDRESSES):
        add(table, START_S, source=pod(number))
    for number in range(MAX_OUTSIDE_ADDRESSES + 10):
        add(table, START_S, source=outside(number)._replace(names=("example.com",)))
    assert OTHER_ADDRESSES not in {record.flow.source.address for record in all_of(table)}


def test_a_window_has_a_quarter_of_the_records_and_counts_the_rest(table: FlowTable) -> None:
    for number in range(1200):
        add(table, START_S, source=pod(number), connections=3)
    assert table.records == 1000
    assert table.unrecorded == 600
    add(table, START_S, source=pod(5))
    assert table.unrecorded == 600
    add(table, START_S + WINDOW_S, source=pod(1100))
    assert table.records == 1001


def test_the_oldest_window_makes_room(table: FlowTable) -> None:
    for window in range(5):
        for number in range(1000):
            add(table, START_S + window * WINDOW_S, source=pod(number))
        assert table.records <= 4000
    assert table.dropped_early == 1000
    assert min(record.window_start_s for record in all_of(table)) == START_S + WINDOW_S


def test_a_scan_of_ports_from_outside_does_not_grow_a_window_beyond_its_bound(table: FlowTable) -> None:
    for port in range(20_000):
        add(table, START_S, source=outside(port % 60_000), port=port)
    (window,) = table._windows
    assert len(window.counts) == 1000
    assert len(window.outside) <= 1000
    assert table.unrecorded == 19_000


def test_a_follower_gets_each_increment_once(table: FlowTable) -> None:
    add(table, START_S + 1, connections=2)
    add(table, START_S + 2, connections=3)
    missed, found = table.after(0)
    assert missed == 0
    assert [record.connections for record in found] == [2, 3]
    add(table, START_S + 3, connections=4)
    missed, found = table.after(2)
    (record,) = found
    assert (missed, record.connections, record.window_start_s, record.window_s) == (0, 4, START_S + 2.75, 0.25)
    assert list(table.after(3)[1]) == []


def test_a_follower_that_is_too_slow_is_told_how_much_it_missed(table: FlowTable) -> None:
    for _number in range(MAX_INCREMENTS + 7):
        add(table, START_S)
    missed, found = table.after(2)
    assert missed == 5
    assert len(list(found)) == MAX_INCREMENTS
