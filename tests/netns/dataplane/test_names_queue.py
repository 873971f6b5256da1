"""DNS of pods with domain names in their policies, in a real kernel: the reader's queue gets every query and every response."""

import dataclasses
import ipaddress
import socket
import struct
import time

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import CACHE_LOOKUPS, IsolatedSets, RulesetConfig
from netpolq.enums import ConnectionLabel, NodeEgress, PacketMark
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    CT_LABEL,
    DEADLINE_S,
    FAMILIES,
    NODE,
    NOT_ISOLATED,
    OUTSIDE,
    A,
    B,
    Lab,
    MovingListener,
    UdpFlow,
    both_ways,
    counted,
    nft,
    run,
    without_verdict,
)
from tests.netns.dataplane.test_foreign_marks import MARKS, flows, mark_forwarded, marked

T = TypeVar("T")

_WORKERS, _READER = 100, 200
_PORT = 53

ISOLATED_AND_ASKING = dataclasses.replace(A_EGRESS, asking=A_EGRESS.egress)
ASKING = dataclasses.replace(NOT_ISOLATED, asking=A_EGRESS.egress)
SETS = pytest.mark.parametrize("sets", [ISOLATED_AND_ASKING, ASKING], ids=["isolated", "not-isolated"])
SERVERS = pytest.mark.parametrize("server", [B, OUTSIDE, NODE])
BEFORE_ROUTING = pytest.mark.parametrize("dns_in_prerouting", [False, True])


@pytest.fixture(params=NodeEgress)
def reading(config: RulesetConfig, request: pytest.FixtureRequest) -> RulesetConfig:
    """A configuration with a DNS reader."""
    run("conntrack", "--flush")
    return dataclasses.replace(config, dns_queue=_READER, node_egress=request.param)


@pytest.fixture
def workers(node: Lab) -> Iterator[MovingListener]:
    del node
    made = MovingListener(_WORKERS)
    yield made
    made.close()


@pytest.fixture
def reader(node: Lab) -> Iterator[MovingListener]:
    del node
    made = MovingListener(_READER)
    yield made
    made.close()


def pass_on(reader: MovingListener, workers: MovingListener, state: PacketMark, count: int = 1) -> None:
    """The reader sees what was sent, and a worker accepts it."""
    reader.receive(count)
    assert set(reader.states()) == {PacketMark.PENDING_NAMES}
    reader.move(_WORKERS, state)
    workers.receive(count)
    assert set(workers.states()) == {state}
    workers.accept()


def ask(flow: UdpFlow, reader: MovingListener, workers: MovingListener) -> None:
    """A query and its response. The reader sees both."""
    flow.send(b"query")
    pass_on(reader, workers, PacketMark.PENDING_ORIGINAL)
    assert flow.receive() == b"query"
    flow.answer()
    pass_on(reader, workers, PacketMark.PENDING_REPLY)
    assert flow.answered() == b"answer"


def is_accepted() -> bool:
    return bool(clear_accepted(CT_LABEL + ConnectionLabel.ACCEPTED).cleared)


@FAMILIES
@SERVERS
@SETS
@BEFORE_ROUTING
async def test_the_reader_sees_every_query_and_every_response_over_udp(
    reading: RulesetConfig,
    reader: MovingListener,
    workers: MovingListener,
    node: Lab,
    sets: IsolatedSets,
    server: str,
    family: int,
    *,
    dns_in_prerouting: bool,
) -> None:
    """Of a server on another node, of a pod here, and of the node itself; the connection never becomes accepted."""
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=dns_in_prerouting)).install(sets)
    node.forget_neighbours()
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        for _ in range(3):
            ask(flow, reader, workers)
        assert not is_accepted()
    assert reader.seen == 6


@FAMILIES
@SERVERS
@SETS
@BEFORE_ROUTING
async def test_the_reader_sees_dns_over_tcp(
    reading: RulesetConfig,
    reader: MovingListener,
    workers: MovingListener,
    node: Lab,
    sets: IsolatedSets,
    server: str,
    family: int,
    *,
    dns_in_prerouting: bool,
) -> None:
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=dns_in_prerouting)).install(sets)
    version = socket.AF_INET if family == 4 else socket.AF_INET6
    with node.inside(server):
        listening = socket.create_server(("", _PORT), family=version, dualstack_ipv6=False)
    with node.inside(A):
        client = socket.socket(version)
    with listening, client:
        listening.setblocking(False)
        client.setblocking(False)
        assert client.connect_ex((ADDRESS[server, family], _PORT)) != 0
        accepted = _until(listening.accept, reader, workers)[0]
        with accepted:
            for one in (client, accepted):  # they end with a reset, so that nothing is sent again into other tests
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.setblocking(False)
            _until(lambda: client.send(b"query"), reader, workers)
            assert _until(lambda: accepted.recv(100), reader, workers) == b"query"
            accepted.send(b"response")
            assert _until(lambda: client.recv(100), reader, workers) == b"response"
        assert not is_accepted()
        assert reader.seen >= 5  # three of the handshake, query, response


def _until(attempt: Callable[[], T], reader: MovingListener, workers: MovingListener) -> T:
    """The result of an operation that would block, while the reader passes all packets on and a worker accepts them."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            return attempt()
        except BlockingIOError:
            reader.poll(0.005)
            reader.move(_WORKERS, PacketMark.PENDING_ORIGINAL)
            workers.poll(0.005)
            workers.accept()
    raise AssertionError("nothing arrived")


# What the reader does not get.


@FAMILIES
async def test_dns_of_other_pods_does_not_reach_the_reader(reading: RulesetConfig, node: Lab, family: int) -> None:
    """Neither does that of the node, to a pod or from its own port 53."""
    ruleset = Ruleset(reading)
    await ruleset.install(ASKING)
    for client, server in ((B, OUTSIDE), (B, A), (OUTSIDE, A), (NODE, A), (NODE, B), (B, NODE)):
        with node.udp_flow(client, server, family, port=_PORT) as flow:
            assert both_ways(flow)
    with node.udp(NODE, family, _PORT) as near, node.udp(A, family) as far:
        flow = UdpFlow(near, far, (ADDRESS[A, family], far.getsockname()[1]))
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 0


@FAMILIES
@SETS
async def test_other_packets_of_a_pod_that_asks_are_evaluated_by_workers(
    reading: RulesetConfig, reader: MovingListener, workers: MovingListener, node: Lab, sets: IsolatedSets, family: int
) -> None:
    """Once, because their connections become accepted."""
    await Ruleset(reading).install(sets)
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        workers.receive()
        assert workers.states() == [PacketMark.PENDING_ORIGINAL]
        workers.accept()
        flow.receive()
        flow.answer()
        assert flow.answered() == b"answer"
        assert both_ways(flow)
    assert (reader.seen, workers.seen) == (0, 1)


@FAMILIES
async def test_connections_to_a_pod_that_asks_pass_though_it_is_not_isolated_for_ingress(
    reading: RulesetConfig, node: Lab, family: int
) -> None:
    await Ruleset(reading).install(ISOLATED_AND_ASKING)
    with node.udp_flow(B, A, family) as flow:
        assert both_ways(flow)


# Before other rules.


@FAMILIES
async def test_the_verdict_cache_is_not_asked_about_dns(
    reading: RulesetConfig, reader: MovingListener, workers: MovingListener, node: Lab, family: int
) -> None:
    """Nor do rules about an isolated server come first."""
    ruleset = Ruleset(dataclasses.replace(reading, verdict_cache=True))
    await ruleset.install(dataclasses.replace(ISOLATED_AND_ASKING, ingress=B_INGRESS.ingress))
    with node.udp_flow(A, B, family, port=_PORT) as flow:
        ask(flow, reader, workers)
        ask(flow, reader, workers)
    assert (await ruleset.counters())[CACHE_LOOKUPS] == 0


async def test_dns_without_a_connection_is_read_as_well(
    reading: RulesetConfig, reader: MovingListener, workers: MovingListener, node: Lab
) -> None:
    """DNS caches on nodes disable connection tracking for themselves."""
    nft("""
        add table ip probe
        add chain ip probe raw { type filter hook prerouting priority -300; }
        add rule ip probe raw udp dport 53 notrack
        add chain ip probe own { type filter hook output priority -300; }
        add rule ip probe own udp sport 53 notrack
    """)
    await Ruleset(reading).install(ISOLATED_AND_ASKING)
    with node.udp_flow(A, NODE, port=_PORT) as flow:
        ask(flow, reader, workers)
        ask(flow, reader, workers)


async def test_a_query_that_is_evaluated_before_routing_is_not_evaluated_again(
    reading: RulesetConfig, reader: MovingListener, workers: MovingListener, node: Lab
) -> None:
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=True)).install(ISOLATED_AND_ASKING)
    with node.udp_flow(A, B, port=_PORT) as flow:
        for _ in range(2):
            flow.send()
            reader.receive()
            assert [packet.hook for packet in reader.waiting] == [0]
            pass_on(reader, workers, PacketMark.PENDING_ORIGINAL)
            flow.receive()
    assert (reader.seen, workers.seen) == (2, 2)


async def test_a_query_to_an_address_of_the_node_that_is_translated_later_is_evaluated_behind_routing(
    reading: RulesetConfig, reader: MovingListener, workers: MovingListener, node: Lab
) -> None:
    """As IPVS does it. Each query is: nothing says that the rules before routing have seen it."""
    nft(f"""
        add table ip probe
        add chain ip probe translating {{ type filter hook prerouting priority -90; }}
        add rule ip probe translating ip daddr {ADDRESS[NODE, 4]} udp dport 53 ip daddr set {ADDRESS[B, 4]}
    """)
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=True)).install(ISOLATED_AND_ASKING)
    with node.udp(A, 4) as near, node.udp(B, 4, _PORT) as far:
        flow = UdpFlow(near, far, (ADDRESS[NODE, 4], _PORT))
        for _ in range(2):
            flow.send()
            reader.receive()
            assert [packet.hook for packet in reader.waiting] == [4]
            pass_on(reader, workers, PacketMark.PENDING_ORIGINAL)
            flow.receive()


# Behind the queue.


@FAMILIES
@pytest.mark.parametrize("server", [B, OUTSIDE])
@pytest.mark.parametrize("marking", ["prerouting", "postrouting", "ct mark restored"])
@BEFORE_ROUTING
async def test_dns_leaves_with_its_mark(
    reading: RulesetConfig,
    reader: MovingListener,
    workers: MovingListener,
    node: Lab,
    marking: str,
    server: str,
    family: int,
    *,
    dns_in_prerouting: bool,
) -> None:
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=dns_in_prerouting)).install(ISOLATED_AND_ASKING)
    mark_forwarded(marking)
    with flows(node, A, server, family, port=_PORT) as marked_flows:
        for text in (b"first", b"second"):
            for flow in marked_flows:
                flow.send(text)
            pass_on(reader, workers, PacketMark.PENDING_ORIGINAL, len(MARKS))
            for flow in marked_flows:
                assert flow.receive() == text
    assert counted("kept", family) == 2 * len(MARKS)


@FAMILIES
@marked
async def test_dns_of_other_pods_keeps_its_mark(reading: RulesetConfig, node: Lab, marking: str, family: int) -> None:
    await Ruleset(reading).install(ASKING)
    mark_forwarded(marking)
    for server in (OUTSIDE, A):
        with flows(node, B, server, family, port=_PORT) as marked_flows:
            for flow in marked_flows:
                flow.send()
                flow.receive()
    assert counted("kept", family) == 2 * len(MARKS)


@FAMILIES
@SERVERS
@BEFORE_ROUTING
@pytest.mark.parametrize("state", [PacketMark.PENDING_NAMES, PacketMark.PENDING_ORIGINAL, PacketMark.PENDING_REPLY])
async def test_fail_closed_drops_and_counts_dns_without_a_verdict(
    reading: RulesetConfig,
    reader: MovingListener,
    workers: MovingListener,
    node: Lab,
    state: PacketMark,
    server: str,
    family: int,
    *,
    dns_in_prerouting: bool,
) -> None:
    """In both directions."""
    ruleset = Ruleset(dataclasses.replace(reading, dns_in_prerouting=dns_in_prerouting))
    await ruleset.install(ISOLATED_AND_ASKING)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        flow.send()
        reader.receive()
        reader.accept(state)
        assert await without_verdict(ruleset) == 1
        assert flow.server_receives_nothing()
        flow.send()
        pass_on(reader, workers, PacketMark.PENDING_ORIGINAL)
        flow.receive()
        flow.answer()
        reader.receive()
        reader.accept(state)
        assert await without_verdict(ruleset) == 2
        assert flow.client_receives_nothing()


@FAMILIES
@SERVERS
@SETS
async def test_fail_closed_drops_dns_while_there_is_no_reader(
    reading: RulesetConfig, node: Lab, sets: IsolatedSets, server: str, family: int
) -> None:
    await Ruleset(reading).install(sets)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        flow.send()
        assert flow.server_receives_nothing()


@FAMILIES
@SERVERS
@SETS
@BEFORE_ROUTING
async def test_fail_open_passes_and_counts_dns_while_there_is_no_reader(
    reading: RulesetConfig, node: Lab, sets: IsolatedSets, server: str, family: int, *, dns_in_prerouting: bool
) -> None:
    """Each packet once, and none of its connections becomes accepted."""
    ruleset = Ruleset(dataclasses.replace(reading, fail_open=True, dns_in_prerouting=dns_in_prerouting))
    await ruleset.install(sets)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        assert both_ways(flow)
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 4
    assert not is_accepted()


# Queries of pods that are unknown yet.


@FAMILIES
@SERVERS
@BEFORE_ROUTING
async def test_a_held_query_is_not_accepted_for_its_whole_connection(
    reading: RulesetConfig,
    reader: MovingListener,
    workers: MovingListener,
    node: Lab,
    server: str,
    family: int,
    *,
    dns_in_prerouting: bool,
) -> None:
    """When it returns, the kernel may not know yet that its pod asks. The next query and all responses reach the reader."""
    held = (ipaddress.ip_network("10.77.1.0/24"), ipaddress.ip_network("fd77:1::/64"))
    ruleset = Ruleset(dataclasses.replace(reading, pod_ranges=held, dns_in_prerouting=dns_in_prerouting))
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        if server == NODE and reading.node_egress is NodeEgress.ALLOW:
            assert both_ways(flow)
            return
        flow.send()
        workers.receive()
        assert workers.states() == [PacketMark.UNKNOWN_SOURCE]
        if not dns_in_prerouting or server == NODE:
            workers.accept()
            flow.receive()
            await ruleset.update(dataclasses.replace(ISOLATED_AND_ASKING, known=A_EGRESS.egress))
        else:
            await ruleset.update(dataclasses.replace(ISOLATED_AND_ASKING, known=A_EGRESS.egress))
            workers.accept()
            pass_on(reader, workers, PacketMark.PENDING_ORIGINAL)  # behind routing
            flow.receive()
        flow.answer()
        pass_on(reader, workers, PacketMark.PENDING_REPLY)
        assert flow.answered() == b"answer"
        ask(flow, reader, workers)
        assert not is_accepted()
