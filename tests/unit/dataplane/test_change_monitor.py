"""Changes of sets as requests, and the order of generations."""

import pytest

from netpolq.addresses import AddressKey, parse_address
from netpolq.dataplane.change_monitor import is_later
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.dataplane.set_elements import change_elements, elements_of
from netpolq.netlink.nftables import NFT_MSG_DELSETELEM, NFT_MSG_NEWSETELEM


def keys(*addresses: str) -> frozenset[bytes]:
    return frozenset[bytes](AddressKey(parse_address(address)) for address in addresses)


@pytest.mark.parametrize(
    ("generation", "than", "later"), [(5, 4, True), (4, 5, False), (4, 4, False), (1, 0xFFFFFFFF, True), (0xFFFFFFFF, 1, False)]
)
def test_generations_are_ordered_across_the_wrap_of_the_kernels_counter(generation: int, than: int, later: bool) -> None:
    assert is_later(generation, than) is later


def test_sets_change_by_what_differs() -> None:
    """Additions and removals of each set, and no request for a set that stays."""
    before = elements_of(IsolatedSets(ingress=keys("10.0.0.1", "fd00::1"), egress=keys("10.0.0.9")))
    after = elements_of(IsolatedSets(ingress=keys("10.0.0.2", "fd00::1"), egress=keys("10.0.0.9")))
    requests = change_elements(before, after)
    assert [request.kind for request in requests] == [NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM]
    assert bytes([10, 0, 0, 2]) in b"".join(requests[0].attributes)
    assert bytes([10, 0, 0, 1]) in b"".join(requests[1].attributes)
    assert change_elements(after, after) == ()


def test_many_elements_are_several_requests_of_one_transaction() -> None:
    """An attribute has a length of 16 bits."""
    none = elements_of(IsolatedSets(ingress=frozenset(), egress=frozenset()))
    many = elements_of(IsolatedSets(ingress=keys(*(f"fd00::{number:x}" for number in range(1, 5001))), egress=frozenset()))
    requests = change_elements(none, many)
    assert len(requests) == 5
    assert all(len(part) < 1 << 16 for request in requests for part in request.attributes)
