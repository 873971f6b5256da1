"""The snapshot builder over many changes: ids stay stable, and garbage is bounded."""

import random

from netpolq.addresses import AddressKey
from netpolq.enums import Protocol
from netpolq.snapshot.builder import SnapshotBuilder
from netpolq.snapshot.id_allocator import IdAllocator
from netpolq.snapshot.identity_table import IdentityTable
from netpolq.snapshot.ir import CompiledDelta, Identity
from netpolq.snapshot.pod_names import PodNames
from netpolq.snapshot.reader import SnapshotReader
from netpolq.snapshot.string_table import StringTable


def test_contents_of_identities_are_found_and_most_of_the_room_is_in_use() -> None:
    rng = random.Random(1)
    strings = StringTable()
    http = strings.acquire("http")
    identities = IdentityTable(strings)
    ids = IdAllocator(first=1)
    present: dict[int, Identity] = {}
    for _ in range(20_000):
        content = Identity(tuple(sorted(rng.sample(range(40), rng.randrange(20)))), (("http", Protocol.TCP, rng.randrange(9)),))
        if present and rng.random() < 0.5:
            number = rng.choice(list(present))
            if rng.random() < 0.5:
                identities.set(number, content)
                present[number] = content
            else:
                identities.set(number, None)
                ids.free(number)
                del present[number]
        else:
            number = ids.allocate()
            identities.set(number, content)
            present[number] = content
        identities.collect_garbage()
    for number, content in present.items():
        offset, count = identities.offsets[number], len(content.selectors)
        assert tuple(identities.cells[offset : offset + count + 4]) == (
            *(count, *content.selectors, 1, http),
            Protocol.TCP << 16 | content.named_ports[0][2],
        )
    needed = sum(4 + len(content.selectors) for content in set(present.values()))
    assert len(identities.cells) < 2.5 * needed + 2000


def test_a_name_keeps_its_number_while_it_is_used_and_no_other_gets_it_before_garbage_collection() -> None:
    strings = StringTable()
    first, second = strings.acquire("a"), strings.acquire("b")
    assert strings.acquire("a") == first
    strings.release("a")
    strings.release("b")
    assert strings.acquire("c") not in {first, second}
    assert strings.acquire("b") == second, "used again in time"
    strings.collect_garbage()
    strings.release("a")
    strings.collect_garbage()
    assert strings.acquire("d") == first
    assert strings.number("b") == second


def test_names_of_pods_that_come_and_go_leave_no_more_garbage_than_names() -> None:
    names = PodNames()
    for number in range(5000):
        names.set(bytes([10, *number.to_bytes(15)]), f"shop/pod-{number}")
        if number >= 20:
            names.set(bytes([10, *(number - 20).to_bytes(15)]), "")
        names.collect_garbage()
    assert len(names.table) == 20
    assert len(names.texts) < 6000


def test_a_published_builder_is_untouched_until_something_changes() -> None:
    builder = SnapshotBuilder()
    touched = []

    def take(version: int) -> SnapshotReader:
        touched.append(builder.is_touched)
        view = SnapshotReader(builder.encoded(version=version, created_ns=0))
        touched.append(builder.is_touched)
        return view

    take(1)
    take(2)
    builder.apply(CompiledDelta(identities={1: Identity((3,), ())}, addresses={AddressKey(bytes(15) + b"\x01"): 1}))
    view = take(3)
    assert view.identity(bytes(15) + b"\x01")
    assert not view.identity(bytes(15) + b"\x02")
    assert touched == [True, False, False, False, True, False]
