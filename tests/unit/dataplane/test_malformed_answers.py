"""Readers of kernel objects, with attributes that are missing, cut or of the wrong length."""

import contextlib
import struct

from collections.abc import Callable

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.addresses import parse_address
from netpolq.dataplane.conntrack import Connection, read_connection
from netpolq.dataplane.kernel_errors import RulesetError, explained
from netpolq.dataplane.label_clash import bits_set
from netpolq.dataplane.links import Link, parse_link
from netpolq.netlink.attributes import Attributes, MalformedMessageError, attribute, nested, parse_attributes


def connection(*, source: bytes = bytes([10, 0, 0, 1]), port: bytes = b"\x00\x50", protocol: bytes = b"\x06") -> Attributes:
    """CTA_TUPLE_ORIG from `source`, and CTA_TUPLE_REPLY from 10.0.0.2."""
    sides = (
        nested(side, nested(1, attribute(1, address)), nested(2, attribute(1, protocol), attribute(2, port)))
        for side, address in ((1, source), (2, bytes([10, 0, 0, 2])))
    )
    return parse_attributes(b"".join(sides))


def connlabel_rule(information: bytes) -> list[bytes]:
    """A rule with the xtables match connlabel."""
    return [attribute(1, b"match\x00") + nested(2, attribute(1, b"connlabel\x00"), attribute(3, information))]


def link(*attributes: bytes) -> bytes:
    return struct.pack("=BxHiII", 0, 1, 7, 0, 0) + b"".join(attributes)


def read_bits(data: bytes) -> object:
    return list(bits_set([data]))


NAME = attribute(3, b"cni0\x00")
BRIDGE = attribute(1, b"bridge\x00")


def test_a_connection_has_the_addresses_of_both_sides_and_the_port_that_replies() -> None:
    assert read_connection(connection()) == Connection(parse_address("10.0.0.1"), parse_address("10.0.0.2"), 6, 80)


@pytest.mark.parametrize(
    "malformed",
    [connection(source=bytes(5)), connection(port=b"\x50"), connection(protocol=b""), Attributes()],
    ids=["address", "port", "protocol", "no sides"],
)
def test_a_malformed_connection_is_none(malformed: Attributes) -> None:
    """Its acceptance is removed, so that its packets are evaluated again."""
    assert read_connection(malformed) is None


def test_a_link_has_its_kind_and_its_bridge() -> None:
    vlan_aware = nested(18, BRIDGE, nested(2, attribute(7, b"\x01")))
    body = link(NAME, attribute(10, struct.pack("=I", 9)), attribute(5, struct.pack("=I", 8)), vlan_aware)
    assert parse_link(body) == Link(7, "cni0", "bridge", 9, 8, is_vlan_aware=True)
    assert parse_link(link(NAME)) == Link(7, "cni0", "", 0, 0, is_vlan_aware=False)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (link()[:-1], "message about an interface has 15 bytes instead of at least 16"),
        (link(), "attribute 3 is missing"),
        (link(NAME, attribute(10, b"\x01")), "attribute 10 has 1 bytes instead of 4"),
        (link(NAME, nested(18, BRIDGE, nested(2, attribute(7, b"")))), "attribute 7 has 0 bytes instead of 1"),
        (link(NAME)[:-5], "attribute 3 claims 9 of 7 bytes"),
    ],
)
def test_a_malformed_link_is_an_error_for_the_operator(body: bytes, problem: str) -> None:
    with pytest.raises(RulesetError) as refused, explained():
        parse_link(body)
    assert str(refused.value) == f"cannot read the kernel's answer to a netfilter request: {problem}"


def test_a_connlabel_rule_sets_its_bit() -> None:
    assert list(bits_set(connlabel_rule(struct.pack("=HH4x", 41, 2)))) == [41]
    assert list(bits_set(connlabel_rule(struct.pack("=HH4x", 41, 0)))) == []


def test_a_malformed_connlabel_rule_is_an_error() -> None:
    with pytest.raises(MalformedMessageError, match="attribute 3 has 3 bytes instead of 4 or 8"):
        list(bits_set(connlabel_rule(b"\x29\x00\x02")))


SEEDS = (connlabel_rule(struct.pack("=HH4x", 41, 2))[0], link(NAME, nested(18, BRIDGE, nested(2, attribute(7, b"\x01")))))


@given(st.sampled_from([read_bits, parse_link]), st.sampled_from(SEEDS), st.integers(0, 80), st.binary(max_size=8))
def test_changed_bytes_are_an_object_or_one_kind_of_error(
    read: Callable[[bytes], object], seed: bytes, offset: int, changed: bytes
) -> None:
    with contextlib.suppress(MalformedMessageError):
        read(seed[:offset] + changed + seed[offset + len(changed) :])


@given(st.binary(max_size=8), st.binary(max_size=20))
def test_any_connection_is_one_or_none(start: bytes, rest: bytes) -> None:
    for attributes in (Attributes({1: start, 2: rest}), Attributes({1: rest, 2: start}), connection(source=rest, port=start)):
        assert isinstance(read_connection(attributes), Connection | None)
