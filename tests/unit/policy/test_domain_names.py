"""The matching of domain names, by comparison and by look-up."""

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.model import domain_name
from netpolq.policy.domain_names import matches, patterns_of

MATCHING = [
    ("example.com", "example.com"),
    ("example.com", "EXAMPLE.com"),
    ("Example.Com.", "example.com"),
    ("example.com", "example.com."),
    ("*.example.com", "www.example.com"),
    ("*.example.com", "a.b.example.com"),
    ("*.Example.com.", "A.b.example.COM."),
    ("*.example.com", "_dmarc.example.com"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
]
DIFFERENT = [
    ("example.com", "www.example.com"),
    ("example.com", "my-example.com"),
    ("example.com", "example.co"),
    ("example.com", "com"),
    ("example.com", ""),
    ("*.example.com", "example.com"),
    ("*.example.com", ".example.com"),
    ("*.example.com", "my-example.com"),
    ("*.example.com", "www.example.com.org"),
    ("*.www.example.com", "example.com"),
    ("*.example.com", ""),
]
LABELS = st.lists(st.sampled_from(["a", "b", "com", "example"]), min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(("pattern", "name"), MATCHING)
def test_a_pattern_matches_a_name_and_the_wildcard_one_or_more_labels_before_it(pattern: str, name: str) -> None:
    assert matches(pattern, name)
    assert domain_name(pattern) in patterns_of(domain_name(name))


@pytest.mark.parametrize(("pattern", "name"), DIFFERENT)
def test_a_pattern_matches_no_other_name(pattern: str, name: str) -> None:
    assert not matches(pattern, name)
    assert name.startswith(".") or domain_name(pattern) not in patterns_of(domain_name(name))


@given(LABELS, LABELS, st.booleans())
def test_the_patterns_that_are_looked_up_for_a_name_are_those_that_match_it(rest: str, name: str, is_wildcard: bool) -> None:
    pattern = f"*.{rest}" if is_wildcard else rest
    assert matches(pattern, name) is (pattern in set(patterns_of(name)))


def test_a_name_is_looked_up_by_as_many_patterns_as_it_has_labels() -> None:
    assert list(patterns_of("a.b.example.com")) == ["a.b.example.com", "*.b.example.com", "*.example.com", "*.com"]
