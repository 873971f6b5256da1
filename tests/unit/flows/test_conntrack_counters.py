"""Messages about connections with counters: those of real kernels are read, and no bytes raise."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.dataplane.conntrack import Connection, read_connection
from netpolq.flows.conntrack_counters import Reading, read
from netpolq.netlink.attributes import attribute
from netpolq.netlink.nfnetlink import attributes_of

ENDED = bytes.fromhex(
    "020000003400018014000180080001007f000001080002007f0000011c000280050001000600000006000200aec60000060003008ac50000"
    "3400028014000180080001007f000001080002007f0000011c0002800500010006000000060002008ac5000006000300aec60000"
    "08000c00eb887458080003000000020e1c0009800c00010000000000000000040c00020000000000000027e8"
    "1c000a800c00010000000000000000020c0002000000000000000070100004800c0001800500010008000000"
)
"""A TCP connection of 10,000 bytes over the loopback interface, as Linux 6.18 reports its end."""

LOOPBACK = parse_address("127.0.0.1")
READING = Reading(Connection(LOOPBACK, LOOPBACK, 6, 35525), 0x587488EB, 6, 0x27E8 + 0x70)


def test_the_counters_of_both_directions_are_added() -> None:
    assert read(ENDED) == READING
    assert READING.connection == read_connection(attributes_of(ENDED))


def test_attributes_in_another_form_are_read_too() -> None:
    """Older kernels do not mark nested attributes, and some machines need padding before numbers of eight bytes."""
    unmarked = ENDED.replace(b"\x14\x00\x01\x80", b"\x14\x00\x01\x00").replace(b"\x1c\x00\x02\x80", b"\x1c\x00\x02\x00")
    assert read(unmarked) == READING
    counters = ENDED[124:152]
    padded = attribute(9, attribute(3, b"") + counters[4:16] + attribute(3, b"") + counters[16:])
    assert ENDED.count(counters) == 1
    assert read(ENDED.replace(counters, padded)) == READING


@pytest.mark.parametrize(
    "missing", [b"\x1c\x00\x09\x80", b"\x1c\x00\x0a\x80", b"\x08\x00\x0c\x00", b"\x34\x00\x01\x80", b"\x34\x00\x02\x80"]
)
def test_a_message_without_counters_number_or_ends_has_no_reading(missing: bytes) -> None:
    """It has another attribute in its place."""
    assert ENDED.count(missing) == 1
    assert read(ENDED.replace(missing, missing[:2] + b"\x63\x00")) is None


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    assert read(data) is None or isinstance(read(data), Reading)


@given(st.integers(0, len(ENDED) - 1), st.binary(min_size=1, max_size=8), st.integers(0, len(ENDED)))
def test_no_damage_to_a_message_raises(start: int, data: bytes, length: int) -> None:
    damaged = (ENDED[:start] + data + ENDED[start + len(data) :])[:length]
    assert read(damaged) is None or isinstance(read(damaged), Reading)
