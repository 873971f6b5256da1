"""The ruleset in a real kernel: what it does to packets between a node and its pods, and what it survives."""

import asyncio
import dataclasses
import os
import socket
import subprocess
import sys
import threading

from collections.abc import AsyncIterator, Iterator

import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane import queuestats
from netpolq.dataplane.apply import Ruleset, RulesetError, cleanup, probe
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from netpolq.enums import Dataplane, NodeEgress, PacketMark
from netpolq.errors import KernelError
from tests.netns.ruleset_lab import (
    ADDRESS,
    CT_MARK_BIT,
    DEADLINE_S,
    MARK_MASK,
    NODE,
    A,
    B,
    Judge,
    Lab,
    base_chain_handles,
    both_ways,
    counted,
    elements,
    listing,
    nft,
    run,
)

pytestmark = pytest.mark.netns

FAMILIES = pytest.mark.parametrize("family", [4, 6])
NOBODY = IsolatedSets(ingress=frozenset(), egress=frozenset())
A_EGRESS = IsolatedSets(ingress=frozenset(), egress=frozenset(parse_address(ADDRESS[A, family]) for family in (4, 6)))
B_INGRESS = IsolatedSets(ingress=frozenset(parse_address(ADDRESS[B, family]) for family in (4, 6)), egress=frozenset())
FOREIGN_BITS = 0x0000C001  # kube-proxy's and one more


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture
def node(lab: Lab) -> Iterator[Lab]:
    """The lab, with the test running on its node, without any rules."""
    with lab.inside(NODE):
        run("nft", "flush", "ruleset")
        yield lab


@pytest.fixture(scope="module")
def form(lab: Lab) -> Dataplane:
    """The form of the queue rule that this run is about; by default the one that the agent would choose."""
    with lab.inside(NODE):
        return asyncio.run(probe(Dataplane(os.environ.get("NETPOLQ_TEST_DATAPLANE", "auto"))))


@pytest.fixture
def config(form: Dataplane, node: Lab) -> RulesetConfig:
    """Fail-closed, and everything else as it is by default."""
    del node  # the test runs on the node, whose rules are cleared first
    return RulesetConfig(
        queue_first=100,
        queue_count=1,
        fanout=True,
        fail_open=False,
        mark_mask=MARK_MASK,
        ct_mark_bit=CT_MARK_BIT,
        node_egress=NodeEgress.JUDGE,
        dns_in_prerouting=False,
        form=form,
    )


@pytest.fixture
async def ruleset(config: RulesetConfig) -> AsyncIterator[Ruleset]:
    yield Ruleset(config)
    cleanup()


@pytest.fixture
def judge(node: Lab) -> Iterator[Judge]:
    made = Judge()
    yield made
    made.close()


async def unjudged(ruleset: Ruleset) -> int:
    return (await ruleset.counters())["unjudged"]


# What install, update, in_place and cleanup do to the tables.


async def test_a_first_install_is_complete(ruleset: Ruleset) -> None:
    assert not await ruleset.in_place()
    await ruleset.install(A_EGRESS)
    assert await ruleset.in_place()
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}
    assert elements("isolated_egress_v6") == {ADDRESS[A, 6]}


async def test_a_later_agent_adopts_the_base_chains_and_the_counters(config: RulesetConfig, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(B_INGRESS)
    before = base_chain_handles()
    with node.conversation(A, B) as flow:
        flow.say()
        flow.heard()
    later = Ruleset(dataclasses.replace(config, queue_first=200, queue_count=4))
    await later.install(A_EGRESS)
    assert len(before) == 6
    assert base_chain_handles() == before
    assert await later.in_place()
    assert elements("isolated_ingress_v4") == set()
    assert await unjudged(later) == 1


async def test_chains_of_another_version_are_emptied_and_stay(ruleset: Ruleset) -> None:
    nft("""
        add table inet netpolq
        add chain inet netpolq judge_of_old { type filter hook postrouting priority 10; policy accept; }
        add rule inet netpolq judge_of_old counter drop
    """)
    before = base_chain_handles()["judge_of_old"]
    await ruleset.install(NOBODY)
    assert base_chain_handles()["judge_of_old"] == before
    assert "counter packets" not in listing()
    assert await ruleset.in_place()


async def test_a_configuration_with_fewer_chains_leaves_none_of_the_others_rules(config: RulesetConfig, ruleset: Ruleset) -> None:
    await Ruleset(dataclasses.replace(config, dns_in_prerouting=True)).install(NOBODY)
    assert "dport 53" in listing()
    await ruleset.install(NOBODY)
    assert "dport 53" not in listing()


async def test_updates_add_and_remove_addresses(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    await ruleset.update(B_INGRESS)
    assert elements("isolated_egress_v4") == elements("isolated_egress_v6") == set()
    assert elements("isolated_ingress_v4") == {ADDRESS[B, 4]}
    assert elements("isolated_ingress_v6") == {ADDRESS[B, 6]}
    assert await ruleset.in_place()


async def test_an_update_before_any_install_installs(ruleset: Ruleset) -> None:
    await ruleset.update(A_EGRESS)
    assert await ruleset.in_place()


async def test_after_a_failed_update_the_next_one_puts_everything_in_place(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    nft(f"delete element inet netpolq isolated_egress_v4 {{ {ADDRESS[A, 4]} }}")
    with pytest.raises(RulesetError, match="No such file"):
        await ruleset.update(NOBODY)
    await ruleset.update(A_EGRESS)
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "flush table inet netpolq",
        "flush chain inet netpolq enqueue",
        "flush chain inet netpolq record_postrouting; delete chain inet netpolq record_postrouting",
        "insert rule inet netpolq judge_postrouting accept",
    ],
)
async def test_damage_by_others_is_noticed_and_repaired(ruleset: Ruleset, damage: str) -> None:
    await ruleset.install(A_EGRESS)
    nft(damage)
    assert not await ruleset.in_place()
    await ruleset.install(A_EGRESS)
    assert await ruleset.in_place()
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}


async def test_hundreds_of_addresses_go_in_and_out(ruleset: Ruleset) -> None:
    many = frozenset(parse_address(f"10.{i}.0.{j}") for i in range(8) for j in range(100))
    await ruleset.install(IsolatedSets(ingress=many, egress=many))
    assert len(elements("isolated_ingress_v4")) == 800
    await ruleset.update(NOBODY)
    assert elements("isolated_ingress_v4") == set()


async def test_cleanup_removes_everything_and_only_ours(ruleset: Ruleset) -> None:
    nft("add table inet foreign; add chain inet foreign kept; add rule inet foreign kept counter")
    before = listing()
    await ruleset.install(A_EGRESS)
    assert cleanup() == ["nftables table inet netpolq"]
    assert listing() == before
    assert cleanup() == []
    assert await ruleset.counters() == {}
    assert not await ruleset.in_place()


async def test_cleanup_clears_our_bit_of_the_connections_and_no_other(ruleset: Ruleset, judge: Judge, node: Lab) -> None:
    nft("""
        add table ip probe
        add chain ip probe tagging { type filter hook forward priority 0; }
        add rule ip probe tagging ct mark set 0x40
    """)
    await ruleset.install(A_EGRESS)
    with node.conversation(A, B) as flow:
        flow.say()
        judge.receive()
        judge.accept()
        flow.heard()
        assert f"mark={CT_MARK_BIT | 0x40} " in run("conntrack", "-L", "-s", ADDRESS[A, 4])
        assert cleanup(CT_MARK_BIT)[1].startswith(f"accepted bit {CT_MARK_BIT:#x} of ")
        marks = run("conntrack", "-L", "-s", ADDRESS[A, 4])
        assert "mark=64 " in marks
        assert f"mark={CT_MARK_BIT | 0x40} " not in marks
        assert cleanup(CT_MARK_BIT) == []


# Which packets are judged.


@FAMILIES
async def test_pods_that_are_not_isolated_are_left_alone(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(NOBODY)
    with node.conversation(A, B, family) as flow:
        assert both_ways(flow)
    assert await unjudged(ruleset) == 0


@FAMILIES
@pytest.mark.parametrize("sets", [A_EGRESS, B_INGRESS], ids=["egress", "ingress"])
async def test_only_the_isolated_direction_is_judged(ruleset: Ruleset, node: Lab, sets: IsolatedSets, family: int) -> None:
    await ruleset.install(sets)
    with node.conversation(B, A, family) as flow:
        assert both_ways(flow)
    with node.conversation(A, B, family) as flow:
        flow.say()
        assert flow.server_hears_nothing()


@FAMILIES
async def test_fail_open_passes_what_nobody_judges_and_counts_it(config: RulesetConfig, node: Lab, family: int) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B, family) as flow:
        assert both_ways(flow)
    assert await unjudged(ruleset) == 2


async def test_fail_closed_drops_and_counts_what_returns_from_the_queue_without_an_acceptance(
    ruleset: Ruleset, judge: Judge, node: Lab
) -> None:
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B) as flow:
        flow.say()
        judge.receive()
        judge.waiting.pop().accept()
        assert await unjudged(ruleset) == 1
        assert flow.server_hears_nothing()


@FAMILIES
async def test_an_accepted_connection_is_judged_once(ruleset: Ruleset, judge: Judge, node: Lab, family: int) -> None:
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B, family) as flow:
        flow.say()
        judge.receive()
        assert judge.states() == [PacketMark.PENDING_ORIGINAL]
        judge.accept()
        flow.heard()
        flow.answer()
        flow.answered()
        assert both_ways(flow)
    assert _queued() == 1


@FAMILIES
async def test_udp_that_is_never_answered_is_judged_once(ruleset: Ruleset, judge: Judge, node: Lab, family: int) -> None:
    await ruleset.install(A_EGRESS)
    with node.conversation(A, B, family) as flow:
        flow.say()
        judge.receive()
        judge.accept()
        flow.heard()
        for _ in range(10):
            flow.say()
            flow.heard()
    assert _queued() == 1


async def test_a_refused_connection_stays_refused_in_both_directions(ruleset: Ruleset, judge: Judge, node: Lab) -> None:
    """Also when it was open before the pod was isolated; its answers are handed over as such."""
    await ruleset.install(NOBODY)
    with node.conversation(A, B) as flow:
        assert both_ways(flow)
        await ruleset.update(B_INGRESS)
        flow.answer()
        judge.receive()
        assert judge.states() == [PacketMark.PENDING_REPLY]
        judge.drop()
        flow.say()
        judge.receive()
        assert judge.states() == [PacketMark.PENDING_ORIGINAL]
        judge.drop()
        assert flow.client_hears_nothing()
        assert flow.server_hears_nothing()


async def test_an_answer_that_is_accepted_has_its_connection_accepted(ruleset: Ruleset, judge: Judge, node: Lab) -> None:
    await ruleset.install(NOBODY)
    with node.conversation(A, B) as flow:
        assert both_ways(flow)
        await ruleset.update(B_INGRESS)
        flow.answer()
        judge.receive()
        judge.accept()
        assert flow.answered() == b"answer"
        assert both_ways(flow)
    assert _queued() == 1


async def test_packets_without_a_connection_are_judged_one_by_one(ruleset: Ruleset, judge: Judge, node: Lab) -> None:
    nft("""
        add table ip probe
        add chain ip probe raw { type filter hook prerouting priority -300; }
        add rule ip probe raw notrack
    """)
    await ruleset.install(A_EGRESS)
    with node.conversation(A, B) as flow:
        for _ in range(3):
            flow.say()
            judge.receive()
            assert judge.states() == [PacketMark.PENDING_ORIGINAL]
            judge.accept()
            flow.heard()
    assert _queued() == 3


# The own node.


@FAMILIES
async def test_the_own_node_reaches_isolated_pods_while_nobody_judges(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(IsolatedSets(ingress=A_EGRESS.egress | B_INGRESS.ingress, egress=A_EGRESS.egress | B_INGRESS.ingress))
    node.forget_neighbours()
    for pod in (A, B):
        with node.conversation(NODE, pod, family) as flow:
            assert both_ways(flow)
            assert both_ways(flow)
    assert await unjudged(ruleset) == 0


@FAMILIES
async def test_a_pod_reaches_its_node_only_when_judged(ruleset: Ruleset, node: Lab, family: int) -> None:
    await ruleset.install(A_EGRESS)
    with node.conversation(A, NODE, family) as flow:
        flow.say()
        assert flow.server_hears_nothing()
        with_judge = Judge()
        try:
            flow.say()
            with_judge.receive()
            with_judge.accept()
            flow.heard()
            flow.answer()
            flow.answered()
            assert both_ways(flow)
        finally:
            with_judge.close()


@FAMILIES
async def test_node_egress_allow_lets_pods_reach_their_node_unjudged(config: RulesetConfig, node: Lab, family: int) -> None:
    ruleset = Ruleset(dataclasses.replace(config, node_egress=NodeEgress.ALLOW))
    await ruleset.install(A_EGRESS)
    with node.conversation(A, NODE, family) as flow:
        assert both_ways(flow)
    assert await unjudged(ruleset) == 0


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


async def test_foreign_bits_pass_through_and_none_of_ours_remain(config: RulesetConfig, node: Lab, judge: Judge) -> None:
    """For packets that are accepted, that nobody judges, that need no judgement, and that the node sends."""
    _probe_marks()
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(A_EGRESS)
    with node.conversation(A, B) as flow:
        flow.say()
        judge.receive()
        assert judge.waiting[0].get_mark() & ~MARK_MASK == FOREIGN_BITS
        judge.accept()
        flow.heard()
    judge.close()
    with node.conversation(A, B) as flow:
        flow.say()
        flow.heard()
    with node.conversation(B, A) as flow:
        flow.say()
        flow.heard()
    with node.conversation(NODE, A) as flow:
        flow.say()
        flow.heard()
    assert (counted("kept"), counted("seen")) == (4, 4)


def _probe_marks() -> None:
    """Give every packet foreign bits where it enters, and count those that leave with exactly these."""
    nft(f"""
        add table ip probe
        add counter ip probe kept
        add counter ip probe seen
        add chain ip probe forwarded {{ type filter hook prerouting priority -300; }}
        add rule ip probe forwarded meta mark set {FOREIGN_BITS:#x}
        add chain ip probe own {{ type filter hook output priority -300; }}
        add rule ip probe own meta mark set {FOREIGN_BITS:#x}
        add chain ip probe leaving {{ type filter hook postrouting priority 300; }}
        add rule ip probe leaving meta l4proto udp meta mark {FOREIGN_BITS:#x} counter name kept
        add rule ip probe leaving meta l4proto udp counter name seen
    """)


@pytest.mark.parametrize("state", [PacketMark.FROM_OUTSIDE, PacketMark.PENDING_ORIGINAL, PacketMark.ACCEPTED])
async def test_a_state_that_others_put_into_the_field_is_not_believed(ruleset: Ruleset, node: Lab, state: PacketMark) -> None:
    nft(f"""
        add table ip probe
        add chain ip probe early {{ type filter hook prerouting priority -300; }}
        add rule ip probe early meta mark set {state << 16:#x}
    """)
    await ruleset.install(A_EGRESS)
    with node.conversation(B, A) as flow:
        assert both_ways(flow)
    with node.conversation(A, B) as flow:
        flow.say()
        assert flow.server_hears_nothing()


# Packets that wait for a verdict.


async def test_waiting_packets_survive_install_update_and_a_new_queue_range(
    ruleset: Ruleset, config: RulesetConfig, judge: Judge, node: Lab
) -> None:
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B) as first, node.conversation(A, B) as second:
        first.say(b"first")
        second.say(b"second")
        judge.receive(2)
        await ruleset.install(B_INGRESS)
        await ruleset.update(A_EGRESS)
        await Ruleset(dataclasses.replace(config, queue_first=300, queue_count=2)).install(NOBODY)
        judge.accept()
        assert first.heard() == b"first"
        assert second.heard() == b"second"
    (statistics,) = queuestats.read()
    assert (statistics.queue_num, statistics.queue_dropped, statistics.user_dropped) == (100, 0, 0)


async def test_no_packet_passes_unjudged_while_the_ruleset_is_installed_again(ruleset: Ruleset, node: Lab) -> None:
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B) as flow:
        finished = threading.Event()

        def speak() -> None:
            while not finished.wait(0.0005):
                flow.say()

        speaker = asyncio.get_running_loop().run_in_executor(None, speak)
        for sets in (B_INGRESS, IsolatedSets(ingress=B_INGRESS.ingress, egress=A_EGRESS.egress)) * 5:
            await ruleset.install(sets)
        finished.set()
        await speaker
        assert flow.server_hears_nothing()


# DNS before routing.


async def test_dns_is_judged_before_routing_and_only_once(config: RulesetConfig, judge: Judge, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, dns_in_prerouting=True))
    await ruleset.install(A_EGRESS)
    with node.conversation(A, B, port=53) as flow:
        flow.say()
        judge.receive()
        assert [packet.hook for packet in judge.waiting] == [0]
        judge.accept()
        flow.heard()
        flow.answer()
        flow.answered()
        assert both_ways(flow)
    assert _queued() == 1


async def test_dns_to_the_own_node_is_spared_when_node_egress_is_allowed(config: RulesetConfig, node: Lab) -> None:
    config = dataclasses.replace(config, dns_in_prerouting=True, node_egress=NodeEgress.ALLOW)
    ruleset = Ruleset(config)
    await ruleset.install(A_EGRESS)
    with node.conversation(A, NODE, port=53) as flow:
        assert both_ways(flow)
    with node.conversation(A, B, port=53) as flow:
        flow.say()
        assert flow.server_hears_nothing()


async def test_unjudged_dns_is_dropped_before_routing_in_fail_closed(config: RulesetConfig, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, dns_in_prerouting=True))
    await ruleset.install(B_INGRESS)
    with node.conversation(A, B, port=53) as flow:
        flow.say()
        assert flow.server_hears_nothing()
    with node.conversation(B, A, port=53) as flow:
        assert both_ways(flow)


# What probe says.


async def test_a_form_that_the_kernel_lacks_is_refused_by_name(config: RulesetConfig, node: Lab) -> None:
    """And trying leaves nothing behind."""
    accepted = []
    for form in (Dataplane.NATIVE, Dataplane.COMPAT):
        try:
            accepted.append(await probe(form))
        except KernelError as error:
            assert f"dataplane {form}" in str(error)  # noqa: PT017
    assert config.form in accepted
    assert listing() == ""


def test_without_the_privilege_the_error_says_so(node: Lab) -> None:
    program = "import asyncio; from netpolq.dataplane.apply import probe; asyncio.run(probe())"
    finished = subprocess.run(
        ["setpriv", "--bounding-set=-net_admin", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "PrivilegeError: changing the ruleset needs CAP_NET_ADMIN" in finished.stderr


async def test_without_nft_the_error_names_the_package(config: RulesetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelError, match="install the package nftables"):
        await probe(config.form)


def _queued() -> int:
    """Packets that the queue has been given so far."""
    return queuestats.read()[0].id_sequence
