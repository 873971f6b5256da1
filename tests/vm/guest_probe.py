"""Runs inside the machine of `test_stock_kernel`: the probe of the agent on such a kernel."""

import dataclasses

import pytest

from netpolq.dataplane.host_checks import dns_in_prerouting
from netpolq.dataplane.install import Ruleset, cleanup, probe
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from netpolq.enums import Dataplane, NodeEgress
from tests.netns.dataplane.lab import run

_CONFIG = RulesetConfig(
    queue_first=100,
    queue_count=4,
    fanout=True,
    fail_open=True,
    mark_mask=0x00070000,
    ct_label=40,
    node_egress=NodeEgress.JUDGE,
    dns_in_prerouting=True,
    form=Dataplane.NATIVE,
)


async def test_the_native_form_is_found() -> None:
    assert await probe() is Dataplane.NATIVE


def test_a_kernel_before_6_12_has_dns_evaluated_before_routing() -> None:
    assert dns_in_prerouting(None)


@pytest.mark.parametrize(
    ("config", "listed"),
    [
        (_CONFIG, "queue flags bypass,fanout to 100-103"),
        (dataclasses.replace(_CONFIG, queue_count=1), "queue flags bypass to 100"),
        (dataclasses.replace(_CONFIG, fail_open=False), "queue flags fanout to 100-103"),
        (dataclasses.replace(_CONFIG, fail_open=False, fanout=False), "queue to 100-103"),
    ],
)
async def test_the_native_rule_reads_as_meant(config: RulesetConfig, listed: str) -> None:
    try:
        await Ruleset(config).install(IsolatedSets(ingress=frozenset(), egress=frozenset()))
        chain = run("nft", "list", "chain", "inet", "netpolq", "enqueue")
        assert [line.strip() for line in chain.splitlines()[2:-2]] == [listed]
    finally:
        cleanup()
