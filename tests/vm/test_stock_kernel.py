"""A kernel as distributions build it: nftables' own queue expression, IPVS, and an age at which DNS is judged before routing.

One boot serves all of these tests; what they run inside is pytest again.
"""

import re
import sys

import pytest

from netpolq.dataplane.nft_program import MAX_DEADLINE_S
from tests.vm.machine import Outcome, run_in_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(5400)]

_PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=300"]
# Thousands of decisions in the maps, and matrices of marks, sources and damages, take the machine many minutes, and have nothing to do with
# the queue rule. Of the marks those of the node's own packets stay, since kernels differ in what tells these.
_MATRICES = (
    "test_sources or test_link_local or test_label_clash or (test_foreign_marks and not reaches) or (test_tagged_frames and egress) "
    "or (test_damage_by_others and (element or chain or insert))"
)
_ALL, _SOME = f"not decisions_are_forgotten and not ({_MATRICES})", f"(once or survive) and not decisions and not ({_MATRICES})"
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
