"""New connections of addresses that should be those of pods, but are not known, in a real kernel: which wait, and what follows."""

import dataclasses
import socket

import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import CACHE_LOOKUPS, RulesetConfig
from netpolq.enums import ConnectionLabel, NodeEgress, PacketMark
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    CT_LABEL,
    DEADLINE_S,
    FAMILIES,
    LOCAL,
    NODE,
    NOT_ISOLATED,
    OUTSIDE,
    POD_RANGES,
    SILENCE_S,
    A,
    B,
    Lab,
    MovingListener,
    both_ways,
    counted,
    nft,
    run,
    without_verdict,
)
from tests.netns.dataplane.test_foreign_marks import MARKS, flows, mark_forwarded, marked

POD_INTERFACES = ("pod-a", "pod-b*")
KNOWN = dataclasses.replace(NOT_ISOLATED, known=LOCAL)
A_KNOWN = dataclasses.replace(NOT_ISOLATED, known=A_EGRESS.egress)


@pytest.fixture(params=["ranges", "interfaces"])
def holding(config: RulesetConfig, request: pytest.FixtureRequest) -> RulesetConfig:
    """A configuration with the pods in ranges, and one with the pods at interfaces."""
    if request.param == "ranges":
        return dataclasses.replace(config, pod_ranges=POD_RANGES)
    return dataclasses.replace(config, pod_interfaces=POD_INTERFACES)


@pytest.fixture(autouse=True)
def no_connections(node: Lab) -> None:
    """The labels are those of this test."""
    del node
    run("conntrack", "--flush")


def has_label(bit: ConnectionLabel) -> bool:
    """Whether a connection has the bit, which is cleared."""
    return bool(clear_accepted(CT_LABEL + bit).cleared)


# Which packets wait.


@FAMILIES
@pytest.mark.parametrize(
    ("client", "server", "state"),
    [
        (A, OUTSIDE, PacketMark.UNKNOWN_SOURCE),
        (OUTSIDE, B, PacketMark.UNKNOWN_DESTINATION),
        (A, B, PacketMark.UNKNOWN_BOTH),
        (A, NODE, PacketMark.UNKNOWN_SOURCE),
    ],
)
async def test_the_mark_tells_which_end_is_unknown(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, client: str, server: str, state: PacketMark, family: int
) -> None:
    """An accepted connection is queued once, and its replies are left alone."""
    await Ruleset(holding).install(NOT_ISOLATED)
    node.forget_neighbours()
    with node.udp_flow(client, server, family) as flow:
        flow.send()
        waiting.receive()
        assert waiting.states() == [state]
        waiting.accept()
        flow.receive()
        flow.answer()
        assert flow.answered() == b"answer"
        assert both_ways(flow)
        assert waiting.seen == 1
        assert has_label(ConnectionLabel.HELD)
        assert has_label(ConnectionLabel.ACCEPTED)


@FAMILIES
@pytest.mark.parametrize("server", [B, NODE])
async def test_of_a_tcp_connection_only_the_first_packet_waits(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, server: str, family: int
) -> None:
    await Ruleset(holding).install(NOT_ISOLATED)
    version = socket.AF_INET if family == 4 else socket.AF_INET6
    with node.inside(server):
        listening = socket.create_server(("", 0), family=version, dualstack_ipv6=False)
    with node.inside(A):
        client = socket.socket(version)
    with listening, client:
        listening.settimeout(DEADLINE_S)
        client.setblocking(False)
        assert client.connect_ex((ADDRESS[server, family], listening.getsockname()[1])) != 0
        waiting.receive()
        waiting.accept()
        accepted, _ = listening.accept()
        with accepted:
            client.settimeout(DEADLINE_S)
            accepted.send(b"from the server")
            assert client.recv(100) == b"from the server"
            client.send(b"from the client")
            assert accepted.recv(100) == b"from the client"
    waiting.poll()
    assert waiting.seen == 1


@FAMILIES
async def test_packets_of_known_pods_and_of_the_node_are_never_queued(holding: RulesetConfig, node: Lab, family: int) -> None:
    ruleset = Ruleset(holding)
    await ruleset.install(KNOWN)
    for client, server in ((A, B), (A, OUTSIDE), (OUTSIDE, B), (A, NODE), (NODE, B)):
        with node.udp_flow(client, server, family) as flow:
            assert both_ways(flow)
    await ruleset.update(NOT_ISOLATED)
    with node.udp_flow(NODE, B, family) as flow:
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 0


@FAMILIES
async def test_a_known_end_does_not_wait_for_itself(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, family: int
) -> None:
    await Ruleset(holding).install(A_KNOWN)
    with node.udp_flow(A, B, family) as there, node.udp_flow(B, A, family) as back:
        there.send()
        back.send()
        waiting.receive(2)
        assert waiting.states() == [PacketMark.UNKNOWN_DESTINATION, PacketMark.UNKNOWN_SOURCE]


@FAMILIES
async def test_the_packet_of_an_isolated_pod_waits_for_its_peer_too(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, family: int
) -> None:
    """Before it is looked up in the verdict cache."""
    ruleset = Ruleset(dataclasses.replace(holding, verdict_cache=True))
    await ruleset.install(dataclasses.replace(A_KNOWN, egress=A_EGRESS.egress, ingress=B_INGRESS.ingress))
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        waiting.receive()
        assert waiting.states() == [PacketMark.UNKNOWN_DESTINATION]
    assert (await ruleset.counters())[CACHE_LOOKUPS] == 0


@FAMILIES
@pytest.mark.parametrize(
    ("client", "server", "isolated"),
    [(A, B, A), (A, B, B), (A, OUTSIDE, A), (A, OUTSIDE, OUTSIDE), (OUTSIDE, B, B), (OUTSIDE, B, OUTSIDE)],
)
async def test_an_unisolated_end_hides_no_isolated_one(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, client: str, server: str, isolated: str, family: int
) -> None:
    """Also if the isolated one is outside of all ranges and interfaces, and not among the known ones."""
    address = frozenset({parse_address(ADDRESS[isolated, family])})
    of_client, of_server = (address, frozenset()) if isolated == client else (frozenset(), address)
    ruleset = Ruleset(holding)
    await ruleset.install(KNOWN)
    for number in (1, 2):
        with node.udp_flow(client, server, family) as flow:
            await ruleset.update(dataclasses.replace(KNOWN, egress=of_client, ingress=of_server))
            flow.send()
            waiting.receive()
            assert waiting.states() == [PacketMark.PENDING_ORIGINAL]
            waiting.accept()
            flow.receive()
        await ruleset.update(KNOWN)
        with node.udp_flow(client, server, family) as flow:
            assert both_ways(flow)
        assert waiting.seen == number


@FAMILIES
async def test_connections_that_exist_do_not_wait(holding: RulesetConfig, node: Lab, family: int) -> None:
    ruleset = Ruleset(holding)
    await ruleset.install(KNOWN)
    with node.udp_flow(A, B, family) as flow:
        assert both_ways(flow)
        await ruleset.update(NOT_ISOLATED)
        assert both_ways(flow)


async def test_with_node_egress_allow_nothing_waits_on_the_way_to_the_node(holding: RulesetConfig, node: Lab) -> None:
    await Ruleset(dataclasses.replace(holding, node_egress=NodeEgress.ALLOW)).install(NOT_ISOLATED)
    with node.udp_flow(A, NODE) as flow:
        assert both_ways(flow)


async def test_addresses_that_no_pod_has_do_not_wait(holding: RulesetConfig, waiting: MovingListener, node: Lab) -> None:
    """Link-local ones; no address yet, as for DHCP; multicast."""
    await Ruleset(holding).install(NOT_ISOLATED)
    target = node.link_local(NODE, "pod-a")
    with node.udp(A, 6) as near, node.udp(NODE, 6) as far, node.udp(NODE, 4, 67) as server, node.inside(A):
        far.settimeout(DEADLINE_S)
        near.sendto(b"link-local", (target, far.getsockname()[1], 0, socket.if_nametoindex("eth0")))
        assert far.recv(100) == b"link-local"
        node.send_frame(A, _discover(node))
        assert server.recv(100) == b"discover"
    waiting.poll(SILENCE_S)
    assert not waiting.waiting


def _discover(node: Lab) -> bytes:
    """A broadcast frame from 0.0.0.0 to the port of DHCP servers."""
    payload = b"discover"
    udp = (68).to_bytes(2) + (67).to_bytes(2) + (8 + len(payload)).to_bytes(2) + bytes(2) + payload
    header = bytes.fromhex("4500") + (20 + len(udp)).to_bytes(2) + bytes.fromhex("000000004011") + bytes(6) + b"\xff" * 4
    total = sum(int.from_bytes(header[at : at + 2]) for at in range(0, 20, 2))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    sender = bytes.fromhex(node.hardware_address(A).replace(":", ""))
    return b"\xff" * 6 + sender + b"\x08\x00" + header[:10] + checksum.to_bytes(2) + header[12:] + udp


# Behind the queue.


@FAMILIES
@marked
async def test_a_packet_that_waited_leaves_with_its_mark(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, marking: str, family: int
) -> None:
    """Also when its addresses have become known meanwhile, and no policy isolates them. So do later packets."""
    ruleset = Ruleset(holding)
    await ruleset.install(NOT_ISOLATED)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows[::2]:
            flow.send()
        waiting.receive(len(MARKS) // 2)
        waiting.accept()
        for flow in marked_flows[::2]:
            flow.receive()
        for flow in marked_flows[1::2]:
            flow.send()
        waiting.receive(len(MARKS) // 2)
        await ruleset.update(KNOWN)
        waiting.accept()
        for flow in marked_flows[1::2]:
            flow.receive()
        assert counted("kept", family) == len(MARKS)
        for flow in marked_flows:
            flow.send(b"again")
            flow.receive()
        assert counted("kept", family) == 2 * len(MARKS)
    waiting.poll()
    assert not waiting.waiting


@FAMILIES
@marked
async def test_a_flow_of_known_pods_keeps_its_mark(holding: RulesetConfig, node: Lab, marking: str, family: int) -> None:
    await Ruleset(holding).install(KNOWN)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
            flow.receive()
    assert counted("kept", family) == len(MARKS)


@FAMILIES
@pytest.mark.parametrize("becomes_known", [False, True])
@pytest.mark.parametrize("server", [B, NODE])
@pytest.mark.parametrize(
    "state",
    [
        PacketMark.UNKNOWN_SOURCE,
        PacketMark.UNKNOWN_DESTINATION,
        PacketMark.UNKNOWN_BOTH,
        PacketMark.PENDING_ORIGINAL,
        PacketMark.PENDING_NAMES,
    ],
)
async def test_fail_closed_drops_and_counts_what_returns_without_a_verdict(
    holding: RulesetConfig,
    waiting: MovingListener,
    node: Lab,
    state: PacketMark,
    server: str,
    family: int,
    *,
    becomes_known: bool,
) -> None:
    ruleset = Ruleset(holding)
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, server, family) as flow:
        flow.send()
        waiting.receive()
        if becomes_known:
            await ruleset.update(KNOWN)
        waiting.accept(state)
        assert await without_verdict(ruleset) == 1
        assert flow.server_receives_nothing()


@FAMILIES
@marked
async def test_fail_open_passes_and_counts_what_returns_without_a_verdict(
    holding: RulesetConfig, node: Lab, marking: str, family: int
) -> None:
    """With its mark, and without acceptance."""
    ruleset = Ruleset(dataclasses.replace(holding, fail_open=True))
    await ruleset.install(NOT_ISOLATED)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
            flow.receive()
    assert await without_verdict(ruleset) == len(MARKS)
    assert counted("kept", family) == len(MARKS)
    assert not has_label(ConnectionLabel.ACCEPTED)


@FAMILIES
@pytest.mark.parametrize("server", [B, NODE])
async def test_a_packet_that_moved_to_another_queue_is_accepted_there(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, server: str, family: int
) -> None:
    await Ruleset(holding).install(NOT_ISOLATED)
    other = MovingListener(300)
    try:
        with node.udp_flow(A, server, family) as flow:
            flow.send()
            waiting.receive()
            before = waiting.states()
            waiting.move(300, before[0])
            other.receive()
            assert other.states() == before
            other.accept()
            flow.receive()
            flow.answer()
            assert flow.answered() == b"answer"
            assert has_label(ConnectionLabel.ACCEPTED)
    finally:
        other.close()


async def test_a_refused_connection_is_held_again(holding: RulesetConfig, waiting: MovingListener, node: Lab) -> None:
    await Ruleset(holding).install(NOT_ISOLATED)
    with node.udp_flow(A, B) as flow:
        for _ in range(2):
            flow.send()
            waiting.receive()
            waiting.drop()
        assert flow.server_receives_nothing()


async def test_a_packet_without_a_connection_waits_and_leaves_no_state_in_its_mark(
    holding: RulesetConfig, waiting: MovingListener, node: Lab
) -> None:
    nft("""
        add table ip probe
        add counter ip probe clean
        add chain ip probe raw { type filter hook prerouting priority -300; }
        add rule ip probe raw notrack
        add chain ip probe leaving { type filter hook postrouting priority 100; }
        add rule ip probe leaving meta mark 0 counter name clean
    """)
    await Ruleset(holding).install(NOT_ISOLATED)
    with node.udp_flow(A, B) as flow:
        for number in (1, 2):
            flow.send()
            waiting.receive()
            assert waiting.states() == [PacketMark.UNKNOWN_BOTH]
            waiting.accept()
            flow.receive()
            assert counted("clean") == number


# DNS before routing.


@FAMILIES
@pytest.mark.parametrize(
    ("known", "state"),
    [
        (frozenset[bytes](), PacketMark.UNKNOWN_BOTH),
        (A_EGRESS.egress, PacketMark.UNKNOWN_DESTINATION),
        (B_INGRESS.ingress, PacketMark.UNKNOWN_SOURCE),
    ],
)
async def test_dns_waits_before_routing_and_only_there(
    holding: RulesetConfig, waiting: MovingListener, node: Lab, known: frozenset[bytes], state: PacketMark, family: int
) -> None:
    """Its output interface is found in the routing table."""
    await Ruleset(dataclasses.replace(holding, dns_in_prerouting=True)).install(dataclasses.replace(NOT_ISOLATED, known=known))
    with node.udp_flow(A, B, family, port=53) as flow:
        flow.send()
        waiting.receive()
        assert [(packet.hook, state) for packet in waiting.waiting] == [(0, state)]
        assert waiting.states() == [state]
        waiting.accept()
        flow.receive()
        flow.answer()
        assert flow.answered() == b"answer"
        assert waiting.seen == 1
