"""The verification finds policies that allow too little, and those that allow too much."""

from collections.abc import Callable

import pytest

from netpolq.flows.record import FlowRecord
from netpolq.recommendation import yaml_of
from netpolq.recommendation.builder import Options, Recommendation, build
from netpolq.recommendation.traffic import Traffic, known_pods, traffic_of
from netpolq.recommendation.verification import SAMPLES, VerificationError, Verified, verify
from netpolq.recommendation.workloads import KnownPods
from tests.support.seen_flows import outside, pod, record

RECORDS = [
    record(pod("shop/web"), pod("shop/db"), 5432),
    record(pod("ops/monitor"), pod("shop/db"), 9187),
    record(outside("203.0.113.1"), pod("shop/web"), 443),
]
SUMMARISED = [record(outside(f"203.0.113.{number}"), pod("shop/web"), 443) for number in (2, 60, 120, 250)]


def parts(records: list[FlowRecord]) -> tuple[Recommendation, Traffic, KnownPods]:
    pods = known_pods(records)
    traffic = traffic_of(records, pods, namespace="", include_denied=False)
    return build(traffic, pods, Options(), {}), traffic, pods


def verified(edit: Callable[[str], str] = lambda text: text) -> Verified:
    """The result for policies whose text was changed."""
    recommendation, traffic, pods = parts(RECORDS)
    return verify(edit(yaml_of(recommendation.policies, audit=False)), recommendation, traffic, pods)


def test_a_recommendation_is_verified() -> None:
    found = verified()
    assert (found.allowed, found.by_summary) == (3, 0)
    assert 50 < found.denied <= SAMPLES


def test_addresses_that_a_block_allows_in_addition_are_counted() -> None:
    """Among them the address that stands for those that were not recorded, 203.0.113.1."""
    recommendation, traffic, pods = parts(SUMMARISED)
    found = verify(yaml_of(recommendation.policies, audit=False), recommendation, traffic, pods)
    assert (found.allowed, found.by_summary) == (4, 1)


def test_a_missing_port_is_found() -> None:
    with pytest.raises(VerificationError, match=r"shop/web \(.*\) -> shop/db \(.*\) TCP 5432 was seen, .*drop"):
        verified(lambda text: text.replace("port: 5432", "port: 5431"))


def test_a_selector_that_selects_too_much_is_found() -> None:
    """Without ports, a rule allows all of them."""

    def every_port(text: str) -> str:
        return text.replace("      ports:\n        - protocol: TCP\n          port: 5432\n", "")

    with pytest.raises(VerificationError, match=r"was not seen, and its verdict would be accept"):
        verified(every_port)


def test_text_that_cannot_be_read_whole_is_found() -> None:
    with pytest.raises(VerificationError, match=r"cannot be read: .*egres"):
        verified(lambda text: text.replace("  egress:", "  egres:"))
