"""Runs inside the machine of `test_stock_kernel`: the probe of the agent on such a kernel."""

import dataclasses
import ipaddress

import pytest

from netpolq.addresses import parse_address
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


async def test_the_rules_of_waiting_packets_and_of_dns_are_accepted() -> None:
    """All their forms: ranges and interfaces, in both modes of the node's egress. The DNS queue is a single one."""
    ranges = tuple(map(ipaddress.ip_network, ("10.244.1.0/24", "10.245.0.0/20", "fd00:244::/64")))
    sets = IsolatedSets(ingress=frozenset(), egress=frozenset(), known=frozenset([parse_address("10.244.1.1")]))
    for node_egress in NodeEgress:
        config = dataclasses.replace(
            _CONFIG, pod_ranges=ranges, pod_interfaces=("cali*", "eth1"), dns_queue=105, node_egress=node_egress
        )
        ruleset = Ruleset(config)
        try:
            await ruleset.install(sets)
            assert await ruleset.in_place()
            chain = run("nft", "list", "chain", "inet", "netpolq", "enqueue_names")
            assert [line.strip() for line in chain.splitlines()[2:-2]] == ["queue flags bypass to 105"]
        finally:
            cleanup()
