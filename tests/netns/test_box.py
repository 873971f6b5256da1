"""The cluster in a box: properties on which the other tests with real packets rely."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import psutil
import pytest

from netfilterqueue import NetfilterQueue

from loadtest.testbed import netns, sctp
from loadtest.testbed.box import CHECKOUT, Box, Host
from loadtest.testbed.probe import TIMEOUT_S, Outcome, Probe

SERVED = (("TCP", 80), ("UDP", 80), ("SCTP", 80))
NODE = Host(name="node", addresses=("10.78.0.1", "fd78::1"), serves=SERVED)
HOSTS = (
    *(Host(name=f"x/{name}", addresses=(f"10.78.1.{end}", f"fd78::1:{end}"), serves=SERVED) for end, name in enumerate("abc", 1)),
    Host(name="outside", addresses=("192.0.2.7", "2001:db8::7"), serves=SERVED),
)
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=HOSTS) as built:
        yield built


def test_all_hosts_reach_each_other_by_every_protocol_over_both_families(box: Box) -> None:
    probes = [
        Probe(source, box.address(destination, family), protocol, port)
        for source, destination in product(box.hosts, repeat=2)
        for (protocol, port), family in product((*SERVED, ("ICMP", 0)), (4, 6))
    ]
    assert [result for result in box.probe(probes) if not result.reached] == []


def test_a_closed_port_is_a_refusal_and_silence_a_timeout(box: Box) -> None:
    box.nft("add table inet wall; add chain inet wall forward { type filter hook forward priority 0; }")
    box.nft("add rule inet wall forward ip daddr 10.78.1.2 drop")
    try:
        results = box.probe(
            [
                *(Probe("x/c", "10.78.1.1", protocol, 81) for protocol in ("TCP", "UDP")),
                *(Probe("x/c", "10.78.1.2", protocol, port) for protocol, port in (*SERVED, ("ICMP", 0))),
            ]
        )
    finally:
        box.nft("delete table inet wall")
    assert Counter(result.outcome for result in results) == {Outcome.REFUSED: 2, Outcome.TIMEOUT: 4}


@contextmanager
def queued(box: Box) -> Iterator[NetfilterQueue]:
    """A queue for all datagrams to the servers that the node forwards, without the answers. The test reads it."""
    rule = ["FORWARD", "-p", "udp", "--dport", "80", "-j", "NFQUEUE", "--queue-num", "7"]
    assert box.run("node", ["iptables", "-A", *rule]).stderr == ""
    queue = box.inside("node", NetfilterQueue)
    queue.bind(7, lambda packet: packet.accept())
    try:
        yield queue
    finally:
        queue.unbind()
        box.run("node", ["iptables", "-D", *rule])


def test_silence_ends_an_attempt_before_its_timeout(box: Box) -> None:
    box.nft("table inet wall { chain forward { type filter hook forward priority 0; ip daddr 10.78.1.2 drop; }; }")
    try:
        silent, patient = (
            box.probe([Probe("x/c", "10.78.1.2", "TCP", 80)], timeout_s)[0].elapsed_s for timeout_s in (None, TIMEOUT_S)
        )
    finally:
        box.nft("delete table inet wall")
    assert silent < patient / 2


def test_an_attempt_whose_packet_waits_for_its_verdict_is_not_over(box: Box) -> None:
    with queued(box) as queue:

        def decide() -> None:
            assert select.select([queue.get_fd()], [], [], LIMIT_S)[0], "no packet is queued"
            time.sleep(TIMEOUT_S / 2)
            queue.run(block=False)

        decider = threading.Thread(target=decide)
        decider.start()
        (result,) = box.probe([Probe("x/a", "10.78.1.2", "UDP", 80)])
        decider.join()
    assert result.reached


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_an_attempt_that_the_servers_have_not_answered_yet_is_not_over(box: Box, protocol: str) -> None:
    assert box.probe([Probe("x/a", "10.78.1.2", protocol, 80)])[0].reached
    (servers,) = (process for process in psutil.Process().children() if "loadtest.testbed.echo" in process.cmdline())
    servers.suspend()
    waker = threading.Timer(TIMEOUT_S / 2, servers.resume)
    waker.start()
    (result,) = box.probe([Probe("x/a", "10.78.1.2", protocol, 80)])
    waker.join()
    assert result.reached


def test_an_attempt_starts_as_late_as_it_was_asked_to(box: Box) -> None:
    late, early = box.probe([Probe("x/a", "10.78.1.2", "TCP", 80, delay_s=0.3), Probe("x/a", "10.78.1.2", "TCP", 80)])
    assert late.reached
    assert early.reached
    assert late.started_s - early.started_s >= 0.3


def test_conntrack_tracks_connections_without_an_agent(box: Box) -> None:
    (result,) = box.probe([Probe("x/a", "10.78.1.2", "UDP", 80)])
    listed = box.run("node", ["conntrack", "-L", "-p", "udp", "--orig-port-src", str(result.probe.source_port)]).stdout
    assert f"src=10.78.1.1 dst=10.78.1.2 sport={result.probe.source_port} dport=80" in listed


def test_the_sctp_checksum_is_the_castagnoli_one() -> None:
    """Source of the value: the catalogue of CRC algorithms, CRC-32/ISCSI."""
    assert sctp.crc32c(b"123456789") == 0xE3069283


def test_conntrack_accepts_the_built_sctp_packets_as_valid(box: Box) -> None:
    box.nft("add table inet valid; add chain inet valid forward { type filter hook forward priority 0; }")
    box.nft("add rule inet valid forward meta l4proto sctp ct state invalid drop")
    try:
        results = box.probe([Probe("x/a", box.address("x/b", family), "SCTP", 80) for family in (4, 6)])
    finally:
        box.nft("delete table inet valid")
    assert all(result.reached for result in results)


def test_boxes_stand_side_by_side(box: Box) -> None:
    with Box(node=NODE, hosts=HOSTS) as other:
        assert not set(other.namespaces.values()) & set(box.namespaces.values())
        assert [result.outcome for result in other.probe([Probe("x/a", "10.78.1.2", "TCP", 80)])] == [Outcome.REACHED]
    assert [result.outcome for result in box.probe([Probe("x/a", "10.78.1.2", "TCP", 80)])] == [Outcome.REACHED]


def test_an_error_removes_the_box_and_the_processes_in_it(tmp_path: Path) -> None:
    box = Box(node=NODE, hosts=HOSTS)

    def fail() -> None:
        with box:
            started.append(box.popen("x/a", ["sleep", "600"], log=tmp_path / "log"))
            while psutil.Process(started[0].pid).name() != "sleep":  # `ip netns exec` until then, which ends in its own way
                time.sleep(0.01)
            assert netns.existing(box.prefix)
            raise ZeroDivisionError

    started: list[subprocess.Popen[str]] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert netns.existing(box.prefix) == []
    assert not box.directory.exists()
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_box_that_cannot_be_built_leaves_nothing() -> None:
    box = Box(node=NODE, hosts=[Host(name="x/a", addresses=("no address",))])
    with pytest.raises(RuntimeError, match="ip in"), box:
        pass
    assert netns.existing(box.prefix) == []
    assert not box.directory.exists()


_BUILDER = textwrap.dedent(
    """
    import time
    from tests.netns.test_box import HOSTS, NODE
    from loadtest.testbed.box import Box
    with Box(node=NODE, hosts=HOSTS) as box:
        box.popen("x/a", ["sleep", "600"], log=box.directory / "log")
        print("built", flush=True)
        time.sleep(600)
    """
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_a_finished_box(number: signal.Signals) -> None:
    builder = subprocess.Popen([sys.executable, "-c", _BUILDER], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"built\n"
        builder.send_signal(number)
        assert builder.wait(LIMIT_S) != 0
    _assert_nothing_left(builder.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_a_box_that_is_being_built(number: signal.Signals) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-c", _BUILDER], cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with builder:
        deadline_s = time.monotonic() + LIMIT_S
        while not netns.existing(f"npq-{builder.pid}-") and time.monotonic() < deadline_s:
            time.sleep(0.001)
        builder.send_signal(number)
        assert builder.wait(LIMIT_S) != 0
    _assert_nothing_left(builder.pid)


_TITLES = ("Without policies", "With the NetworkPolicies", "With the ClusterNetworkPolicies", "Denied by", "Live edit", "Metrics")


def test_the_demo_finds_what_the_policies_allow_and_leaves_nothing() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "tests.demo"], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=100, env=_UTF8
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert all(title in demo.stdout for title in _TITLES)
    assert "\x1b" not in demo.stdout
    assert max(map(len, demo.stdout.splitlines())) <= 100


@pytest.mark.parametrize("title", [b"connectivity between pods", b"Without policies", b"With the NetworkPolicies", b"Metrics"])
def test_the_demo_leaves_nothing_when_interrupted(title: bytes) -> None:
    """Before and after it has built the box, when the agent has started, and at its end."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "tests.demo"], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_UTF8
    )
    with demo:
        assert demo.stdout is not None
        assert any(title in line for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(LIMIT_S) == 130
    assert b"interrupted" in rest
    _assert_nothing_left(demo.pid)


_UTF8 = {**os.environ, "PYTHONUTF8": "1"}


def _assert_nothing_left(pid: int) -> None:
    """Neither namespaces nor folders of a process, nor others that it started."""
    assert netns.existing(f"npq-{pid}-") == []
    assert list(Path("/tmp").glob(f"npq-{pid}-*")) == []  # noqa: S108 (only looked at)
    started = [process.name for process in Path("/proc").glob("[0-9]*") if f"npq-{pid}-".encode() in _command_line(process)]
    assert started == []


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
