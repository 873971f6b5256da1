"""Effects of install, update, in_place, cleanup and probe in a real kernel, also on waiting packets."""

import asyncio
import contextlib
import dataclasses
import ipaddress
import os
import re
import subprocess
import sys
import threading

from pathlib import Path

import psutil
import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane.conntrack import clear_accepted
from netpolq.dataplane.install import Ruleset, RulesetError, cleanup, probe
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from netpolq.enums import Dataplane, PacketMark
from netpolq.errors import KernelError
from netpolq.ipc.channel import Channel
from netpolq.netlink import queue_table
from netpolq.supervisor.ruleset_upkeep import RulesetUpkeep
from tests.netns.dataplane.lab import (
    A_EGRESS,
    ADDRESS,
    B_INGRESS,
    CT_LABEL,
    DEADLINE_S,
    NOT_ISOLATED,
    OUTSIDE,
    POD_RANGES,
    A,
    B,
    Lab,
    MovingListener,
    QueueListener,
    base_chain_handles,
    elements,
    listing,
    nft,
    run,
    without_verdict,
)
from tests.support.progress import progress_of


def is_notified(ruleset: Ruleset) -> bool:
    """Whether a notification has arrived that another process has changed the table. Nothing else reads them in these tests."""
    ruleset._sockets.monitor.read()
    return ruleset.may_have_changed


async def test_a_first_install_is_complete(ruleset: Ruleset) -> None:
    assert not await ruleset.in_place()
    await ruleset.install(A_EGRESS)
    assert await ruleset.in_place()
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}
    assert elements("isolated_egress_v6") == {ADDRESS[A, 6]}


async def test_a_later_agent_keeps_the_base_chains_and_the_counters(config: RulesetConfig, node: Lab) -> None:
    ruleset = Ruleset(dataclasses.replace(config, fail_open=True))
    await ruleset.install(B_INGRESS)
    before = base_chain_handles()
    with node.udp_flow(A, B) as flow:
        flow.send()
        flow.receive()
    later = Ruleset(dataclasses.replace(config, queue_first=200, queue_count=4))
    await later.install(A_EGRESS)
    assert len(before) == 5
    assert base_chain_handles() == before
    assert await later.in_place()
    assert elements("isolated_ingress_v4") == set()
    assert await without_verdict(later) == 1


async def test_chains_of_another_version_are_emptied_and_stay(ruleset: Ruleset) -> None:
    nft("""
        add table inet netpolq
        add chain inet netpolq judge_of_old { type filter hook postrouting priority 10; policy accept; }
        add rule inet netpolq judge_of_old counter drop
    """)
    before = base_chain_handles()["judge_of_old"]
    await ruleset.install(NOT_ISOLATED)
    assert base_chain_handles()["judge_of_old"] == before
    assert "counter packets" not in listing()
    assert await ruleset.in_place()


async def test_a_configuration_with_fewer_chains_leaves_none_of_the_others_rules(config: RulesetConfig, ruleset: Ruleset) -> None:
    await Ruleset(dataclasses.replace(config, dns_in_prerouting=True)).install(NOT_ISOLATED)
    assert "dport 53" in listing()
    await ruleset.install(NOT_ISOLATED)
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


async def test_after_a_failed_update_the_next_one_installs_everything(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    nft(f"delete element inet netpolq isolated_egress_v4 {{ {ADDRESS[A, 4]} }}")
    with pytest.raises(RulesetError, match="ENOENT"):
        await ruleset.update(NOT_ISOLATED)
    await ruleset.update(A_EGRESS)
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}


ANY_CHAIN = "judge_postrouting"
REDEFINED = f"""
    flush chain inet netpolq {ANY_CHAIN}
    delete chain inet netpolq {ANY_CHAIN}
    add chain inet netpolq {ANY_CHAIN} {{ type filter hook postrouting priority -300; policy accept; }}
"""
DAMAGES = [
    "flush ruleset",
    "delete table inet netpolq",
    "flush table inet netpolq",
    "flush chain inet netpolq enqueue",
    "flush chain inet netpolq enqueue; add rule inet netpolq enqueue accept",
    "flush chain inet netpolq record_postrouting; delete chain inet netpolq record_postrouting",
    f"insert rule inet netpolq {ANY_CHAIN} accept",
    f"chain inet netpolq {ANY_CHAIN} {{ policy drop; }}",
    REDEFINED,
    "add chain inet netpolq foreign { type filter hook forward priority 0; policy drop; }; add rule inet netpolq foreign accept",
    "add table inet netpolq { flags dormant; }",
    "flush set inet netpolq isolated_egress_v4",
    f"delete element inet netpolq isolated_egress_v6 {{ {ADDRESS[A, 6]} }}",
    f"add element inet netpolq isolated_ingress_v4 {{ {ADDRESS[B, 4]} }}",
    "flush set inet netpolq isolated_egress_v4; add element inet netpolq isolated_egress_v4 { 10.77.9.9 }",
    "delete table inet netpolq; add table inet netpolq; add set inet netpolq isolated_egress_v4 { type inet_service; }",
]
DAMAGES_OF_WAITING = [
    f"add element inet netpolq known_v4 {{ {ADDRESS[B, 4]} }}",
    f"delete element inet netpolq known_v6 {{ {ADDRESS[A, 6]} }}",
    "flush set inet netpolq asking_v4",
    f"add element inet netpolq asking_v6 {{ {ADDRESS[B, 6]} }}",
    "flush chain inet netpolq unknown_source_v4",
    "flush chain inet netpolq enqueue_names",
    "flush chain inet netpolq enqueue_names; add rule inet netpolq enqueue_names accept",
    "flush chain inet netpolq pending_names",
    "flush chain inet netpolq record_own_response",
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_by_others_is_noticed_and_repaired(ruleset: Ruleset, damage: str) -> None:
    """For any change of another program to the table. The message names the program."""
    await ruleset.install(A_EGRESS)
    nft(damage)
    difference = await ruleset.difference()
    assert difference is not None
    assert re.search(r"changed by 'nft' \(pid \d+\)$", difference)
    await ruleset.restore(A_EGRESS)
    assert await ruleset.in_place()
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}
    assert elements("isolated_egress_v6") == {ADDRESS[A, 6]}
    assert elements("isolated_ingress_v4") == set()
    assert "priority -300" not in listing()
    assert "policy drop" not in listing()
    assert "dormant" not in listing()


@pytest.mark.parametrize("damage", DAMAGES_OF_WAITING)
async def test_damage_to_the_rules_of_waiting_packets_is_noticed_and_repaired(
    ruleset: Ruleset, config: RulesetConfig, damage: str
) -> None:
    ruleset.reconfigure(with_waiting(config))
    sets = dataclasses.replace(A_EGRESS, known=A_EGRESS.egress, asking=A_EGRESS.egress)
    await ruleset.install(sets)
    before = without_handles()
    nft(damage)
    assert without_handles() != before
    difference = await ruleset.difference()
    assert difference is not None
    assert re.search(r"changed by 'nft' \(pid \d+\)$", difference)
    await ruleset.restore(sets)
    assert await ruleset.in_place()
    assert without_handles() == before


def without_handles() -> str:
    return re.sub(r" # handle \d+", "", listing())


async def test_a_rule_that_is_replaced_by_one_with_other_values_is_noticed(ruleset: Ruleset, config: RulesetConfig) -> None:
    """The new rule has the handle of the old one, and its list of values may have the name of the old list."""
    ruleset.reconfigure(with_waiting(config))
    await ruleset.install(A_EGRESS)
    listed = listing()
    first = next(line for line in listed.splitlines() if "l4proto { tcp, udp }" in line)
    rule, handle = first.strip().split(" # handle ")
    chain = re.findall(r"chain (\w+) \{", listed[: listed.index(first)])[-1]
    nft(f"replace rule inet netpolq {chain} handle {handle} {rule.replace('{ tcp, udp }', '{ tcp, sctp }')}")
    assert not await ruleset.in_place()
    await ruleset.restore(A_EGRESS)
    assert await ruleset.in_place()
    assert "sctp" not in listing()


async def test_changes_of_other_tables_are_ignored(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    nft("add table inet foreign; add chain inet foreign first { type filter hook postrouting priority -400; }")
    nft("add table ip netpolqx; add chain ip netpolqx netpolqx")
    assert not is_notified(ruleset)
    assert await ruleset.in_place()
    nft("flush set inet netpolq isolated_egress_v4")
    assert is_notified(ruleset)


async def test_own_changes_do_not_count_as_foreign(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    await ruleset.update(B_INGRESS)
    await ruleset.update(A_EGRESS)
    assert not is_notified(ruleset)
    assert await ruleset.in_place()


async def test_traffic_changes_nothing(ruleset: Ruleset, listener: QueueListener, node: Lab) -> None:
    """Counters of rules count, but the table still compares as equal."""
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B) as flow:
        flow.send()
        listener.receive()
        listener.accept()
        flow.receive()
        assert await ruleset.in_place()


async def test_the_kernel_notifies_of_a_change(ruleset: Ruleset) -> None:
    changed = asyncio.Event()
    ruleset.watch(changed.set)
    await ruleset.install(A_EGRESS)
    await asyncio.sleep(0)
    changed.clear()
    await asyncio.to_thread(nft, "flush set inet netpolq isolated_egress_v4")
    async with asyncio.timeout(DEADLINE_S):
        await changed.wait()
    assert "elements of set isolated_egress_v4 differs" in str(await ruleset.difference())


async def test_more_notifications_than_the_socket_holds_cause_a_read_of_the_table(ruleset: Ruleset) -> None:
    await ruleset.install(A_EGRESS)
    many = ", ".join(f"10.{high}.{low}.1 : 10.{low}.{high}.1" for high in range(250) for low in range(160))
    nft(f"add table ip foreign; add map ip foreign many {{ type ipv4_addr : ipv4_addr; elements = {{ {many} }}; }}")
    nft("flush map ip foreign many; flush set inet netpolq isolated_egress_v4")
    ruleset._sockets.monitor.read()
    assert ruleset._sockets.monitor.has_lost_some
    assert "elements of set isolated_egress_v4 differs" in str(await ruleset.difference())
    await ruleset.restore(A_EGRESS)
    assert await ruleset.in_place()


async def test_sets_change_and_are_repaired_without_a_program(ruleset: Ruleset, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program is on the path of isolating a pod."""
    await ruleset.install(A_EGRESS)
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nonexistent")
        await ruleset.update(B_INGRESS)
    assert elements("isolated_ingress_v4") == {ADDRESS[B, 4]}
    nft("flush set inet netpolq isolated_ingress_v4")
    assert not await ruleset.in_place()
    with monkeypatch.context() as without:
        without.setenv("PATH", "/nonexistent")
        await ruleset.restore(B_INGRESS)
    assert elements("isolated_ingress_v4") == {ADDRESS[B, 4]}
    assert await ruleset.in_place()


async def test_ten_thousand_addresses_are_one_transaction(ruleset: Ruleset) -> None:
    many = frozenset(parse_address(f"10.{i}.{j}.1") for i in range(100) for j in range(100))
    await ruleset.install(NOT_ISOLATED)
    await ruleset.update(IsolatedSets(ingress=many, egress=many))
    assert len(elements("isolated_ingress_v4")) == 10_000
    assert await ruleset.in_place()
    await ruleset.update(NOT_ISOLATED)
    assert elements("isolated_ingress_v4") == set()


async def test_an_nft_that_hangs_is_killed_with_its_children(
    ruleset: Ruleset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next installation succeeds with an nft that works. Changes of the verdict maps do not wait for the one that hangs."""
    await ruleset.install(A_EGRESS)
    hanging = tmp_path / "nft"
    hanging.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! >{tmp_path}/child\nwait\n", encoding="ascii")
    hanging.chmod(0o755)
    with monkeypatch.context() as hangs:
        hangs.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        installing = asyncio.create_task(ruleset.install(B_INGRESS))
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.01)
        await ruleset.forget_verdicts(None)
        assert not installing.done()
        with pytest.raises(RulesetError, match="nft did not answer within 3 s"):
            await installing
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert elements("isolated_egress_v4") == {ADDRESS[A, 4]}, "what was in force still is"
    await ruleset.update(B_INGRESS)
    assert elements("isolated_ingress_v4") == {ADDRESS[B, 4]}
    assert await ruleset.in_place()


async def test_hundreds_of_addresses_go_in_and_out(ruleset: Ruleset) -> None:
    many = frozenset(parse_address(f"10.{i}.0.{j}") for i in range(8) for j in range(100))
    await ruleset.install(IsolatedSets(ingress=many, egress=many))
    assert len(elements("isolated_ingress_v4")) == 800
    await ruleset.update(NOT_ISOLATED)
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


FOREIGN_LABEL = 3


async def test_cleanup_clears_our_bit_of_the_connections_and_no_other(
    ruleset: Ruleset, listener: QueueListener, node: Lab
) -> None:
    nft("""
        add table ip probe
        add chain ip probe tagging { type filter hook forward priority 0; }
        add rule ip probe tagging ct mark set 0x40
    """)
    nft(f"add rule ip probe tagging ct label set {FOREIGN_LABEL}")
    await ruleset.install(A_EGRESS)
    with node.udp_flow(A, B) as flow:
        flow.send()
        listener.receive()
        listener.accept()
        flow.receive()
        assert cleanup(CT_LABEL)[1].startswith("accepted bit of the label of ")
        assert "mark=64 " in run("conntrack", "-L", "-s", ADDRESS[A, 4])
        assert cleanup(CT_LABEL) == []
        assert clear_accepted(FOREIGN_LABEL).cleared


async def test_waiting_packets_survive_install_update_probe_and_a_new_queue_range(
    ruleset: Ruleset, config: RulesetConfig, listener: QueueListener, node: Lab
) -> None:
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B) as first, node.udp_flow(A, B) as second:
        first.send(b"first")
        second.send(b"second")
        listener.receive(2)
        await ruleset.install(B_INGRESS)
        await ruleset.update(A_EGRESS)
        await probe()
        await Ruleset(dataclasses.replace(config, queue_first=300, queue_count=2)).install(NOT_ISOLATED)
        listener.accept()
        assert first.receive() == b"first"
        assert second.receive() == b"second"
    (statistics,) = queue_table.read()
    assert (statistics.queue_num, statistics.queue_dropped, statistics.user_dropped) == (100, 0, 0)


# Another configuration.


def with_waiting(config: RulesetConfig) -> RulesetConfig:
    """The configuration, with packets of unknown addresses and DNS that wait."""
    return dataclasses.replace(config, pod_ranges=POD_RANGES, dns_queue=200)


async def test_the_next_update_brings_another_configuration(ruleset: Ruleset, config: RulesetConfig) -> None:
    """Also with the same sets, and back. Until then the table counts as it should be."""
    await ruleset.install(A_EGRESS)
    before = without_handles()
    ruleset.reconfigure(with_waiting(config))
    assert await ruleset.in_place()
    await ruleset.update(A_EGRESS)
    assert await ruleset.in_place()
    for chain in ("unknown_source_v4", "unknown_both", "query_v6", "enqueue_names"):
        assert f"chain {chain} {{" in listing()
    ruleset.reconfigure(config)
    await ruleset.update(A_EGRESS)
    assert await ruleset.in_place()
    assert active_rules() == [line for line in before.splitlines() if line.startswith("\t\t")]


def active_rules() -> list[str]:
    """The lines of chains and sets, without those of chains without rules."""
    return [line for line in without_handles().splitlines() if line.startswith("\t\t")]


async def test_a_repair_brings_another_configuration(ruleset: Ruleset, config: RulesetConfig) -> None:
    """Even if only elements of a set are damaged."""
    await ruleset.install(A_EGRESS)
    ruleset.reconfigure(with_waiting(config))
    nft("flush set inet netpolq isolated_egress_v4")
    assert not await ruleset.in_place()
    await ruleset.restore(A_EGRESS)
    assert await ruleset.in_place()
    assert "chain unknown_both {" in listing()


async def test_a_configuration_that_arrives_during_an_installation_is_not_lost(ruleset: Ruleset, config: RulesetConfig) -> None:
    installing = asyncio.create_task(ruleset.install(A_EGRESS))
    await asyncio.sleep(0)
    ruleset.reconfigure(with_waiting(config))
    await installing
    await ruleset.update(A_EGRESS)
    assert "chain unknown_both {" in listing()
    assert await ruleset.in_place()


async def test_waiting_packets_survive_another_configuration(
    ruleset: Ruleset, config: RulesetConfig, waiting: MovingListener, node: Lab
) -> None:
    """In both queues, and of each kind."""
    asking = dataclasses.replace(A_EGRESS, known=A_EGRESS.egress, asking=A_EGRESS.egress)
    ruleset.reconfigure(with_waiting(config))
    await ruleset.install(asking)
    reader = MovingListener(200)
    with (
        contextlib.closing(reader),
        node.udp_flow(A, B) as unknown,
        node.udp_flow(A, OUTSIDE) as isolated,
        node.udp_flow(A, OUTSIDE, port=53) as query,
    ):
        for flow in (unknown, isolated, query):
            flow.send()
        waiting.receive(2)
        assert waiting.states() == [PacketMark.UNKNOWN_DESTINATION, PacketMark.PENDING_ORIGINAL]
        reader.receive()
        for changed in (
            dataclasses.replace(with_waiting(config), pod_ranges=(*POD_RANGES, ipaddress.ip_network("10.78.0.0/16"))),
            dataclasses.replace(with_waiting(config), pod_interfaces=("pod-a", "pod-b"), queue_first=300),
        ):
            ruleset.reconfigure(changed)
            await ruleset.update(asking)
        waiting.accept()
        reader.move(100, PacketMark.PENDING_ORIGINAL)
        waiting.receive()
        waiting.accept()
        for flow in (unknown, isolated, query):
            assert flow.receive() == b"hello"
    assert all((one.queue_dropped, one.user_dropped) == (0, 0) for one in queue_table.read())


async def test_queries_that_wait_survive_the_end_of_the_dns_queue(
    ruleset: Ruleset, config: RulesetConfig, waiting: MovingListener, node: Lab
) -> None:
    ruleset.reconfigure(with_waiting(config))
    sets = dataclasses.replace(A_EGRESS, known=A_EGRESS.egress)
    await ruleset.install(dataclasses.replace(sets, asking=A_EGRESS.egress))
    reader = MovingListener(200)
    with contextlib.closing(reader), node.udp_flow(A, OUTSIDE, port=53) as query:
        query.send()
        reader.receive()
        ruleset.reconfigure(dataclasses.replace(config, pod_ranges=POD_RANGES))
        await ruleset.update(sets)
        reader.move(100, PacketMark.PENDING_ORIGINAL)
        waiting.receive()
        waiting.accept()
        assert query.receive() == b"hello"


async def test_no_packet_passes_without_evaluation_while_the_ruleset_is_installed_again(ruleset: Ruleset, node: Lab) -> None:
    await ruleset.install(B_INGRESS)
    with node.udp_flow(A, B) as flow:
        finished = threading.Event()

        def speak() -> None:
            while not finished.wait(0.0005):
                flow.send()

        speaker = asyncio.get_running_loop().run_in_executor(None, speak)
        for sets in (B_INGRESS, IsolatedSets(ingress=B_INGRESS.ingress, egress=A_EGRESS.egress)) * 5:
            await ruleset.install(sets)
        finished.set()
        await speaker
        assert flow.server_receives_nothing()


async def test_a_form_that_the_kernel_lacks_is_refused_by_name(config: RulesetConfig, node: Lab) -> None:
    """The attempt leaves nothing behind."""
    accepted = []
    for form in (Dataplane.NATIVE, Dataplane.COMPAT):
        try:
            accepted.append(await probe(form))
        except KernelError as error:
            assert f"dataplane {form}" in str(error)  # noqa: PT017
    assert config.form in accepted
    assert listing() == ""


def test_without_the_privilege_the_error_names_it(node: Lab) -> None:
    program = "import asyncio; from netpolq.dataplane.install import probe; asyncio.run(probe())"
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


async def test_an_update_that_meets_the_damage_of_others_repairs_it_at_once(ruleset: Ruleset) -> None:
    """The pods of the new sets are isolated at the first attempt, and the repair is counted."""
    channel, pool_end = Channel.pair()
    pool_end.close()
    upkeep = RulesetUpkeep(ruleset, progress_of(), channel)
    await upkeep.bring_about(A_EGRESS)
    nft(f"delete element inet netpolq isolated_egress_v4 {{ {ADDRESS[A, 4]} }}")
    await upkeep.bring_about(B_INGRESS)
    assert elements("isolated_egress_v4") == set()
    assert elements("isolated_ingress_v4") == {ADDRESS[B, 4]}
    assert await ruleset.in_place()
    assert upkeep.repairs == 1
    channel.close()
