"""Marks of other software, in a real kernel: no value opens a pod or blocks traffic, and every mark stays unchanged."""

import dataclasses
import socket
import struct

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    FAMILIES,
    NODE,
    A,
    B,
    Lab,
    QueueListener,
    UdpFlow,
    counted,
    nft,
)

_NAMED = (
    *(0x1BD10, 0x1BD20, 0x1BD21, 0x220, 42, 1337, 51820, 0x3F0, 0x1000, 0x60, 0x40, 0xB, 0xF00, 0x200, 0xFFFFFFFF, 0xB00, 0x1337),
    # Each state that the field can hold, where the agent of these tests has it, alone and beside other bits.
    *(state << 16 for state in range(1, 8)),
    *(0x0000C001 | state << 16 for state in range(1, 8)),
    *(state << 4 for state in (3, 5, 6, 7)),
    *(0xFFF8FFFF | state << 16 for state in (0, 3, 4, 5)),
)
MARKS = tuple(dict.fromkeys((*_NAMED, *(1 << bit for bit in range(32)))))[:64]
"""Marks of VPN clients, meshes, CNIs and service proxies; each single bit; and values that look like the agent's own."""

_FIRST_PORT = 20000
_BY_PORT = "udp sport map {{ {} }}".format(", ".join(f"{_FIRST_PORT + i} : {mark:#x}" for i, mark in enumerate(MARKS)))

MARKING_RULES = {
    "prerouting": ("prerouting", -300, f"meta mark set {_BY_PORT}"),
    "forward": ("forward", 0, f"meta mark set {_BY_PORT}"),
    "postrouting": ("postrouting", 0, f"meta mark set {_BY_PORT}"),
    "ct mark set": ("prerouting", -150, f"ct mark set {_BY_PORT}"),
    "ct mark restored": ("prerouting", -150, f"ct mark set {_BY_PORT} meta mark set ct mark"),
}
"""Hook, priority and statement that marks the packets of a flow by its source port."""

marked = pytest.mark.parametrize("marking", MARKING_RULES)


def mark_forwarded(marking: str) -> None:
    hook, priority, statement = MARKING_RULES[marking]
    wrong = " . ".join(("udp sport", "meta mark"))
    pairs = ", ".join(f"{_FIRST_PORT + i} . {0 if marking == 'ct mark set' else mark:#x}" for i, mark in enumerate(MARKS))
    nft(f"""
        add table inet marks
        add chain inet marks marking {{ type filter hook {hook} priority {priority}; }}
        add rule inet marks marking udp sport {_FIRST_PORT}-{_FIRST_PORT + len(MARKS) - 1} {statement}
        add table ip probe
        add counter ip probe kept
        add table ip6 probe
        add counter ip6 probe kept
        add chain ip probe leaving {{ type filter hook postrouting priority 100; }}
        add chain ip6 probe leaving {{ type filter hook postrouting priority 100; }}
        add rule ip probe leaving {wrong} {{ {pairs} }} counter name kept
        add rule ip6 probe leaving {wrong} {{ {pairs} }} counter name kept
    """)


@contextmanager
def flows(
    node: Lab, client: str, server: str, family: int, *, port: int = 0, with_so_mark: bool = False
) -> Iterator[list[UdpFlow]]:
    """A flow for each mark, by its source port; `with_so_mark`: the client's socket sets the mark itself."""
    with ExitStack() as stack:
        found = []
        far = stack.enter_context(node.udp(server, family, port))
        for number, mark in enumerate(MARKS):
            near = stack.enter_context(node.udp(client, family, _FIRST_PORT + number))
            if with_so_mark:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
            found.append(UdpFlow(near, far, (ADDRESS[server, family], far.getsockname()[1])))
        yield found


def test_there_are_enough_marks() -> None:
    assert len(MARKS) == 64


@FAMILIES
@marked
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_no_mark_opens_an_isolated_pod(
    ruleset: Ruleset, listener: QueueListener, node: Lab, sets: IsolatedSets, marking: str, family: int
) -> None:
    await ruleset.install(sets)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
        listener.receive(len(MARKS))
        listener.drop()
        assert marked_flows[0].server_receives_nothing()


@FAMILIES
@marked
async def test_a_packet_that_was_queued_leaves_with_its_mark(
    ruleset: Ruleset, listener: QueueListener, node: Lab, marking: str, family: int
) -> None:
    await ruleset.install(B_INGRESS)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
        listener.receive(len(MARKS))
        listener.accept()
        for flow in marked_flows:
            flow.receive()
        assert counted("kept", family) == len(MARKS)
        for flow in marked_flows:
            flow.send(b"again")
            flow.receive()
        assert not listener.waiting
        assert counted("kept", family) == 2 * len(MARKS)


@FAMILIES
@marked
async def test_no_mark_admits_packets_without_evaluation(config: RulesetConfig, node: Lab, marking: str, family: int) -> None:
    """In fail-closed, without any listener."""
    await Ruleset(config).install(B_INGRESS)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
        assert marked_flows[0].server_receives_nothing()


@FAMILIES
@marked
async def test_a_packet_that_passes_without_a_verdict_is_counted_and_keeps_its_mark(
    config: RulesetConfig, node: Lab, marking: str, family: int
) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(B_INGRESS)
    mark_forwarded(marking)
    with flows(node, A, B, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
            flow.receive()
    assert (await ruleset.counters())["unjudged"] == len(MARKS)
    assert counted("kept", family) == len(MARKS)


@FAMILIES
@marked
async def test_a_flow_of_no_isolated_pod_keeps_its_mark(ruleset: Ruleset, node: Lab, marking: str, family: int) -> None:
    """Rules of other software at source NAT need it."""
    await ruleset.install(A_EGRESS)
    mark_forwarded(marking)
    with flows(node, B, A, family) as marked_flows:
        for flow in marked_flows:
            flow.send()
            flow.receive()
    assert counted("kept", family) == len(MARKS)


@FAMILIES
@pytest.mark.parametrize("fail_open", [False, True])
async def test_the_node_reaches_its_pods_whatever_its_processes_mark(
    config: RulesetConfig, node: Lab, family: int, *, fail_open: bool
) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=fail_open))
    await ruleset.install(B_INGRESS)
    mark_forwarded("postrouting")
    nft("delete table inet marks")
    with flows(node, NODE, B, family, with_so_mark=True) as marked_flows:
        for flow in marked_flows:
            flow.send()
            flow.receive()
            flow.answer()
            assert flow.answered() == b"answer"
    assert (await ruleset.counters())["unjudged"] == 0
    assert counted("kept", family) == len(MARKS)
