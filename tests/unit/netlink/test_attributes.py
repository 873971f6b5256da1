"""Netlink attributes: what is encoded is decoded, and malformed bytes end in one kind of error."""

import contextlib
import struct

from collections.abc import Callable

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.netlink.attributes import (
    HOST_U32,
    U8,
    U16,
    U32,
    U64,
    Attributes,
    MalformedMessageError,
    attribute,
    nested,
    parse_attributes,
    parse_list,
)

KINDS = st.integers(0, 0x3FFF)
GETTERS: list[Callable[[Attributes, int], object]] = [
    lambda attributes, kind: attributes[kind],
    lambda attributes, kind: attributes.binary(kind, 4, 16),
    lambda attributes, kind: attributes.integer(kind, U8),
    lambda attributes, kind: attributes.integer(kind, U64, 0),
    lambda attributes, kind: attributes.text(kind),
    lambda attributes, kind: attributes.text(kind, ""),
    Attributes.nested,
    Attributes.listed,
]


@given(st.dictionaries(KINDS, st.binary(max_size=40)))
def test_what_is_encoded_is_decoded(contents: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in contents.items())
    assert len(data) % 4 == 0
    assert parse_attributes(data) == contents
    assert parse_list(data) == list(contents.values())
    assert parse_attributes(nested(5, data)).nested(5) == contents


@given(st.one_of(st.binary(max_size=64), st.binary(max_size=24).map(lambda data: attribute(1, data)[:-1])))
def test_any_bytes_are_attributes_or_one_kind_of_error(data: bytes) -> None:
    for parse in (parse_attributes, parse_list):
        with contextlib.suppress(MalformedMessageError):
            parse(data)


@given(st.dictionaries(st.integers(0, 2), st.binary(max_size=20)), st.integers(0, 3))
def test_getters_return_a_value_or_one_kind_of_error(contents: dict[int, bytes], kind: int) -> None:
    for get in GETTERS:
        with contextlib.suppress(MalformedMessageError):
            get(Attributes(contents), kind)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"\x08\x00", "2 bytes are left where an attribute begins", id="half a header"),
        pytest.param(attribute(7, b"abcd") + b"\x00", "1 bytes are left where an attribute begins", id="byte behind the last"),
        pytest.param(struct.pack("=HH", 3, 7), "attribute 7 claims 3 of 4 bytes", id="shorter than its header"),
        pytest.param(attribute(7, b"abcd")[:-1], "attribute 7 claims 8 of 7 bytes", id="cut"),
        pytest.param(nested(7, b"abcd")[:-1], "attribute 7 claims 8 of 7 bytes", id="cut, with a flag"),
    ],
)
def test_bytes_that_are_no_attributes_are_refused(data: bytes, problem: str) -> None:
    for parse in (parse_attributes, parse_list):
        with pytest.raises(MalformedMessageError) as refused:
            parse(data)
        assert refused.value.strerror == problem


def test_the_last_attribute_may_lack_its_padding() -> None:
    assert parse_attributes(attribute(1, b"ab")[:-2]) == {1: b"ab"}


def test_of_several_attributes_of_a_kind_the_last_counts_and_a_list_has_them_all() -> None:
    data = attribute(1, b"first") + attribute(1, b"last")
    assert parse_attributes(data) == {1: b"last"}
    assert parse_attributes(nested(2, data)).listed(2) == [b"first", b"last"]


@pytest.mark.parametrize(
    ("form", "contents", "value"),
    [
        (U8, b"\xff", 255),
        (U16, b"\x01\x02", 0x102),
        (U32, b"\x01\x02\x03\x04", 0x1020304),
        (U64, b"\x00\x00\x00\x00\x00\x00\x01\x00", 256),
        (HOST_U32, struct.pack("@I", 77), 77),
    ],
)
def test_a_number_has_exactly_its_bytes(form: struct.Struct, contents: bytes, value: int) -> None:
    assert Attributes({1: contents}).integer(1, form) == value
    for wrong in (contents[:-1], contents + b"\x00"):
        with pytest.raises(MalformedMessageError, match=f"attribute 1 has {len(wrong)} bytes instead of {form.size}"):
            Attributes({1: wrong}).integer(1, form, 0)


@pytest.mark.parametrize(
    ("contents", "value"),
    [(b"eth0\x00", "eth0"), (b"eth0", "eth0"), (b"eth0\x00\x00x", "eth0"), (b"", ""), (b"\xffa\x00", "\\xffa")],
)
def test_a_text_ends_at_the_first_nul_and_needs_no_encoding(contents: bytes, value: str) -> None:
    assert Attributes({1: contents}).text(1) == value


def test_bytes_have_one_of_the_lengths() -> None:
    attributes = Attributes({1: b"1234", 2: b"12345"})
    assert attributes.binary(1, 4, 16) == b"1234"
    with pytest.raises(MalformedMessageError, match="attribute 2 has 5 bytes instead of 4 or 16"):
        attributes.binary(2, 4, 16)


def test_a_missing_attribute_is_an_error_unless_there_is_a_default() -> None:
    none = Attributes()
    for get in (GETTERS[0], GETTERS[1], GETTERS[2], GETTERS[4]):
        with pytest.raises(MalformedMessageError, match="attribute 9 is missing"):
            get(none, 9)
    assert (none.integer(9, U32, 3), none.text(9, "-"), none.nested(9), none.listed(9)) == (3, "-", {}, [])
