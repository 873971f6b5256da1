"""Decoding of nodes."""

import pytest

from netpolq.addresses import parse_address
from netpolq.model import Node
from netpolq.sources.decode.decoder import DecodeError, decode, decode_all
from netpolq.sources.decode.node import MAX_ADDRESSES


def node_body(*addresses: object, **metadata: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-1"} | metadata,
        "spec": {"podCIDR": "10.0.0.0/24", "newField": {}},
        "status": {"addresses": list(addresses), "nodeInfo": {}},
    }


def address(text: object, kind: object = "InternalIP") -> dict[str, object]:
    return {"type": kind, "address": text}


def refusal(body: object) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(body)
    assert caught.value.is_cluster_wide
    return caught.value


def test_a_node_has_every_ip_address_of_any_type_once_and_in_order() -> None:
    body = node_body(
        address("10.0.0.1"),
        address("fd00::1"),
        address("node-1", "Hostname"),
        address("203.0.113.1", "ExternalIP"),
        address("192.0.2.7", "Hostname"),
        address("node-1.example.com", "ExternalDNS"),
        address("10.0.0.1", "NewType"),
        address("node-1", ["a type that is not text"]),
        address("::ffff:10.0.0.1"),
        labels={"role": "db"},
    )
    expected = tuple(map(parse_address, ("10.0.0.1", "fd00::1", "203.0.113.1", "192.0.2.7")))
    assert decode(body) == Node(name="node-1", labels={"role": "db"}, addresses=expected)
    assert list(decode_all(body)) == [decode(body)]


@pytest.mark.parametrize("status", [None, {}, {"addresses": None}, {"addresses": []}])
def test_a_node_may_have_no_address(status: object) -> None:
    assert decode(node_body() | {"status": status}) == Node(name="node-1", labels={}, addresses=())


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (address("node-1"), "status.addresses[1].address"),
        (address("10.0.0.256", "ExternalIP"), "status.addresses[1].address"),
        (address("fe80::1%eth0"), "status.addresses[1].address"),
        (address(""), "status.addresses[1].address"),
        (address(1, "Hostname"), "status.addresses[1].address"),
        ("10.0.0.2", "status.addresses[1]"),
        (None, "status.addresses[1]"),
    ],
)
def test_an_address_that_cannot_be_read_is_reported_and_the_others_are_used(bad: object, path: str) -> None:
    error = refusal(node_body(address("10.0.0.1"), bad, address("10.0.0.3")))
    assert (error.field, error.further) == (path, ())
    assert isinstance(error.partial, Node)
    assert error.partial.addresses == (parse_address("10.0.0.1"), parse_address("10.0.0.3"))


def test_labels_and_addresses_are_read_apart() -> None:
    error = refusal(node_body(address("10.0.0.1"), labels={"a b": "c", "d": "e"}))
    assert error.partial == Node(name="node-1", labels={"d": "e"}, addresses=(parse_address("10.0.0.1"),))
    error = refusal(node_body(labels={"d": "e"}) | {"status": "x"})
    assert error.partial == Node(name="node-1", labels={"d": "e"}, addresses=())


def test_a_node_without_a_name_cannot_be_used() -> None:
    assert refusal(node_body(name=None)).partial is None


def test_the_addresses_of_a_node_are_bounded() -> None:
    texts = [f"10.0.{number // 250}.{number % 250}" for number in range(MAX_ADDRESSES + 1)]
    error = refusal(node_body(*map(address, texts)))
    assert error.field == "status.addresses"
    assert isinstance(error.partial, Node)
    assert error.partial.addresses == tuple(map(parse_address, texts[:MAX_ADDRESSES]))
