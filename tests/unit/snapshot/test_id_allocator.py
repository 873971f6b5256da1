"""The id allocator gives out each id once and reuses freed ids."""

from netpolq.snapshot.id_allocator import IdAllocator


def test_ids_are_consecutive_from_the_first() -> None:
    ids = IdAllocator(first=1)
    assert [ids.allocate() for _ in range(3)] == [1, 2, 3]


def test_a_freed_id_is_reused_before_a_new_one() -> None:
    ids = IdAllocator()
    for _ in range(3):
        ids.allocate()
    ids.free(0)
    ids.free(2)
    assert [ids.allocate() for _ in range(3)] == [2, 0, 3]
