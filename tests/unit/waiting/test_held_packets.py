"""The index of held packets: by id, age and address, its bounds, and the table behind it."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq_worker.waiting.held_packets import MAX_HELD_OF_ADDRESS, HeldPackets
from netpolq_worker.waiting.table import MAX_HELD, SIZE_BYTES, HeldPacket, HeldTable
from tests.unit.waiting.packets import POD, held

NOW_NS = 1 << 62


def empty() -> HeldPackets:
    return HeldPackets(HeldTable(bytearray(SIZE_BYTES)), NOW_NS)


def hold(packets: HeldPackets, packet: HeldPacket) -> list[int]:
    """Hold a packet. Returns the ids of those that it displaces."""
    displaced = [one.packet_id for one in packets.displaced_by(packet.unknown)]
    for packet_id in displaced:
        packets.remove(packet_id)
    packets.add(packet)
    return displaced


def address(number: int) -> str:
    return f"10.{number >> 16 & 0xFF}.{number >> 8 & 0xFF}.{number & 0xFF}"


def test_packets_are_found_by_id_age_and_each_unknown_address() -> None:
    packets = empty()
    assert packets.oldest() is None
    one, both, other = held(1), held(2, unknown=("10.1.0.1", POD)), held(3, "10.1.0.2")
    for packet in (one, both, other):
        assert hold(packets, packet) == []
    assert (len(packets), packets.oldest(), list(packets)) == (3, one, [one, both, other])
    assert [packets.get(packet_id) for packet_id in (1, 2, 3, 4)] == [one, both, other, None]
    assert packets.waiting_for([parse_address("10.1.0.1")]) == [one, both]
    assert packets.waiting_for(list(map(parse_address, (POD, "10.1.0.1", "10.1.0.2")))) == [one, both, other]
    assert packets.waiting_for([parse_address("10.1.0.9")]) == []
    assert packets.waiting_for(None) == [one, both, other]
    packets.remove(1)
    assert (packets.oldest(), packets.get(1), packets.waiting_for([parse_address("10.1.0.1")])) == (both, None, [both])
    for packet in packets:
        packets.remove(packet.packet_id)
    assert (len(packets), packets.oldest(), packets.waiting_for(None)) == (0, None, [])


def test_a_packet_may_wait_for_another_address_than_before() -> None:
    packets = empty()
    hold(packets, held(1))
    later = held(1, unknown=(POD,))
    packets.update(later)
    assert packets.get(1) == later
    assert packets.waiting_for([parse_address("10.1.0.1")]) == []
    assert packets.waiting_for([parse_address(POD)]) == [later]


def test_the_oldest_packet_of_an_address_leaves_for_the_next_one_of_it() -> None:
    packets = empty()
    hold(packets, held(1, "10.1.0.2"))
    for packet_id in range(2, 2 + MAX_HELD_OF_ADDRESS):
        assert hold(packets, held(packet_id)) == []
    assert hold(packets, held(100)) == [2]
    assert hold(packets, held(101)) == [3]
    assert packets.get(1) is not None


def test_a_packet_with_two_unknown_addresses_displaces_one_of_each_or_one_of_both() -> None:
    packets = empty()
    for packet_id in range(1, 2 * MAX_HELD_OF_ADDRESS, 2):
        hold(packets, held(packet_id, "10.1.0.1"))
        hold(packets, held(packet_id + 1, "10.1.0.2"))
    assert hold(packets, held(100, unknown=("10.1.0.1", "10.1.0.2"))) == [1, 2]
    packets = empty()
    for packet_id in range(1, 1 + MAX_HELD_OF_ADDRESS):
        hold(packets, held(packet_id, unknown=("10.1.0.1", POD)))
    assert hold(packets, held(100, unknown=("10.1.0.1", POD))) == [1]


def test_no_sender_displaces_what_waits_for_another_address_of_a_block_of_256() -> None:
    packets = empty()
    for packet_id in range(1, 1 + MAX_HELD_OF_ADDRESS):
        hold(packets, held(packet_id, address(255)))
    for packet_id in range(100, 100 + 3 * MAX_HELD):
        hold(packets, held(packet_id, address(packet_id % 255)))
    assert len(packets) == MAX_HELD
    assert [packet.packet_id for packet in packets.waiting_for([parse_address(address(255))])] == [
        *range(1, 1 + MAX_HELD_OF_ADDRESS)
    ]


def test_of_too_many_packets_the_oldest_leaves() -> None:
    packets = empty()
    for packet_id in range(1, 1 + MAX_HELD):
        assert hold(packets, held(packet_id, address(packet_id))) == []
    assert hold(packets, held(MAX_HELD + 1, address(MAX_HELD + 1))) == [1]
    assert hold(packets, held(MAX_HELD + 2, unknown=(address(1), address(2)))) == [2]
    assert len(packets) == MAX_HELD


def test_a_damaged_table_is_emptied() -> None:
    memory = bytearray(SIZE_BYTES)
    HeldTable(memory).write(0, held(1))
    memory[64] = 7
    packets = HeldPackets(HeldTable(memory), NOW_NS)
    assert not packets.is_intact
    assert len(packets) == 0
    assert memory == bytes(SIZE_BYTES)
    hold(packets, held(1))
    assert list(HeldPackets(HeldTable(memory), NOW_NS)) == [held(1)]


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["hold", "hold", "hold", "remove", "update"]), st.integers(0, 5), st.integers(0, 5)), max_size=80
)


@given(OPERATIONS)
@settings(max_examples=50)
def test_a_replacement_finds_what_its_predecessor_has_left(operations: list[tuple[str, int, int]]) -> None:
    """After any operations the index and one that is built from the table are equal, and have the same bounds."""
    memory = bytearray(SIZE_BYTES)
    packets = HeldPackets(HeldTable(memory), NOW_NS)
    for packet_id, (operation, first, second) in enumerate(operations, 1):
        present = list(packets)
        if operation == "hold":
            hold(packets, held(packet_id, unknown=("10.1.0.1", POD)[first % 2 : 1 + second % 2] or ("10.1.0.1",)))
        elif present:
            chosen = present[first % len(present)]
            if operation == "remove":
                packets.remove(chosen.packet_id)
            else:
                packets.update(held(chosen.packet_id, unknown=(POD,)))
        rebuilt = HeldPackets(HeldTable(memory), NOW_NS)
        assert list(rebuilt) == list(packets)
        for key in map(parse_address, ("10.1.0.1", POD)):
            assert rebuilt.waiting_for([key]) == packets.waiting_for([key])
