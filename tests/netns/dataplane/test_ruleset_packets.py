"""The packets between a node and its pods that the ruleset queues for evaluation in a real kernel, and their verdicts."""

import contextlib
import dataclasses
import socket

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from netpolq.enums import NodeEgress, PacketMark
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    DEADLINE_S,
    FAMILIES,
    MARK_MASK,
    NODE,
    NOT_ISOLATED,
    A,
    B,
    Lab,
    MovingListener,
    QueueListener,
    both_ways,
    counted,
    nft,
    queued,
    run,
    without_verdict,
)

_FOREIGN_BITS = 0x0000C001  # kube-proxy's and one more


# Which packets are evaluated.


@FAMILIES
@pytest.mark.parametrize("dropped", [(), (0,), (2,), (0, 1), (0, 1, 2)], ids=str)
async def test_drops_and_accepts_of_one_message_are_those_of_their_packets(
    ruleset: Ruleset, waiting: MovingListener, node: Lab, family: int, dropped: tuple[int, ...]
) -> None:
    """Also where the last packet is dropped: the accept of all up to its id must not reach it."""
    await ruleset.install(B_INGRESS)
    with contextlib.ExitStack() as stack:
        flows = [stack.enter_context(node.udp_flow(A, B, family)) for _ in range(3)]
        for flow in flows:
            flow.send()
        waiting.receive(3)
        waiting.answer_at_once(dropped)
        for index, flow in enumerate(flows):
            if index not in dropped:
                assert flow.receive() == b"hello"
                flow.answer()
                assert flow.answered() == b"answer"
        assert all(flows[index].server_receives_nothing() for index in dropped)
    assert await without_verdict(ruleset) == 0


@FAMILIES
async def test_pods_that_are_not_isolated_are_left_alone(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, B, family) as flow:
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 0


@FAMILIES
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_only_the_isolated_direction_is_evaluated(ruleset: Ruleset, node: Lab, sets: IsolatedSets, family: int) -> None:
    await ruleset.install(sets)
    with node.udp_flow(B, A, family) as flow:
        assert both_ways(flow)
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        assert flow.server_receives_nothing()


@FAMILIES
async def test_fail_open_accepts_and_counts_packets_without_a_verdict(config: RulesetConfig, node: Lab, family: int) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B, family) as flow:
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 2


async def test_fail_closed_drops_and_counts_packets_that_return_from_the_queue_without_an_acceptance(
    ruleset: Ruleset, listener: QueueListener, node: Lab
) -> None:
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B) as flow:
        flow.send()
        listener.receive()
        listener.waiting.pop().accept()
        assert await without_verdict(ruleset) == 1
        assert flow.server_receives_nothing()


@FAMILIES
async def test_an_accepted_connection_is_evaluated_once(
    ruleset: Ruleset, listener: QueueListener, node: Lab, family: int
) -> None:
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        listener.receive()
        assert listener.states() == [PacketMark.PENDING_ORIGINAL]
        listener.accept()
        flow.receive()
        flow.answer()
        flow.answered()
        assert both_ways(flow)
    assert queued() == 1


@FAMILIES
async def test_udp_that_is_never_answered_is_evaluated_once(
    ruleset: Ruleset, listener: QueueListener, node: Lab, family: int
) -> None:
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        listener.receive()
        listener.accept()
        flow.receive()
        for _ in range(10):
            flow.send()
            flow.receive()
    assert queued() == 1


async def test_a_refused_connection_stays_refused_in_both_directions(
    ruleset: Ruleset, listener: QueueListener, node: Lab
) -> None:
    """Also when it was open before the pod was isolated; its replies are queued as replies."""
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, B) as flow:
        assert both_ways(flow)
        await ruleset.update(B_INGRESS)
        flow.answer()
        listener.receive()
        assert listener.states() == [PacketMark.PENDING_REPLY]
        listener.drop()
        flow.send()
        listener.receive()
        assert listener.states() == [PacketMark.PENDING_ORIGINAL]
        listener.drop()
        assert flow.client_receives_nothing()
        assert flow.server_receives_nothing()


async def test_an_answer_that_is_accepted_has_its_connection_accepted(
    ruleset: Ruleset, listener: QueueListener, node: Lab
) -> None:
    await ruleset.install(NOT_ISOLATED)
    with node.udp_flow(A, B) as flow:
        assert both_ways(flow)
        await ruleset.update(B_INGRESS)
        flow.answer()
        listener.receive()
        listener.accept()
        assert flow.answered() == b"answer"
        assert both_ways(flow)
    assert queued() == 1


async def test_packets_without_a_connection_are_evaluated_one_by_one(
    ruleset: Ruleset, listener: QueueListener, node: Lab
) -> None:
    nft("""
        add table ip probe
        add chain ip probe raw { type filter hook prerouting priority -300; }
        add rule ip probe raw notrack
    """)
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B) as flow:
        for _ in range(3):
            flow.send()
            listener.receive()
            assert listener.states() == [PacketMark.PENDING_ORIGINAL]
            listener.accept()
            flow.receive()
    assert queued() == 3


# The own node.


@FAMILIES
async def test_the_node_reaches_isolated_pods_while_no_worker_evaluates(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(IsolatedSets(ingress=A_EGRESS.egress | B_INGRESS.ingress, egress=A_EGRESS.egress | B_INGRESS.ingress))
    node.forget_neighbours()
    for pod in (A, B):
        with node.udp_flow(NODE, pod, family) as flow:
            assert both_ways(flow)
            assert both_ways(flow)
    assert await without_verdict(ruleset) == 0


@FAMILIES
async def test_a_pod_reaches_its_node_only_when_evaluated(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, NODE, family) as flow:
        flow.send()
        assert flow.server_receives_nothing()
        listener = QueueListener()
        try:
            flow.send()
            listener.receive()
            listener.accept()
            flow.receive()
            flow.answer()
            flow.answered()
            assert both_ways(flow)
        finally:
            listener.close()


@FAMILIES
async def test_node_egress_allow_lets_pods_reach_their_node_without_evaluation(
    config: RulesetConfig, node: Lab, family: int
) -> None:
    ruleset = Ruleset(dataclasses.replace(config, node_egress=NodeEgress.ALLOW))
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, NODE, family) as flow:
        assert both_ways(flow)
    assert await without_verdict(ruleset) == 0


async def test_answers_that_inherit_a_packets_mark_are_still_the_nodes_own(config: RulesetConfig, node: Lab) -> None:
    """With fwmark_reflect the reset of a closed port carries the mark that the request had when it was delivered."""
    ruleset = Ruleset(dataclasses.replace(config, node_egress=NodeEgress.ALLOW))
    run("sysctl", "-qw", "net.ipv4.fwmark_reflect=1")
    try:
        await ruleset.install(A_EGRESS)
        with node.inside(A), pytest.raises(ConnectionRefusedError):
            socket.create_connection((ADDRESS[NODE, 4], 9), timeout=DEADLINE_S)
    finally:
        run("sysctl", "-qw", "net.ipv4.fwmark_reflect=0")


# Marks.


async def test_foreign_bits_pass_through_and_none_of_ours_remain(
    config: RulesetConfig, node: Lab, listener: QueueListener
) -> None:
    """For packets that are accepted, without a verdict, that need no evaluation, and that the node sends."""
    _probe_marks()
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B) as flow:
        flow.send()
        listener.receive()
        assert listener.waiting[0].get_mark() & ~MARK_MASK == _FOREIGN_BITS
        listener.accept()
        flow.receive()
    listener.close()
    with node.udp_flow(A, B) as flow:
        flow.send()
        flow.receive()
    with node.udp_flow(B, A) as flow:
        flow.send()
        flow.receive()
    with node.udp_flow(NODE, A) as flow:
        flow.send()
        flow.receive()
    assert (counted("kept"), counted("seen")) == (4, 4)


def _probe_marks() -> None:
    """Set foreign bits on every incoming packet, and count the packets that leave with exactly these bits."""
    nft(f"""
        add table ip probe
        add counter ip probe kept
        add counter ip probe seen
        add chain ip probe forwarded {{ type filter hook prerouting priority -300; }}
        add rule ip probe forwarded meta mark set {_FOREIGN_BITS:#x}
        add chain ip probe own {{ type filter hook output priority -300; }}
        add rule ip probe own meta mark set {_FOREIGN_BITS:#x}
        add chain ip probe leaving {{ type filter hook postrouting priority 300; }}
        add rule ip probe leaving meta l4proto udp meta mark {_FOREIGN_BITS:#x} counter name kept
        add rule ip probe leaving meta l4proto udp counter name seen
    """)


@pytest.mark.parametrize("state", range(8))
async def test_a_state_that_other_software_sets_in_the_mark_has_no_effect(ruleset: Ruleset, node: Lab, state: int) -> None:
    nft(f"""
        add table ip probe
        add chain ip probe early {{ type filter hook prerouting priority -300; }}
        add rule ip probe early meta mark set {state << 16:#x}
    """)
    await ruleset.install(A_EGRESS)
    with node.udp_flow(B, A) as flow:
        assert both_ways(flow)
    with node.udp_flow(A, B) as flow:
        flow.send()
        assert flow.server_receives_nothing()


# DNS before routing.


async def test_dns_is_evaluated_before_routing_and_only_once(config: RulesetConfig, listener: QueueListener, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, dns_in_prerouting=True))
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B, port=53) as flow:
        flow.send()
        listener.receive()
        assert [packet.hook for packet in listener.waiting] == [0]
        listener.accept()
        flow.receive()
        flow.answer()
        flow.answered()
        assert both_ways(flow)
    assert queued() == 1


async def test_dns_to_the_own_node_is_not_queued_when_node_egress_is_allowed(config: RulesetConfig, node: Lab) -> None:
    config = dataclasses.replace(config, dns_in_prerouting=True, node_egress=NodeEgress.ALLOW)
    ruleset = Ruleset(config)
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, NODE, port=53) as flow:
        assert both_ways(flow)
    with node.udp_flow(A, B, port=53) as flow:
        flow.send()
        assert flow.server_receives_nothing()


async def test_dns_without_a_verdict_is_dropped_before_routing_in_fail_closed(config: RulesetConfig, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, dns_in_prerouting=True))
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B, port=53) as flow:
        flow.send()
        assert flow.server_receives_nothing()
    with node.udp_flow(B, A, port=53) as flow:
        assert both_ways(flow)


# Connections that belong to other connections.


async def test_an_expected_connection_is_evaluated_like_any_other(ruleset: Ruleset, listener: QueueListener, node: Lab) -> None:
    """A conntrack helper expects it (FTP, SIP); the kernel copies the connection mark of the master connection, not the label."""
    nft(f"""
        table inet probe {{
            counter announced {{
            }}
            ct expectation data {{
                protocol udp
                dport 50000
                timeout 1m
                size 8
                l3proto ip
            }}
            chain announcing {{
                type filter hook forward priority 0
                ip saddr {ADDRESS[A, 4]} udp dport 2121 ct mark set 0x1000 ct expectation set "data"
                udp dport 50000 ct state related ct mark 0x1000 counter name announced
            }}
        }}
    """)
    await ruleset.install(IsolatedSets(ingress=A_EGRESS.egress, egress=A_EGRESS.egress))
    with node.udp_flow(A, B, port=2121) as master, node.udp_flow(B, A, port=50000) as data:
        master.send()
        listener.receive()
        listener.accept()
        master.receive()
        data.send()
        listener.receive()
        assert listener.states() == [PacketMark.PENDING_ORIGINAL]
        assert "packets 1 " in run("nft", "list", "counter", "inet", "probe", "announced")
        listener.drop()
        assert data.server_receives_nothing()


async def test_errors_about_an_accepted_connection_pass(ruleset: Ruleset, listener: QueueListener, node: Lab) -> None:
    await ruleset.install(A_EGRESS)
    with node.udp(A, 4) as client:
        client.connect((ADDRESS[B, 4], 9))  # no server there
        client.send(b"hello")
        listener.receive()
        listener.accept()
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
