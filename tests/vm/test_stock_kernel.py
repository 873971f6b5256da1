"""A kernel as distributions build it: nftables' own queue expression, IPVS, and a version with which DNS is evaluated before routing.

One boot serves all of these tests; what they run inside is pytest again.
"""

import re
import sys

import pytest

from netpolq.dataplane.nft_program import MAX_DEADLINE_S
from tests.vm.machine import Outcome, run_in_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(5400)]

_PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=300"]
# Each test takes some seconds, so only those of parts that differ between kernels run: the queue rule, the match of the node's own packets,
# the expressions of the verdict maps, those of unknown addresses, and a move to another queue.
_QUEUE_RULE = "(test_ruleset_packets and 4) or (test_ruleset_upkeep and (a_first_install or survive))"
_OTHERS = "(test_foreign_marks and reaches and 4) or (test_verdict_maps and 4 and (an_accept_passes or a_drop_is_dropped))"
_WAITING = (
    "(test_unknown_addresses and 4 and (tells_which_end or before_routing or moved))"
    " or (test_names_queue and (translated_later or not_evaluated_again))"
)
_ALL, _SOME = (
    f"{_QUEUE_RULE} or {_OTHERS} or {_WAITING}",
    "(test_ruleset_packets and evaluated_once and 4) or (test_ruleset_upkeep and survive)",
)
_ENVIRONMENT = ["env", f"NETPOLQ_TEST_NFT_DEADLINE_S={MAX_DEADLINE_S}"]
_JOBS = {
    "native": [*_ENVIRONMENT, "NETPOLQ_TEST_DATAPLANE=native", *_PYTEST, "tests/netns/dataplane", "-k", _ALL],
    "compat": [*_ENVIRONMENT, "NETPOLQ_TEST_DATAPLANE=compat", *_PYTEST, "tests/netns/dataplane", "-k", _SOME],
    "auto": [*_PYTEST, "tests/vm/guest_probe.py"],
    "ipvs": [*_PYTEST, "tests/vm/guest_ipvs.py"],
    "vlans": [*_PYTEST, "tests/vm/guest_vlans.py"],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return run_in_machine(_JOBS)


def _passed_whole(outcome: Outcome) -> bool:
    """Something ran, and nothing failed or was skipped."""
    return outcome.returncode == 0 and bool(re.search(r"^\d+ passed(, \d+ deselected)? in ", outcome.output, re.MULTILINE))


def test_the_ruleset_does_the_same_with_the_native_queue_rule(outcomes: dict[str, Outcome]) -> None:
    assert _passed_whole(outcomes["native"]), outcomes["native"].output


def test_the_compat_queue_rule_works_beside_the_native_one(outcomes: dict[str, Outcome]) -> None:
    assert _passed_whole(outcomes["compat"]), outcomes["compat"].output


def test_the_native_queue_rule_is_preferred(outcomes: dict[str, Outcome]) -> None:
    assert _passed_whole(outcomes["auto"]), outcomes["auto"].output


def test_services_by_ipvs_do_not_escape_policy(outcomes: dict[str, Outcome]) -> None:
    assert _passed_whole(outcomes["ipvs"]), outcomes["ipvs"].output


def test_no_tag_leads_past_policy_on_a_bridge_that_filters_vlans(outcomes: dict[str, Outcome]) -> None:
    assert _passed_whole(outcomes["vlans"]), outcomes["vlans"].output
