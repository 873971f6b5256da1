"""The bounded table of entries of pods."""

from netpolq_worker.dns.pod_table import PodTable

A, B = b"a", b"b"


def table() -> PodTable[int, str]:
    return PodTable(max_total=4, max_of_pod=3)


def test_an_entry_is_found_until_it_is_removed() -> None:
    entries = table()
    assert entries.put(A, 1, "one") is None
    assert entries.get(1) == "one"
    assert entries.remove(1) == "one"
    assert (entries.get(1), entries.remove(1), len(entries)) == (None, None, 0)


def test_a_full_pod_loses_its_oldest_entry() -> None:
    entries = table()
    for number in range(3):
        entries.put(A, number, str(number))
    assert entries.put(A, 3, "3") == "0"
    assert [entries.get(number) for number in range(4)] == [None, "1", "2", "3"]


def test_a_full_table_loses_its_oldest_entry_of_all() -> None:
    entries = table()
    entries.put(B, 9, "oldest")
    for number in range(3):
        entries.put(A, number, str(number))
    assert entries.put(B, 8, "8") == "oldest"
    assert len(entries) == 4


def test_an_entry_that_is_set_again_is_the_newest_and_pushes_none_out() -> None:
    entries = table()
    for number in range(3):
        entries.put(A, number, str(number))
    assert entries.put(A, 0, "again") is None
    assert entries.put(A, 3, "3") == "1"
    assert entries.get(0) == "again"


def test_the_oldest_can_be_removed() -> None:
    entries = table()
    assert entries.remove_oldest() is None
    entries.put(A, 1, "1")
    entries.put(B, 2, "2")
    assert [entries.remove_oldest(), entries.remove_oldest(), entries.remove_oldest()] == ["1", "2", None]


def test_a_cleared_table_has_room_again() -> None:
    entries = table()
    for number in range(3):
        entries.put(A, number, str(number))
    entries.clear()
    assert (len(entries), entries.put(A, 0, "0")) == (0, None)
