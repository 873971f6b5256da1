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
"""Whether the ruleset evaluates DNS before routing: in `reading`, by default it does not."""


@pytest.fixture
def dns_in_prerouting() -> bool:
    return False


@pytest.fixture(params=NodeEgress)
def reading(config: RulesetConfig, request: pytest.FixtureRequest, *, dns_in_prerouting: bool) -> RulesetConfig:
    """A configuration with a DNS reader."""
    run("conntrack", "--flush")
    return dataclasses.replace(config, dns_queue=_READER, node_egress=request.param, dns_in_prerouting=dns_in_prerouting)


class Queues:
    """The listeners of the DNS reader and of the worker behind it."""

    def __init__(self) -> None:
        self.workers = MovingListener(_WORKERS)
        self.reader = MovingListener(_READER)

    def close(self) -> None:
        self.reader.close()
        self.workers.close()

    def pass_on(self, state: PacketMark, count: int = 1) -> None:
        """The reader sees what was sent, and a worker accepts it."""
        self.reader.receive(count)
        assert set(self.reader.states()) == {PacketMark.PENDING_NAMES}
        self.reader.move(_WORKERS, state)
        self.workers.receive(count)
        assert set(self.workers.states()) == {state}
        self.workers.accept()

    def ask(self, flow: UdpFlow) -> None:
        """A query and its response. The reader sees both."""
        flow.send(b"query")
        self.pass_on(PacketMark.PENDING_ORIGINAL)
        assert flow.receive() == b"query"
        flow.answer()
        self.pass_on(PacketMark.PENDING_REPLY)
        assert flow.answered() == b"answer"

    def until(self, attempt: Callable[[], T]) -> T:
        """The result of an operation that would block, while the reader passes all packets on and a worker accepts them."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                return attempt()
            except BlockingIOError:
                self.reader.poll(0.005)
                self.reader.move(_WORKERS, PacketMark.PENDING_ORIGINAL)
                self.workers.poll(0.005)
                self.workers.accept()
        raise AssertionError("nothing arrived")


@pytest.fixture
def queues(node: Lab) -> Iterator[Queues]:
    del node
    made = Queues()
    yield made
    made.close()


def is_accepted() -> bool:
    return bool(clear_accepted(CT_LABEL + ConnectionLabel.ACCEPTED).cleared)


@FAMILIES
@SERVERS
@SETS
@BEFORE_ROUTING
async def test_the_reader_sees_every_query_and_every_response_over_udp(
    reading: RulesetConfig, queues: Queues, node: Lab, sets: IsolatedSets, server: str, family: int
) -> None:
    """Of a server on another node, of a pod here, and of the node itself; the connection never becomes accepted."""
    await Ruleset(reading).install(sets)
    node.forget_neighbours()
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        for _ in range(3):
            queues.ask(flow)
        assert not is_accepted()
    assert queues.reader.seen == 6


@FAMILIES
@SERVERS
@SETS
@BEFORE_ROUTING
async def test_the_reader_sees_dns_over_tcp(
    reading: RulesetConfig, queues: Queues, node: Lab, sets: IsolatedSets, server: str, family: int
) -> None:
    await Ruleset(reading).install(sets)
    version = socket.AF_INET if family == 4 else socket.AF_INET6
    with node.inside(server):
        listening = socket.create_server(("", _PORT), family=version, dualstack_ipv6=False)
    with node.inside(A):
        client = socket.socket(version)
    with listening, client:
        listening.setblocking(False)
        client.setblocking(False)
        assert client.connect_ex((ADDRESS[server, family], _PORT)) != 0
        accepted = queues.until(listening.accept)[0]
        with accepted:
            for one in (client, accepted):  # they end with a reset, so that nothing is sent again into other tests
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.setblocking(False)
            queues.until(lambda: client.send(b"query"))
            assert queues.until(lambda: accepted.recv(100)) == b"query"
            accepted.send(b"response")
            assert queues.until(lambda: client.recv(100)) == b"response"
        assert not is_accepted()
        assert queues.reader.seen >= 5  # three of the handshake, query, response


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
    reading: RulesetConfig, queues: Queues, node: Lab, sets: IsolatedSets, family: int
) -> None:
    """Once, because their connections become accepted."""
    await Ruleset(reading).install(sets)
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        queues.workers.receive()
        assert queues.workers.states() == [PacketMark.PENDING_ORIGINAL]
        queues.workers.accept()
        flow.receive()
        flow.answer()
        assert flow.answered() == b"answer"
        assert both_ways(flow)
    assert (queues.reader.seen, queues.workers.seen) == (0, 1)


@FAMILIES
async def test_connections_to_a_pod_that_asks_pass_though_it_is_not_isolated_for_ingress(
    reading: RulesetConfig, node: Lab, family: int
) -> None:
    await Ruleset(reading).install(ISOLATED_AND_ASKING)
    with node.udp_flow(B, A, family) as flow:
        assert both_ways(flow)


# Before other rules.


@FAMILIES
async def test_the_verdict_cache_is_not_asked_about_dns(reading: RulesetConfig, queues: Queues, node: Lab, family: int) -> None:
    """Nor do rules about an isolated server come first."""
    ruleset = Ruleset(dataclasses.replace(reading, verdict_cache=True))
    await ruleset.install(dataclasses.replace(ISOLATED_AND_ASKING, ingress=B_INGRESS.ingress))
    with node.udp_flow(A, B, family, port=_PORT) as flow:
        queues.ask(flow)
        queues.ask(flow)
    assert (await ruleset.counters())[CACHE_LOOKUPS] == 0


async def test_dns_without_a_connection_is_read_as_well(reading: RulesetConfig, queues: Queues, node: Lab) -> None:
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
        queues.ask(flow)
        queues.ask(flow)


async def test_a_query_that_is_evaluated_before_routing_is_not_evaluated_again(
    reading: RulesetConfig, queues: Queues, node: Lab
) -> None:
    await Ruleset(dataclasses.replace(reading, dns_in_prerouting=True)).install(ISOLATED_AND_ASKING)
    with node.udp_flow(A, B, port=_PORT) as flow:
        for _ in range(2):
            flow.send()
            queues.reader.receive()
            assert [packet.hook for packet in queues.reader.waiting] == [0]
            queues.pass_on(PacketMark.PENDING_ORIGINAL)
            flow.receive()
    assert (queues.reader.seen, queues.workers.seen) == (2, 2)


async def test_a_query_to_an_address_of_the_node_that_is_translated_later_is_evaluated_behind_routing(
    reading: RulesetConfig, queues: Queues, node: Lab
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
            queues.reader.receive()
            assert [packet.hook for packet in queues.reader.waiting] == [4]
            queues.pass_on(PacketMark.PENDING_ORIGINAL)
            flow.receive()


# Behind the queue.


@FAMILIES
@pytest.mark.parametrize("server", [B, OUTSIDE])
@pytest.mark.parametrize("marking", ["prerouting", "postrouting", "ct mark restored"])
@BEFORE_ROUTING
async def test_dns_leaves_with_its_mark(
    reading: RulesetConfig, queues: Queues, node: Lab, marking: str, server: str, family: int
) -> None:
    await Ruleset(reading).install(ISOLATED_AND_ASKING)
    mark_forwarded(marking)
    with flows(node, A, server, family, port=_PORT) as marked_flows:
        for text in (b"first", b"second"):
            for flow in marked_flows:
                flow.send(text)
            queues.pass_on(PacketMark.PENDING_ORIGINAL, len(MARKS))
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
    reading: RulesetConfig, queues: Queues, node: Lab, state: PacketMark, server: str, family: int
) -> None:
    """In both directions."""
    ruleset = Ruleset(reading)
    await ruleset.install(ISOLATED_AND_ASKING)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        flow.send()
        queues.reader.receive()
        queues.reader.accept(state)
        assert await without_verdict(ruleset) == 1
        assert flow.server_receives_nothing()
        flow.send()
        queues.pass_on(PacketMark.PENDING_ORIGINAL)
        flow.receive()
        flow.answer()
        queues.reader.receive()
        queues.reader.accept(state)
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
    reading: RulesetConfig, node: Lab, sets: IsolatedSets, server: str, family: int
) -> None:
    """Each packet once, and none of its connections becomes accepted."""
    ruleset = Ruleset(dataclasses.replace(reading, fail_open=True))
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
    reading: RulesetConfig, queues: Queues, node: Lab, server: str, family: int
) -> None:
    """When it returns, the kernel may not know yet that its pod asks. The next query and all responses reach the reader."""
    held = (ipaddress.ip_network("10.77.1.0/24"), ipaddress.ip_network("fd77:1::/64"))
    ruleset = Ruleset(dataclasses.replace(reading, pod_ranges=held))
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, server, family, port=_PORT) as flow:
        if server == NODE and reading.node_egress is NodeEgress.ALLOW:
            assert both_ways(flow)
            return
        flow.send()
        queues.workers.receive()
        assert queues.workers.states() == [PacketMark.UNKNOWN_SOURCE]
        if not reading.dns_in_prerouting or server == NODE:
            queues.workers.accept()
            flow.receive()
            await ruleset.update(dataclasses.replace(ISOLATED_AND_ASKING, known=A_EGRESS.egress))
        else:
            await ruleset.update(dataclasses.replace(ISOLATED_AND_ASKING, known=A_EGRESS.egress))
            queues.workers.accept()
            queues.pass_on(PacketMark.PENDING_ORIGINAL)  # behind routing
            flow.receive()
        flow.answer()
        queues.pass_on(PacketMark.PENDING_REPLY)
        assert flow.answered() == b"answer"
        queues.ask(flow)
        assert not is_accepted()
