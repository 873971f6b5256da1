"""Rules of other software that set connection labels, as read from a real kernel."""

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.label_clash import Setter, clashes, free_bits, read_setters
from netpolq.enums import CONNECTION_LABEL_BITS
from tests.netns.dataplane.lab import CT_LABEL, NOT_ISOLATED, Lab, nft, run

_RULES = "add table inet other; add chain inet other c { type filter hook prerouting priority 0; }; add rule inet other c "


@pytest.mark.parametrize(
    "rule", ["ct label 40 accept", "ct mark set 40", "meta mark set 13 accept", "ct state new ct label 41 counter"]
)
def test_rules_that_only_read_labels_are_not_reported(node: Lab, rule: str) -> None:
    del node  # the fixture clears its rules
    nft(_RULES + rule)
    assert read_setters() == []


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 63, 64, CT_LABEL, 127])
@pytest.mark.parametrize("rule", ["ct label set {}", "tcp dport 80 ct state new ct label set {} counter accept"])
def test_a_rule_that_sets_a_bit_is_reported(node: Lab, rule: str, bit: int) -> None:
    del node
    nft(_RULES + rule.format(bit))
    assert read_setters() == [Setter("inet other c", frozenset([bit]))]


@pytest.mark.parametrize(("command", "family"), [("iptables-nft", "ip"), ("ip6tables-nft", "ip6")])
def test_rules_of_iptables_are_reported(node: Lab, command: str, family: str) -> None:
    del node
    run(command, "-A", "FORWARD", "-m", "connlabel", "--label", "50", "--set")
    run(command, "-A", "FORWARD", "-m", "connlabel", "--label", "51")
    assert read_setters() == [Setter(f"{family} filter FORWARD", frozenset([50]))]


@pytest.mark.parametrize("bit", [CT_LABEL - 1, CT_LABEL, CT_LABEL + CONNECTION_LABEL_BITS - 1, CT_LABEL + CONNECTION_LABEL_BITS])
def test_only_the_agents_bits_are_a_clash(node: Lab, bit: int) -> None:
    del node
    nft(_RULES + f"ct label set {bit}")
    is_own = CT_LABEL <= bit < CT_LABEL + CONNECTION_LABEL_BITS
    assert clashes(read_setters(), CT_LABEL) == (["inet other c"] if is_own else [])


async def test_the_agents_own_rules_are_not_reported(ruleset: Ruleset) -> None:
    await ruleset.install(NOT_ISOLATED)
    assert read_setters() == []


def test_free_bits_are_those_that_no_rule_sets() -> None:
    assert free_bits([]) == 128 - CONNECTION_LABEL_BITS
    assert free_bits([Setter("a", frozenset([127])), Setter("b", frozenset([119]))]) == 120
    assert free_bits([Setter("a", frozenset(range(128)))]) is None
