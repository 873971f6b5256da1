"""The document of `netpolq names`, and its text."""

import json

import pytest

from netpolq.addresses import parse_address
from netpolq.names.table import NameTable
from netpolq.supervisor.names_report import LearnedName, decode, encode, learned_names, matching, render_json, render_text
from tests.support.cluster_policies import cluster_policy, decoded, rule

POD = parse_address("10.0.0.1")


@pytest.fixture
def names() -> list[LearnedName]:
    table = NameTable(min_ttl_s=30, grace_s=60)
    table.learn(POD, "www.example.com", [(parse_address("203.0.113.2"), 100), (parse_address("203.0.113.1"), 30)], 0.0)
    table.learn(POD, "example.org", [(parse_address("2001:db8::1"), 300)], 0.0)
    policies = [
        decoded(cluster_policy("web", egress=[rule("Accept", {"domainNames": ["*.example.com", "example.org"]})])),
        decoded(cluster_policy("all", egress=[rule("Accept", {"domainNames": ["www.example.com", "unused.example"]})])),
        decoded(cluster_policy("other", egress=[rule("Deny")])),
    ]
    return learned_names(table, policies, grace_s=60, now_s=40.0)


def test_each_address_has_its_time_left_and_the_policies_of_its_name(names: list[LearnedName]) -> None:
    assert render_text(names).splitlines() == [
        "NAME             ADDRESS      TIME LEFT            POLICIES",
        "example.org      2001:db8::1  320 s                web",
        "www.example.com  203.0.113.1  50 s (grace period)  all, web",
        "www.example.com  203.0.113.2  120 s                all, web",
    ]


def test_the_document_arrives_as_it_was_sent_and_has_the_keys_that_programs_rely_on(names: list[LearnedName]) -> None:
    assert decode(encode(names)) == names
    assert json.loads(render_json(names))["names"][0] == {
        "name": "example.org",
        "addresses": [{"address": "2001:db8::1", "left_s": 320.0, "in_grace_period": False}],
        "patterns": ["example.org"],
        "policies": ["web"],
    }


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("", 2), ("example.org", 1), ("WWW.example.com.", 1), ("*.example.com", 1), ("example.com", 0), ("*.org", 1)],
)
def test_a_name_or_a_pattern_selects(names: list[LearnedName], pattern: str, expected: int) -> None:
    assert len(matching(names, pattern)) == expected


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"names": [1]}', b'{"names": [{"addresses": [{}]}]}'])
def test_another_document_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a document of names"):
        decode(data)
