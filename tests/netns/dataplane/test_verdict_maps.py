"""Decisions in the kernel: the packets that pass, are dropped or are queued after a look-up in the verdict maps."""

import asyncio
import dataclasses
import re
import socket

from collections.abc import AsyncIterator

import pytest

from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

from netpolq.addresses import parse_address
from netpolq.dataplane.install import Ruleset, cleanup
from netpolq.dataplane.ruleset import CacheCounts, IsolatedSets, RulesetConfig
from netpolq.dataplane.verdict_maps import MAX_DECISIONS
from netpolq.enums import Protocol, Verdict
from netpolq.ipc.channel import EVERY_PORT, CachedVerdict
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    DEADLINE_S,
    FAMILIES,
    NFT_DEADLINE_S,
    A,
    B,
    Lab,
    QueueListener,
    both_ways,
    nft,
    queued,
    run,
    without_verdict,
)

TTL_MS = 60_000
PORT = 7777


@pytest.fixture
async def caching(config: RulesetConfig) -> AsyncIterator[Ruleset]:
    yield Ruleset(dataclasses.replace(config, verdict_cache=True), nft_deadline_s=NFT_DEADLINE_S)
    cleanup()


def entry(family: int, verdict: Verdict, port: int = PORT) -> CachedVerdict:
    return CachedVerdict(parse_address(ADDRESS[A, family]), parse_address(ADDRESS[B, family]), port, Protocol.UDP, verdict)


def elements_of(name: str) -> int:
    found = re.search(
        r"elements = \{ ([^}]*) \}", run("nft", "list", "map" if "verdicts" in name else "set", "inet", "netpolq", name)
    )
    return len(found[1].split(",")) if found else 0


async def counts(ruleset: Ruleset) -> CacheCounts:
    return CacheCounts.of(await ruleset.counters())


@FAMILIES
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS])
async def test_an_accept_passes_without_a_worker_and_is_remembered_by_the_connection(
    caching: Ruleset, node: Lab, listener: QueueListener, family: int, sets: IsolatedSets
) -> None:
    await caching.install(sets)
    await caching.remember_verdicts([entry(family, Verdict.ACCEPT)], TTL_MS)
    with node.udp_flow(A, B, family, port=PORT) as flow:
        assert both_ways(flow)
        assert queued() == 0
        assert await counts(caching) == (1, 0, 0)
        await caching.forget_verdicts(None)
        assert both_ways(flow), "an accepted connection goes on without the map"
        assert await counts(caching) == (1, 0, 0)
    assert listener.waiting == []
    assert await without_verdict(caching) == 0


@FAMILIES
async def test_a_drop_is_dropped_without_a_worker(caching: Ruleset, node: Lab, listener: QueueListener, family: int) -> None:
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(family, Verdict.DROP)], TTL_MS)
    with node.udp_flow(A, B, family, port=PORT) as flow:
        for _ in range(3):
            flow.send()
        assert flow.server_receives_nothing()
    assert queued() == 0
    assert listener.waiting == []
    assert await counts(caching) == (0, 3, 0)


@FAMILIES
async def test_a_drop_of_every_port_is_of_one_protocol_and_one_pair(
    caching: Ruleset, node: Lab, listener: QueueListener, family: int
) -> None:
    await caching.install(B_INGRESS)
    closed = entry(family, Verdict.DROP, EVERY_PORT)
    others = [closed._replace(protocol=Protocol.TCP), closed._replace(source=closed.destination, destination=closed.source)]
    await caching.remember_verdicts([entry(family, Verdict.ACCEPT), *others], TTL_MS)
    with node.udp_flow(A, B, family, port=PORT + 1) as flow:
        flow.send()
        listener.receive()
        listener.accept()
        flow.receive()
    await caching.remember_verdicts([closed], TTL_MS)
    for port in (PORT + 2, PORT + 3):
        with node.udp_flow(A, B, family, port=port) as flow:
            flow.send()
            assert flow.server_receives_nothing()
    assert listener.waiting == []
    assert await counts(caching) == (0, 2, 1)
    assert await caching.in_place()
    assert await caching.forget_verdicts([closed, *others])
    with node.udp_flow(A, B, family, port=PORT + 2) as flow:
        flow.send()
        listener.receive()


@FAMILIES
@pytest.mark.parametrize(
    "other",
    [{"port": PORT + 1}, {"protocol": Protocol.TCP}, {"source": "10.77.1.3", "family6": "fd77:1::3"}],
    ids=["port", "protocol", "source"],
)
async def test_what_differs_in_anything_is_queued(
    caching: Ruleset, node: Lab, listener: QueueListener, family: int, other: dict[str, object]
) -> None:
    await caching.install(B_INGRESS)
    known = entry(family, Verdict.ACCEPT)
    if "source" in other:
        known = known._replace(source=parse_address(str(other["source" if family == 4 else "family6"])))
    else:
        known = known._replace(**other)  # type: ignore[arg-type]
    await caching.remember_verdicts([known], TTL_MS)
    with node.udp_flow(A, B, family, port=PORT) as flow:
        flow.send()
        listener.receive()
        listener.accept()
        flow.receive()
    assert await counts(caching) == (0, 0, 1)


@FAMILIES
async def test_icmp_never_matches_a_remembered_port(caching: Ruleset, node: Lab, listener: QueueListener, family: int) -> None:
    """An echo request has its checksum at the offset of the port."""
    if family == 4:
        kind, protocol = socket.AF_INET, socket.IPPROTO_ICMP
        request = bytes(ICMP(id=1))
    else:
        kind, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
        request = bytes(IPv6(src=ADDRESS[A, 6], dst=ADDRESS[B, 6]) / ICMPv6EchoRequest())[40:]
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(family, Verdict.ACCEPT, int.from_bytes(request[2:4]))], TTL_MS)
    with node.inside(A):
        raw = socket.socket(kind, socket.SOCK_RAW, protocol)
    with raw:
        raw.sendto(request, (ADDRESS[B, family], 0))
    listener.receive()
    assert await counts(caching) == (0, 0, 1)


async def test_pods_that_are_not_isolated_are_not_looked_up(caching: Ruleset, node: Lab) -> None:
    await caching.install(IsolatedSets(ingress=frozenset(), egress=frozenset()))
    with node.udp_flow(A, B, port=PORT) as flow:
        assert both_ways(flow)
    assert await counts(caching) == (0, 0, 0)


async def test_decisions_are_forgotten_one_by_one_all_at_once_or_in_time(caching: Ruleset) -> None:
    await caching.install(B_INGRESS)
    many = [entry(family, Verdict.ACCEPT, port) for family in (4, 6) for port in range(1, MAX_DECISIONS + 1)]
    for half in (many[:MAX_DECISIONS], many[MAX_DECISIONS:]):
        await caching.remember_verdicts(half, TTL_MS)
    await caching.remember_verdicts(many[:5], TTL_MS)  # again: no error
    assert (elements_of("verdicts_v4"), elements_of("verdicts_v6")) == (MAX_DECISIONS, MAX_DECISIONS)
    assert await caching.forget_verdicts(many[: MAX_DECISIONS - 24])
    assert (elements_of("verdicts_v4"), elements_of("verdicts_v6")) == (24, MAX_DECISIONS)
    assert not await caching.forget_verdicts(many[:1]), "one that is not there: the maps are emptied"
    assert (elements_of("verdicts_v4"), elements_of("verdicts_v6")) == (0, 0)
    await caching.remember_verdicts(many[:3], TTL_MS)
    assert not await caching.forget_verdicts(many), "more than a transaction takes: the maps are emptied"
    closed = [entry(family, Verdict.DROP, EVERY_PORT) for family in (4, 6)]
    await caching.remember_verdicts(closed, TTL_MS)
    assert not await caching.forget_verdicts(None)
    assert (elements_of("closed_v4"), elements_of("closed_v6")) == (0, 0)
    await caching.remember_verdicts([*many[:3], *closed], 1000)

    def all_maps() -> tuple[int, int, int]:
        return elements_of("verdicts_v4"), elements_of("closed_v4"), elements_of("closed_v6")

    assert all_maps() == (3, 1, 1)
    async with asyncio.timeout(DEADLINE_S):
        while all_maps() != (0, 0, 0):  # noqa: ASYNC110  # the kernel sends no notification of a time-out
            await asyncio.sleep(0.05)


async def test_changes_of_decisions_do_not_count_as_foreign(caching: Ruleset) -> None:
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(4, Verdict.ACCEPT), entry(4, Verdict.DROP, 1)], TTL_MS)
    assert await caching.in_place()


async def test_a_later_agent_begins_with_empty_maps(caching: Ruleset, config: RulesetConfig) -> None:
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(4, Verdict.ACCEPT)], TTL_MS)
    await Ruleset(dataclasses.replace(config, verdict_cache=True)).install(B_INGRESS)
    assert elements_of("verdicts_v4") == 0


async def test_an_agent_without_the_cache_does_not_follow_what_an_earlier_one_left(
    caching: Ruleset, config: RulesetConfig, node: Lab, listener: QueueListener
) -> None:
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(4, Verdict.ACCEPT)], TTL_MS)
    await Ruleset(config).install(B_INGRESS)
    with node.udp_flow(A, B, port=PORT) as flow:
        flow.send()
        listener.receive()


async def test_a_table_that_is_gone_holds_nothing_to_forget(caching: Ruleset) -> None:
    await caching.install(B_INGRESS)
    nft("delete table inet netpolq")
    assert not await caching.forget_verdicts([entry(4, Verdict.ACCEPT)])


async def test_without_the_queue_rule_nothing_passes_for_a_remembered_accept(
    caching: Ruleset, config: RulesetConfig, node: Lab
) -> None:
    """Without its rule the chain `enqueue` returns, like the verdict of a remembered accept. The ruleset must distinguish the two."""
    await caching.install(B_INGRESS)
    nft("flush chain inet netpolq enqueue")
    with node.udp_flow(A, B, port=PORT) as flow:
        flow.send()
        assert flow.server_receives_nothing()
    assert config.fail_open is False
    assert await counts(caching) == (0, 0, 1)
    assert await without_verdict(caching) == 1


async def test_a_syn_to_a_remembered_port_connects(caching: Ruleset, node: Lab) -> None:
    await caching.install(B_INGRESS)
    await caching.remember_verdicts([entry(4, Verdict.ACCEPT)._replace(protocol=Protocol.TCP)], TTL_MS)
    with node.inside(B):
        server = socket.create_server((ADDRESS[B, 4], PORT))
    with node.inside(A):
        client = socket.socket()
    with server, client:
        client.settimeout(DEADLINE_S)
        client.connect((ADDRESS[B, 4], PORT))
    assert await counts(caching) == (1, 0, 0)
