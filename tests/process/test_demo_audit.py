"""The walk of docs/audit.md, with real packets: observe, recommend, audit, mend, enforce."""

from tests.demo import audit


def test_a_shop_gets_policies_from_its_traffic_and_nothing_that_was_seen_is_cut() -> None:
    assert audit.run() == []
