"""Which blocks stand for addresses outside."""

import pytest

from netpolq.addresses import parse_address
from netpolq.recommendation.blocks import MAX_BLOCKS, PodAddresses, contains, summarised

NO_PODS = PodAddresses(())


def blocks(*addresses: str, unrecorded: tuple[int, ...] = (), pods: tuple[str, ...] = ()) -> dict[str, int]:
    """The number of addresses that were seen in each block."""
    keys = [parse_address(address) for address in addresses]
    found = summarised(keys, unrecorded, PodAddresses(map(parse_address, pods)))
    assert all(any(contains(one.block, key) for one in found) for key in keys)
    return {str(one.block.cidr): len(one.seen) for one in found}


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["203.0.113.1", "203.0.113.2", "203.0.113.3"], {"203.0.113.1/32": 1, "203.0.113.2/32": 1, "203.0.113.3/32": 1}),
        (["203.0.113.4", "203.0.113.5", "203.0.113.6", "203.0.113.7"], {"203.0.113.4/30": 4}),
        (["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.200"], {"203.0.113.0/24": 4}),
        (
            ["203.0.112.255", "203.0.113.0", "203.0.113.1", "203.0.113.2"],
            dict.fromkeys(("203.0.112.255/32", "203.0.113.0/32", "203.0.113.1/32", "203.0.113.2/32"), 1),
        ),
        ([f"2001:db8::{number}" for number in range(1, 5)], {"2001:db8::/64": 4}),
        (["2001:db8::1", "203.0.113.1"], {"203.0.113.1/32": 1, "2001:db8::1/128": 1}),
    ],
)
def test_four_neighbours_become_a_block(addresses: list[str], expected: dict[str, int]) -> None:
    """Of IPv4 the smallest that contains them, within a /24; of IPv6 a /64."""
    assert blocks(*addresses) == expected


def test_no_block_has_the_address_of_a_pod() -> None:
    addresses = ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.9"]
    assert blocks(*addresses) == {"10.0.0.0/28": 4}
    assert blocks(*addresses, pods=("10.0.0.8",)) == {f"{address}/32": 1 for address in addresses}
    assert blocks(*addresses, pods=("10.0.0.16",)) == {"10.0.0.0/28": 4}


def test_too_many_blocks_of_the_internet_are_all_of_it_without_private_ranges() -> None:
    far = [f"198.51.{number}.1" for number in range(MAX_BLOCKS + 1)]
    (whole, private) = summarised(map(parse_address, [*far, "10.7.7.7"]), (), NO_PODS)
    assert (str(whole.block.cidr), len(whole.seen), whole.is_summary) == ("0.0.0.0/0", MAX_BLOCKS + 1, True)
    assert "169.254.0.0/16" in map(str, whole.block.except_)
    assert (str(private.block.cidr), private.is_summary) == ("10.7.7.7/32", False)
    assert len(blocks(*far[:-1])) == MAX_BLOCKS


def test_too_many_blocks_of_a_private_range_are_the_range() -> None:
    assert blocks(*(f"10.{number}.0.1" for number in range(MAX_BLOCKS + 1))) == {"10.0.0.0/8": MAX_BLOCKS + 1}


def test_addresses_that_were_not_recorded_are_all_of_their_family() -> None:
    (first, second) = summarised(map(parse_address, ["203.0.113.1", "2001:db8::1"]), (4,), NO_PODS)
    assert (str(first.block.cidr), first.block.except_, first.has_unrecorded) == ("0.0.0.0/0", (), True)
    assert str(second.block.cidr) == "2001:db8::1/128"
