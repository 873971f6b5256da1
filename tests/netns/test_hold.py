"""`netpolq hold` on real packets: what it drops, what passes, and its installation and removal."""

import asyncio
import socket
import subprocess
import sys

from collections.abc import Iterator

import pytest

from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Probe
from netpolq.dataplane.hold_table import HoldTable
from netpolq.errors import ExitCode
from netpolq.hold.ranges import listed, parse_ranges

NODE = Host(name="node", addresses=("10.74.0.1", "fd74::1"), serves=(("TCP", 80), ("UDP", 80)))
SERVER = Host(name="app/server", addresses=("10.74.1.1", "fd74:1::1"), serves=(("TCP", 80), ("UDP", 80)))
CLIENT = Host(name="app/client", addresses=("10.74.1.2", "fd74:1::2"))
OUTSIDE = Host(name="outside", addresses=("10.74.9.9", "fd74:9::9"), serves=(("TCP", 80), ("UDP", 80)))
RANGES = "10.74.1.0/24,fd74:1::/64"
PROTOCOLS = ("TCP", "UDP", "ICMP")


@pytest.fixture
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[SERVER, CLIENT, OUTSIDE]) as box:
        yield box


def hold(box: Box, *words: str, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    return box.run(NODE.name, [*prefix, sys.executable, "-m", "netpolq", "hold", *words])


def reached(box: Box, *pairs: tuple[Host, Host]) -> set[tuple[str, str, str, int]]:
    """The connections that get through, by protocol and family."""
    probes = {
        (source.name, destination.name, protocol, family): Probe(
            source.name, destination.address(family), protocol, 80 if protocol != "ICMP" else 0
        )
        for source, destination in pairs
        for protocol in PROTOCOLS
        for family in (4, 6)
    }
    return {key for key, result in zip(probes, box.probe(list(probes.values())), strict=True) if result.reached}


def everything(*pairs: tuple[Host, Host]) -> set[tuple[str, str, str, int]]:
    return {
        (source.name, destination.name, protocol, family)
        for source, destination in pairs
        for protocol in PROTOCOLS
        for family in (4, 6)
    }


OF_PODS = ((CLIENT, SERVER), (OUTSIDE, SERVER), (CLIENT, OUTSIDE), (CLIENT, NODE))
OTHERS = ((NODE, SERVER), (NODE, OUTSIDE), (OUTSIDE, NODE))


def test_pods_are_cut_off_and_the_node_reaches_them(box: Box) -> None:
    """By TCP, UDP and ICMP, over both families. Traffic without pods is unaffected, and the release restores everything."""
    assert reached(box, *OF_PODS, *OTHERS) == everything(*OF_PODS, *OTHERS)
    assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
    assert reached(box, *OF_PODS, *OTHERS) == everything(*OTHERS)
    assert hold(box, "--release").returncode == ExitCode.OK
    assert reached(box, *OF_PODS, *OTHERS) == everything(*OF_PODS, *OTHERS)


def test_the_last_hold_counts_and_a_release_may_be_repeated(box: Box) -> None:
    assert hold(box, "--pod-cidrs", "10.200.0.0/16").returncode == ExitCode.OK
    assert reached(box, (CLIENT, SERVER)) == everything((CLIENT, SERVER))
    for _ in range(2):
        assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
    assert reached(box, (CLIENT, SERVER)) == set()
    for _ in range(2):
        assert hold(box, "--release").returncode == ExitCode.OK
    assert "netpolq_hold" not in box.run(NODE.name, ["nft", "list", "tables"]).stdout


@pytest.mark.parametrize(
    "text",
    [
        "10.74.1.0/24",
        "10.74.0.0/24,10.74.1.0/24,10.74.3.0/24,fd74::/64,fd74:0:0:1::/64",
        "10.74.1.7/32,10.74.1.9/32,fd74::1/128",
        "0.0.0.0/8,128.0.0.0/1,fe00::/8",
        "0.0.0.0/1,128.0.0.0/2,::/1",
    ],
    ids=["one", "adjacent", "single addresses", "to the end of a family", "from the beginning of a family"],
)
def test_the_agent_reads_back_what_a_hold_drops(box: Box, text: str) -> None:
    """It needs them to add ranges to the hold of another program, and to keep the others."""
    ranges = parse_ranges(text)

    async def written_and_read(*later: str) -> list[str]:
        table = HoldTable()
        await table.install(ranges, ct_label=124)
        found = [listed(await table.ranges())]
        for more in later:
            await table.change_ranges(parse_ranges(more))
            found.append(listed(await table.ranges()))
        assert await table.remove()
        return [*found, listed(await table.ranges())]

    more = f"{text},10.200.0.0/16"
    found = box.inside(NODE.name, lambda: asyncio.run(written_and_read(more, text)))
    assert found == [listed(ranges), listed(parse_ranges(more)), listed(ranges), ""]


def test_an_address_range_is_read_as_cidr_blocks(box: Box) -> None:
    """An operator's script may name a range of addresses."""
    assert hold(box, "--pod-cidrs", "10.74.1.0/24").returncode == ExitCode.OK
    box.nft("add element inet netpolq_hold pods_v4 { 10.74.2.2-10.74.2.5 }")
    found = box.inside(NODE.name, lambda: asyncio.run(HoldTable().ranges()))
    assert listed(found) == "10.74.1.0/24,10.74.2.2/31,10.74.2.4/31"


def connected(box: Box, client: Host) -> socket.socket:
    connection = box.inside(client.name, lambda: socket.create_connection((SERVER.address(4), 80), 5))
    connection.settimeout(0.5)
    connection.sendall(b"before")
    assert connection.recv(64) == b"before"
    return connection


def answers(connection: socket.socket) -> bool:
    connection.sendall(b"again")
    try:
        return connection.recv(64) == b"again"
    except TimeoutError:
        return False


def test_a_connection_goes_on_if_the_agent_accepted_it_before(box: Box) -> None:
    """Such a connection has the agent's bit in its label. Packets of a connection without the bit are dropped."""
    with connected(box, CLIENT) as unknown:
        box.nft(
            "add table inet mark_all; add chain inet mark_all c { type filter hook forward priority 0; }; "
            "add rule inet mark_all c ct label set 120"
        )
        with connected(box, CLIENT) as accepted:
            box.nft("delete table inet mark_all")
            assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
            assert answers(accepted)
            assert not answers(unknown)


def test_a_connection_that_another_program_marks_does_not_count_as_accepted(box: Box) -> None:
    """A mark that is restored on new connections may have any bit."""
    box.nft(
        "add table inet mark_new; add chain inet mark_new c { type filter hook prerouting priority -150; }; "
        "add rule inet mark_new c ct state new ct mark set 0xffffffff"
    )
    assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
    assert reached(box, (CLIENT, SERVER)) == set()


def test_a_probe_of_the_node_is_closed_in_good_order(box: Box) -> None:
    """After a close the kernel ends the connection without the socket of a process. That is also traffic of the node."""
    assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
    with box.inside(SERVER.name, lambda: socket.create_server((SERVER.address(4), 81))) as server:
        server.settimeout(5)
        client = box.inside(NODE.name, lambda: socket.create_connection((SERVER.address(4), 81), 5))
        peer, _address = server.accept()
        with peer:
            client.close()
            peer.settimeout(5)
            assert peer.recv(1) == b""  # the node's FIN
            peer.shutdown(socket.SHUT_WR)
            # LAST_ACK ends with the node's acknowledgement, which no process sends.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x05\x00\x00\x00")
    assert "held" in (counted := box.run(NODE.name, ["nft", "list", "counter", "inet", "netpolq_hold", "held"]).stdout)
    assert "packets 0 " in counted


def test_where_the_rules_of_an_agent_are_there_is_nothing_to_hold(box: Box) -> None:
    """An init container runs before each start of an agent, also while another agent serves, whose pods must stay connected."""
    box.nft(
        "add table inet netpolq; add chain inet netpolq enqueue; "
        "add chain inet netpolq judge { type filter hook postrouting priority 95; }; add rule inet netpolq judge jump enqueue"
    )
    done = hold(box, "--pod-cidrs", RANGES)
    assert (done.returncode, done.stdout) == (
        ExitCode.OK,
        "the table inet netpolq of an agent is in place: there is nothing to hold\n",
    )
    assert reached(box, (CLIENT, SERVER)) == everything((CLIENT, SERVER))
    assert hold(box, "--pod-cidrs", RANGES, "--force").returncode == ExitCode.OK
    assert reached(box, (CLIENT, SERVER)) == set()


@pytest.mark.parametrize(
    "chain", ["enqueue", "judge { type filter hook postrouting priority 95; }"], ids=["cut-short", "flushed"]
)
def test_an_agents_table_without_rules_in_a_hook_does_not_count(box: Box, chain: str) -> None:
    """A start that was cut short leaves such a table, and so does another program that flushes it."""
    box.nft(f"add table inet netpolq; add chain inet netpolq {chain}")
    assert hold(box, "--pod-cidrs", RANGES).returncode == ExitCode.OK
    assert reached(box, (CLIENT, SERVER)) == set()


def test_missing_privileges_and_a_missing_nft_are_reported(box: Box) -> None:
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    done = hold(box, "--pod-cidrs", RANGES, prefix=without)
    assert (done.returncode, "CAP_NET_ADMIN" in done.stderr) == (ExitCode.PRIVILEGES, True)
    done = hold(box, "--pod-cidrs", RANGES, "--force", prefix=("env", "PATH=/nonexistent"))
    assert (done.returncode, "nftables" in done.stderr) == (ExitCode.KERNEL, True)
    assert reached(box, (CLIENT, SERVER)) == everything((CLIENT, SERVER))
