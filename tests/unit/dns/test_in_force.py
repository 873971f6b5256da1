"""What is in force already, and for how long."""

from netpolq_worker.dns.in_force import MAX_ADDRESSES_OF_POD, AddressesInForce, News

S = 1_000_000_000
POD, OTHER = b"p" * 16, b"q" * 16
ONE, TWO = b"1" * 16, b"2" * 16


def known(min_ttl_s: int = 0, ttl_s: int = 60) -> AddressesInForce:
    addresses = AddressesInForce(min_ttl_s)
    addresses.add(POD, "name", ((ONE, ttl_s),), 0)
    return addresses


def test_an_address_is_known_until_its_ttl_is_over() -> None:
    assert known().news(POD, "name", ((ONE, 1),), 60 * S - 1) is News.NONE
    assert known().news(POD, "name", ((ONE, 1),), 60 * S) is News.MORE


def test_one_unknown_address_is_news() -> None:
    assert known().news(POD, "name", ((ONE, 9), (TWO, 9)), 0) is News.MORE
    assert known().news(POD, "other", ((ONE, 9),), 0) is News.MORE
    assert known().news(OTHER, "name", ((ONE, 9),), 0) is News.MORE


def test_a_longer_life_is_reported_but_not_the_rounding_of_a_countdown() -> None:
    assert known().news(POD, "name", ((ONE, 61),), 0) is News.NONE
    assert known().news(POD, "name", ((ONE, 62),), 0) is News.LONGER
    assert known().news(POD, "name", ((ONE, 31),), 30 * S) is News.NONE
    assert known().news(POD, "name", ((ONE, 60),), 30 * S) is News.LONGER


def test_a_shorter_life_changes_nothing() -> None:
    addresses = known()
    addresses.add(POD, "name", ((ONE, 1),), 0)
    assert addresses.news(POD, "name", ((ONE, 1),), 59 * S) is News.NONE


def test_the_supervisor_keeps_every_address_for_the_least_ttl() -> None:
    assert known(min_ttl_s=30, ttl_s=0).news(POD, "name", ((ONE, 0),), 30 * S - 1) is not News.MORE
    assert known(min_ttl_s=30, ttl_s=0).news(POD, "name", ((ONE, 0),), 30 * S) is News.MORE


def test_nothing_is_known_after_clear() -> None:
    addresses = known()
    addresses.clear()
    assert addresses.news(POD, "name", ((ONE, 9),), 0) is News.MORE


def test_a_pod_cannot_fill_the_table() -> None:
    addresses = AddressesInForce(0)
    for number in range(MAX_ADDRESSES_OF_POD + 10):
        addresses.add(POD, "name", ((number.to_bytes(16, "big"), 60),), 0)
    assert len(addresses) == MAX_ADDRESSES_OF_POD
