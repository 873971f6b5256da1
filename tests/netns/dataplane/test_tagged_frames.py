"""Frames with VLAN tags between pods of one bridge, in a real kernel: none reaches its receiver without evaluation."""

import asyncio
import dataclasses
import select

from collections.abc import AsyncIterator, Iterator

import pytest

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet as Frame

from netpolq.dataplane import bridge_guard
from netpolq.dataplane.bridge_guard import TAGGED, BridgeGuard
from netpolq.dataplane.install import Ruleset, cleanup
from netpolq.dataplane.pod_interfaces import PodInterfaces
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.supervisor.enforcer import with_interfaces
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    DEADLINE_S,
    FAMILIES,
    LOCAL,
    NODE,
    NOT_ISOLATED,
    SILENCE_S,
    A,
    B,
    Lab,
    QueueListener,
    both_ways,
    built,
    listing,
    nft,
    run,
)

_PORT = 4001
TAGS = {
    "8021q": Dot1Q(vlan=0),
    "8021q-priority": Dot1Q(vlan=0, prio=7),
    "8021ad": Dot1AD(vlan=0),
    "doubled": Dot1Q(vlan=0) / Dot1Q(vlan=0),
    "8021ad-8021q": Dot1AD(vlan=0) / Dot1Q(vlan=0),
    "8021q-8021ad": Dot1Q(vlan=0) / Dot1AD(vlan=0),
    "tripled": Dot1Q(vlan=0) / Dot1Q(vlan=0) / Dot1Q(vlan=0),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with built("bridge") as made:
        yield made


@pytest.fixture
async def guard(node: Lab) -> AsyncIterator[BridgeGuard]:
    del node  # the fixture clears its rules
    yield BridgeGuard()
    cleanup()


async def install(ruleset: Ruleset, guard: BridgeGuard, sets: IsolatedSets) -> PodInterfaces:
    """Install the ruleset and the guard's table, like the supervisor."""
    found = await with_interfaces(dataclasses.replace(sets, local=LOCAL))
    await guard.keep(found.interfaces)
    assert guard.problem is None
    await ruleset.install(found)
    return found.interfaces


def send(node: Lab, family: int, tags: Frame) -> None:
    """Send a frame from pod a to pod b as raw bytes."""
    packet = (IP if family == 4 else IPv6)(src=ADDRESS[A, family], dst=ADDRESS[B, family])
    payload = packet / UDP(sport=_PORT, dport=_PORT) / b"hello"
    node.send_frame(A, bytes(Ether(src=node.hardware_address(A), dst=node.hardware_address(B)) / tags / payload))


def arrives(node: Lab, family: int, tags: Frame) -> bool:
    with node.udp(B, family, _PORT) as receiver:
        send(node, family, tags)
        return bool(select.select([receiver], [], [], SILENCE_S)[0])


@FAMILIES
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
async def test_a_receiver_treats_such_frames_as_untagged(node: Lab, family: int, tags: Frame) -> None:
    """Without a ruleset each of these frames arrives. The other tests show that the ruleset prevents it."""
    assert arrives(node, family, tags)


@FAMILIES
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
@pytest.mark.parametrize("tags", TAGS.values(), ids=TAGS)
async def test_none_passes_an_isolation(
    ruleset: Ruleset, guard: BridgeGuard, node: Lab, tags: Frame, sets: IsolatedSets, family: int
) -> None:
    await install(ruleset, guard, sets)
    assert not arrives(node, family, tags)
    assert await guard.counters() == {TAGGED: 1}


async def test_frames_of_a_vlan_are_left_alone(ruleset: Ruleset, guard: BridgeGuard, node: Lab) -> None:
    """They reach no address of a pod, and may belong to a network that no policy concerns."""
    await install(ruleset, guard, B_INGRESS)
    for tags in (Dot1Q(vlan=5), Dot1AD(vlan=5), Dot1Q(vlan=5) / Dot1Q(vlan=0)):
        assert not arrives(node, 4, tags)
    assert await guard.counters() == {TAGGED: 0}


@FAMILIES
async def test_untagged_frames_pass(ruleset: Ruleset, guard: BridgeGuard, node: Lab, family: int) -> None:
    await install(ruleset, guard, NOT_ISOLATED)
    for client, server in ((A, B), (B, A), (NODE, A)):
        with node.udp_flow(client, server, family) as flow:
            assert both_ways(flow)


async def test_a_new_port_is_guarded_and_the_table_stays_the_same(ruleset: Ruleset, guard: BridgeGuard, node: Lab) -> None:
    before = await install(ruleset, guard, B_INGRESS)
    table = run("nft", "-a", "list", "chain", "bridge", "netpolq", "drop_tagged")
    run("ip", "link", "add", "another", "type", "veth", "peer", "end")
    try:
        run("ip", "link", "set", "another", "master", "pods")
        after = await install(ruleset, guard, B_INGRESS)
        assert len(after.bridge_ports) == len(before.bridge_ports) + 1
        assert '"another"' in run("nft", "list", "set", "bridge", "netpolq", "pod_bridge_ports")
    finally:
        run("ip", "link", "delete", "another")
    assert await install(ruleset, guard, B_INGRESS) == before
    assert "another" not in run("nft", "list", "set", "bridge", "netpolq", "pod_bridge_ports")
    assert run("nft", "-a", "list", "chain", "bridge", "netpolq", "drop_tagged") == table


async def test_waiting_packets_survive_the_guard_of_a_later_agent(
    ruleset: Ruleset, guard: BridgeGuard, listener: QueueListener, node: Lab
) -> None:
    interfaces = await install(ruleset, guard, B_INGRESS)
    with node.udp_flow(A, B) as flow:
        flow.send()
        listener.receive()
        later = BridgeGuard()
        await later.keep(interfaces)
        assert later.problem is None
        listener.accept()
        flow.receive()
    assert "drop_tagged" in run("nft", "list", "table", "bridge", "netpolq")


async def test_a_later_agent_removes_what_else_is_in_the_table(ruleset: Ruleset, guard: BridgeGuard) -> None:
    interfaces = await install(ruleset, guard, B_INGRESS)
    nft("add chain bridge netpolq other { type filter hook forward priority 5; }")
    later = BridgeGuard()
    await later.keep(interfaces)
    assert later.problem is None
    assert "other" not in run("nft", "list", "table", "bridge", "netpolq")


@pytest.mark.parametrize(
    "damage",
    [
        "delete table bridge netpolq",
        "flush ruleset",
        "flush chain bridge netpolq drop_tagged",
        "flush set bridge netpolq pod_bridge_ports",
        "insert rule bridge netpolq drop_tagged accept",
        "add table bridge netpolq { flags dormant; }",
    ],
)
async def test_foreign_changes_are_restored_and_logged(
    ruleset: Ruleset, guard: BridgeGuard, node: Lab, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    interfaces = await install(ruleset, guard, B_INGRESS)
    nft(damage)
    await guard.keep(interfaces)
    assert not arrives(node, 4, TAGS["8021q"])
    assert "another process changed table bridge netpolq" in caplog.text


async def test_it_is_a_problem_until_the_table_is_in_place(guard: BridgeGuard, node: Lab) -> None:
    del node
    interfaces = (await with_interfaces(dataclasses.replace(NOT_ISOLATED, local=LOCAL))).interfaces
    running = asyncio.create_task(guard.run())
    try:
        guard.want(interfaces)
        problems = [guard.problem]
        async with asyncio.timeout(DEADLINE_S):
            while guard.problem is not None:  # noqa: ASYNC110  # operators read the problem; no task waits for it
                await asyncio.sleep(0.01)
        assert problems == ["VLAN-tagged frames between pods on a bridge are not dropped yet"]
        assert TAGGED in await guard.counters()
        guard.want(PodInterfaces())
        async with asyncio.timeout(DEADLINE_S):
            while "table bridge" in listing():  # noqa: ASYNC110  # another process changes it
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


async def test_without_pods_on_a_bridge_there_is_no_table(ruleset: Ruleset, guard: BridgeGuard, node: Lab) -> None:
    """A table that an earlier agent left is removed."""
    del node
    await install(ruleset, guard, B_INGRESS)
    await BridgeGuard().keep(PodInterfaces())
    assert "table bridge" not in listing()
    assert not bridge_guard.remove()


async def test_cleanup_removes_the_table(ruleset: Ruleset, guard: BridgeGuard, node: Lab) -> None:
    del node
    await install(ruleset, guard, B_INGRESS)
    assert cleanup() == ["nftables table inet netpolq", "nftables table bridge netpolq"]
    assert listing() == ""


async def test_a_kernel_that_refuses_the_table_is_a_problem_of_the_agent(
    guard: BridgeGuard, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("refusing")
    (folder / "nft").write_text(
        "#!/bin/sh\necho 'Error: Could not process rule: Operation not supported' >&2\nexit 1\n", encoding="ascii"
    )
    (folder / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    await guard.keep(PodInterfaces(bridge_ports=frozenset([1])))
    assert guard.problem is not None
    assert "VLAN-tagged frames between pods on a bridge are not dropped" in guard.problem
    assert "Operation not supported" in guard.problem
