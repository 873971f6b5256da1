"""Spoofed first packets, in a real kernel: a connection that begins with one is unusable in the reply direction."""

import dataclasses
import select
import socket

from collections.abc import Iterator

import pytest

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Frame

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import SPOOFED, IsolatedSets
from netpolq.enums import PacketMark
from netpolq.supervisor.enforcer import with_interfaces
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    FAMILIES,
    LOCAL,
    NODE,
    NOT_ISOLATED,
    OUTSIDE,
    SILENCE_S,
    A,
    B,
    Lab,
    Layout,
    QueueListener,
    both_ways,
    built,
    nft,
    run,
)

_NEAR, _FAR = 4001, 4002
_TRANSPORTS = pytest.mark.parametrize("transport", [UDP, TCP], ids=["udp", "tcp"])
_RP_FILTER = pytest.mark.parametrize("rp_filter", [0, 1, 2])
BOTH = IsolatedSets(ingress=A_EGRESS.egress | B_INGRESS.ingress, egress=A_EGRESS.egress | B_INGRESS.ingress)


@pytest.fixture(scope="module", params=["veth", "ptp"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    layout: Layout = request.param
    with built(layout) as made:
        for pod in (A, B, OUTSIDE):
            with made.inside(pod):
                # An attacker's pod does not reset the connections that it opens with forged sources.
                nft("add table inet mute; add chain inet mute out { type filter hook output priority 0; }")
                nft("add rule inet mute out tcp flags rst drop")
        yield made


@pytest.fixture(autouse=True)
def fresh(node: Lab) -> None:
    """Remove the connections of earlier tests."""
    run("conntrack", "-F")


async def install(ruleset: Ruleset, sets: IsolatedSets) -> None:
    """Install like the supervisor: with all local pods, and the interfaces that lead to them."""
    await ruleset.install(await with_interfaces(dataclasses.replace(sets, local=LOCAL)))


def send(lab: Lab, pod: str, frame: Frame) -> None:
    """Send a packet from the interface of a pod to the node's hardware address."""
    lab.send_frame(pod, bytes(Ether(dst=lab.hardware_address(NODE, f"pod-{pod}"), src=lab.hardware_address(pod)) / frame))


def packet(family: int, source: str, destination: str, *, hops: int = 64) -> Frame:
    if family == 4:
        return IP(src=source, dst=destination, ttl=hops)
    return IPv6(src=source, dst=destination, hlim=hops)


def opening(transport: type[Frame], sport: int, dport: int) -> Frame:
    return TCP(sport=sport, dport=dport, flags="S") if transport is TCP else UDP(sport=sport, dport=dport)


def set_rp_filter(lab: Lab, value: int) -> None:
    """Let the kernel check sources of IPv4 packets by routes itself (1, 2) or not (0)."""
    lab.sysctl(NODE, *(f"net.ipv4.conf.{name}.rp_filter={value}" for name in ("all", "pod-a", "pod-b", "pod-outside")))


async def spoof(
    lab: Lab, family: int, transport: type[Frame], *, by: str, as_: str, to: str, then_from: str, then_to: str
) -> None:
    """Open a connection with a false source, and send what would be its reply."""
    send(lab, by, packet(family, ADDRESS[as_, family], ADDRESS[to, family]) / opening(transport, _FAR, _NEAR))
    send(lab, then_from, packet(family, ADDRESS[then_from, family], ADDRESS[then_to, family]) / opening(transport, _NEAR, _FAR))


@FAMILIES
@_TRANSPORTS
@_RP_FILTER
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS, BOTH], ids=["egress", "ingress", "both"])
async def test_a_pod_does_not_answer_a_connection_that_it_opened_itself_in_the_name_of_another(
    ruleset: Ruleset, listener: QueueListener, node: Lab, sets: IsolatedSets, rp_filter: int, transport: type[Frame], family: int
) -> None:
    set_rp_filter(node, rp_filter)
    await install(ruleset, sets)
    await spoof(node, family, transport, by=A, as_=B, to=A, then_from=A, then_to=B)
    listener.receive()
    assert listener.states() == [PacketMark.PENDING_ORIGINAL]


@FAMILIES
@_TRANSPORTS
@_RP_FILTER
async def test_a_pod_does_not_answer_it_in_the_name_of_an_address_outside(
    ruleset: Ruleset, listener: QueueListener, node: Lab, rp_filter: int, transport: type[Frame], family: int
) -> None:
    set_rp_filter(node, rp_filter)
    await install(ruleset, A_EGRESS)
    await spoof(node, family, transport, by=A, as_=OUTSIDE, to=A, then_from=A, then_to=OUTSIDE)
    listener.receive()
    assert listener.states() == [PacketMark.PENDING_ORIGINAL]


@FAMILIES
@_TRANSPORTS
@_RP_FILTER
async def test_a_pod_does_not_answer_it_in_the_name_of_the_node(
    ruleset: Ruleset, listener: QueueListener, node: Lab, rp_filter: int, transport: type[Frame], family: int
) -> None:
    set_rp_filter(node, rp_filter)
    await install(ruleset, A_EGRESS)
    await spoof(node, family, transport, by=A, as_=NODE, to=A, then_from=A, then_to=NODE)
    listener.receive()
    assert listener.states() == [PacketMark.PENDING_ORIGINAL]


@FAMILIES
@_TRANSPORTS
@_RP_FILTER
async def test_a_neighbour_outside_does_not_open_a_connection_in_the_name_of_a_pod(
    ruleset: Ruleset, listener: QueueListener, node: Lab, rp_filter: int, transport: type[Frame], family: int
) -> None:
    set_rp_filter(node, rp_filter)
    await install(ruleset, B_INGRESS)
    await spoof(node, family, transport, by=OUTSIDE, as_=B, to=OUTSIDE, then_from=OUTSIDE, then_to=B)
    listener.receive()
    assert listener.states() == [PacketMark.PENDING_ORIGINAL]


@FAMILIES
async def test_the_node_sends_no_error_to_a_pod_in_whose_name_another_sent(ruleset: Ruleset, node: Lab, family: int) -> None:
    """Such an error would carry data of the sender past the isolation of the receiver."""
    set_rp_filter(node, 0)
    await install(ruleset, B_INGRESS)
    with node.inside(B):
        protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
        listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol)
    with listener:
        send(node, A, packet(family, ADDRESS[B, family], ADDRESS[OUTSIDE, family], hops=1) / opening(UDP, _FAR, _NEAR))
        expired = 11 if family == 4 else 3
        while select.select([listener], [], [], SILENCE_S)[0]:
            data = listener.recv(2000)
            assert data[20 if family == 4 else 0] != expired
    assert (await ruleset.counters())[SPOOFED] == 1


@FAMILIES
async def test_honest_connections_are_not_touched(ruleset: Ruleset, node: Lab, family: int) -> None:
    await install(ruleset, NOT_ISOLATED)
    for client, server in ((A, B), (B, A), (A, NODE), (NODE, A), (A, OUTSIDE), (OUTSIDE, A)):
        with node.udp_flow(client, server, family) as flow:
            assert both_ways(flow)
    assert (await ruleset.counters())[SPOOFED] == 0


@FAMILIES
async def test_the_node_reports_an_expired_packet_to_the_pod_that_sent_it(ruleset: Ruleset, node: Lab, family: int) -> None:
    await install(ruleset, B_INGRESS)
    with node.inside(B):
        protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
        listener = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol)
    with listener:
        send(node, B, packet(family, ADDRESS[B, family], ADDRESS[OUTSIDE, family], hops=1) / opening(UDP, _FAR, _NEAR))
        found = set()
        while select.select([listener], [], [], SILENCE_S)[0]:
            found.add(listener.recv(2000)[20 if family == 4 else 0])
    assert (11 if family == 4 else 3) in found
