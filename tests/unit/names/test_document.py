"""The document with learned names that the next supervisor reads."""

from typing import Any

import orjson
import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.names.document import KeptPair, decode, encode, kept
from netpolq.names.table import MAX_TTL_S, NameTable

POD, ADDRESS = parse_address("10.0.0.1"), parse_address("2001:db8::1")
WALL_S = 1_800_000_000.0


def document(**fields: object) -> bytes:
    row = ["a.example.com", "2001:db8::1", "10.0.0.1", WALL_S + 30]
    return orjson.dumps({"format": 1, "written_s": WALL_S, "pairs": [row], **fields})


def row(
    name: object = "a.example.com", address: object = "2001:db8::1", pod: object = "10.0.0.1", expiry_s: object = WALL_S
) -> bytes:
    return document(pairs=[[name, address, pod, expiry_s]])


def test_a_pair_has_the_same_time_left_for_the_next_supervisor() -> None:
    """Its monotonic clock is another one, and some time has passed."""
    names = NameTable(min_ttl_s=0, grace_s=0)
    names.learn(POD, "a.example.com", [(ADDRESS, 100)], 5000.0)
    data = encode(kept(names), now_s=5010.0, wall_s=WALL_S)
    assert decode(data, now_s=7.0, wall_s=WALL_S + 20) == [KeptPair("a.example.com", ADDRESS, POD, 7.0 + 70)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (document(format=2), "format 1"),
        (document(format=None), "format 1"),
        (b"[]", "format 1"),
        (b"", "no JSON"),
        (b"\xff\x00", "no JSON"),
        (document()[:-3], "no JSON"),
        (document(written_s=WALL_S + 60), "the clock was set back"),
        (document(written_s="now"), "a time"),
        (document(written_s=True), "a time"),
        (document(written_s=-1), "a time"),
        (document(pairs=None), "a list"),
        (document(pairs=[["a"] * 4] * 65537), "at most 65536"),
        (document(pairs=["abcd"]), "4 values"),
        (document(pairs=[["a"]]), "4 values"),
        (row(name=""), "no valid name"),
        (row(name="a" * 254), "no valid name"),
        (row(name="bücher.example"), "no valid name"),
        (row(name=7), "no valid name"),
        (row(address=7), "no valid address"),
        (row(address="10.0.0.256"), "not an IP address"),
        (row(pod=None), "no valid address"),
        (row(expiry_s=None), "a time"),
        (row(expiry_s=WALL_S + MAX_TTL_S + 60), "expires too late"),
    ],
)
def test_a_document_that_no_supervisor_has_written_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(data, now_s=0.0, wall_s=WALL_S)


def test_a_clock_that_is_corrected_by_a_second_does_not_matter() -> None:
    assert len(decode(document(), now_s=0.0, wall_s=WALL_S - 1)) == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|format 1"):
        decode(data, now_s=0.0, wall_s=WALL_S)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5) | st.just("10.0.0.1"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, JSON)
def test_any_values_of_the_fields_are_read_or_refused(written: object, pairs: object) -> None:
    try:
        found = decode(document(written_s=written, pairs=pairs), now_s=0.0, wall_s=WALL_S)
    except ValueError:
        return
    assert all(isinstance(pair, KeptPair) for pair in found)
