"""Malformed packets of an attacker, through a real queue: no denied packet arrives, and every packet gets a verdict."""

import re
import socket

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet, Raw

from loadtest.testbed.manifests import Body
from tests.support.cluster import Cluster
from tests.support.four_pods import cluster_with, ingress, pods

Made = Callable[[str, str], Packet]
LONG = [IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(14))]) for _ in range(4)]


def chain(*headers: Packet) -> Packet:
    found = headers[0]
    for header in headers[1:]:
        found = found / header.copy()
    return found


V4: dict[str, Made] = {
    "plain UDP": lambda s, d: IP(src=s, dst=d) / UDP(sport=5, dport=80),
    "plain TCP": lambda s, d: IP(src=s, dst=d) / TCP(sport=5, dport=80),
    "options": lambda s, d: IP(src=s, dst=d, options=[b"\x01" * 40]) / UDP(sport=6, dport=80),
    "first fragment": lambda s, d: IP(src=s, dst=d, flags="MF", id=7) / UDP(sport=7, dport=80) / Raw(b"x" * 24),
    "lonely later fragment": lambda s, d: IP(src=s, dst=d, frag=100, proto=17, id=8) / Raw(b"x" * 64),
    "tiny first fragment": lambda s, d: IP(src=s, dst=d, flags="MF", proto=6, id=9) / Raw(b"\x00\x05\x00\x50" + bytes(4)),
    "overlapping fragments": lambda s, d: (
        IP(src=s, dst=d, flags="MF", id=21, proto=17) / Raw(bytes(UDP(sport=5, dport=443, len=48)) + bytes(24))
    ),
    "the fragment that overlaps": lambda s, d: (
        IP(src=s, dst=d, frag=0, flags="MF", id=21, proto=17) / Raw(bytes(UDP(sport=5, dport=80, len=48)) + bytes(16))
    ),
    "the end of overlapping fragments": lambda s, d: IP(src=s, dst=d, frag=4, id=21, proto=17) / Raw(bytes(16)),
    "larger than its length": lambda s, d: IP(src=s, dst=d) / UDP(sport=16, dport=80, len=8) / Raw(bytes(64)),
    "smaller than its length": lambda s, d: IP(src=s, dst=d) / UDP(sport=17, dport=80, len=2000) / Raw(bytes(8)),
    "a source route": lambda s, d: (
        IP(src=s, dst=d, options=[b"\x83\x07\x04" + socket.inet_aton("10.79.1.4") + b"\x00"]) / UDP(sport=18, dport=80)
    ),
    "a broken option": lambda s, d: IP(src=s, dst=d, options=[b"\x44\xff\xff\xff"]) / UDP(sport=19, dport=80),
    "as large as fits": lambda s, d: IP(src=s, dst=d) / UDP(sport=20, dport=80) / Raw(bytes(1400)),
    "no room for ports": lambda s, d: IP(src=s, dst=d, proto=17) / Raw(b"\x00\x05"),
    "nothing behind the header": lambda s, d: IP(src=s, dst=d, proto=6),
    "port 0": lambda s, d: IP(src=s, dst=d) / UDP(sport=5, dport=0),
    "all flags": lambda s, d: IP(src=s, dst=d) / TCP(sport=8, dport=80, flags=0xFF),
    "no flags": lambda s, d: IP(src=s, dst=d) / TCP(sport=9, dport=80, flags=0),
    "middle of a connection": lambda s, d: IP(src=s, dst=d) / TCP(sport=10, dport=80, flags="A", seq=7, ack=9),
    "IP in IP": lambda s, d: IP(src=s, dst=d) / IP(src=s, dst=d) / UDP(sport=5, dport=80),
    "GRE": lambda s, d: IP(src=s, dst=d) / GRE() / IP(src=s, dst=d) / UDP(sport=5, dport=80),
    "ESP": lambda s, d: IP(src=s, dst=d) / ESP(spi=1, seq=1, data=b"x" * 32),
    "IPv6 in IPv4": lambda s, d: IP(src=s, dst=d, proto=41) / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=5, dport=80),
    "SCTP": lambda s, d: IP(src=s, dst=d) / SCTP(sport=5, dport=80) / SCTPChunkInit(init_tag=1),
    "ICMP": lambda s, d: IP(src=s, dst=d) / ICMP(id=5),
    "ICMP error about an unknown flow": lambda s, d: (
        IP(src=s, dst=d) / ICMP(type=3, code=3) / IP(src=d, dst=s) / UDP(sport=80, dport=5)
    ),
    "experimental protocol": lambda s, d: IP(src=s, dst=d, proto=253) / Raw(b"x" * 20),
    "from loopback": lambda _s, d: IP(src="127.0.0.1", dst=d) / UDP(sport=5, dport=80),
    "from the broadcast address": lambda _s, d: IP(src="255.255.255.255", dst=d) / UDP(sport=5, dport=80),
}
V6: dict[str, Made] = {
    "plain UDP": lambda s, d: IPv6(src=s, dst=d) / UDP(sport=5, dport=80),
    "extension headers": lambda s, d: chain(
        IPv6(src=s, dst=d), IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), UDP(sport=5, dport=80)
    ),
    "more headers than are copied": lambda s, d: chain(IPv6(src=s, dst=d), *LONG, *LONG, UDP(sport=6, dport=80)),
    "routing": lambda s, d: chain(IPv6(src=s, dst=d), IPv6ExtHdrRouting(segleft=0), UDP(sport=7, dport=80)),
    "authentication": lambda s, d: chain(IPv6(src=s, dst=d), AH(nh=17, payloadlen=4, icv=bytes(12)), UDP(sport=8, dport=80)),
    "first fragment": lambda s, d: chain(
        IPv6(src=s, dst=d), IPv6ExtHdrFragment(m=1, id=9), UDP(sport=9, dport=80), Raw(bytes(16))
    ),
    "lonely later fragment": lambda s, d: IPv6(src=s, dst=d) / IPv6ExtHdrFragment(offset=9, nh=17, id=10) / Raw(bytes(16)),
    "atomic fragment": lambda s, d: chain(IPv6(src=s, dst=d), IPv6ExtHdrFragment(id=11), UDP(sport=11, dport=80)),
    "later fragment that looks like headers": lambda s, d: (
        IPv6(src=s, dst=d)
        / IPv6ExtHdrFragment(offset=9, nh=60, id=12)
        / Raw(b"\x11\x00" + bytes(6) + b"\x00\x05\x00\x50" + bytes(8))
    ),
    "a header that ends early": lambda s, d: IPv6(src=s, dst=d, nh=60) / Raw(b"\x11\xff"),
    "mobility in front of UDP": lambda s, d: (
        IPv6(src=s, dst=d, nh=135) / Raw(b"\x11\x00" + bytes(6) + bytes(UDP(sport=5, dport=80)))
    ),
    "as many headers as are copied": lambda s, d: chain(
        IPv6(src=s, dst=d), *(IPv6ExtHdrDestOpt() for _ in range(10)), UDP(sport=12, dport=80)
    ),
    "the longest header": lambda s, d: chain(
        IPv6(src=s, dst=d), IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(255))] * 7), UDP(sport=13, dport=80)
    ),
    "routing that goes on": lambda s, d: chain(
        IPv6(src=s, dst=d), IPv6ExtHdrRouting(segleft=1, addresses=["fd79::1:4"]), UDP(sport=14, dport=80)
    ),
    "hop by hop in the middle": lambda s, d: chain(
        IPv6(src=s, dst=d), IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), UDP(sport=15, dport=80)
    ),
    "no room for ports": lambda s, d: IPv6(src=s, dst=d, nh=17) / Raw(b"\x00\x05"),
    "port 0": lambda s, d: IPv6(src=s, dst=d) / UDP(sport=0, dport=0),
    "overlapping fragments": lambda s, d: (
        IPv6(src=s, dst=d) / IPv6ExtHdrFragment(offset=0, m=1, nh=17, id=13) / Raw(bytes(UDP(sport=5, dport=443)) + bytes(16))
    ),
    "the fragment that overlaps": lambda s, d: (
        IPv6(src=s, dst=d) / IPv6ExtHdrFragment(offset=0, m=0, nh=17, id=13) / Raw(bytes(UDP(sport=5, dport=80)) + bytes(8))
    ),
    "unknown header": lambda s, d: IPv6(src=s, dst=d, nh=253) / Raw(bytes(32)),
    "jumbogram, by its option": lambda s, d: (
        IPv6(src=s, dst=d, plen=0, nh=0) / IPv6ExtHdrHopByHop(nh=17, options=[Jumbo(jumboplen=70_000)]) / UDP(sport=16, dport=80)
    ),
    "no next header": lambda s, d: IPv6(src=s, dst=d, nh=59) / Raw(bytes(8)),
    "IPv4 in IPv6": lambda s, d: IPv6(src=s, dst=d) / IP(src="10.79.1.2", dst="10.79.1.1") / UDP(sport=5, dport=80),
    "echo": lambda s, d: IPv6(src=s, dst=d) / ICMPv6EchoRequest(id=5),
    "neighbour discovery from afar": lambda s, d: IPv6(src=s, dst=d, nh=58, hlim=64) / Raw(b"\x87\x00\x00\x00" + bytes(20)),
    "mapped source": lambda _s, d: IPv6(src="::ffff:10.79.1.3", dst=d) / UDP(sport=5, dport=80),
}
FROM_C: Body = {"from": [{"podSelector": pods("c")}]}
FROM_B: Body = {"from": [{"podSelector": pods("b")}]}
_COUNTERS = """table inet arrivals {
    counter from_b { }
    chain incoming { type filter hook prerouting priority -500; iifname eth0 meta l4proto != ipv6-icmp counter name from_b; }
    chain echoes { type filter hook prerouting priority -499; icmpv6 type echo-request counter name from_b; }
}"""


@pytest.fixture(
    scope="module",
    params=[
        (f"--fail-open={fail_open}", f"--verdict-cache={cache}") for fail_open in ("false", "true") for cache in ("on", "off")
    ],
    ids=" ".join,
)
def world(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An agent in each mode, with the verdict cache and without; pod a counts all packets that arrive except neighbour discovery."""
    with cluster_with("--workers", "2", "--no-fanout", *request.param) as cluster:
        assert cluster.box.run("x/a", ["nft", "-f", "-"], stdin=_COUNTERS).returncode == 0
        yield cluster


def arrived(cluster: Cluster) -> int:
    listed = cluster.box.run("x/a", ["nft", "list", "counter", "inet", "arrivals", "from_b"]).stdout
    found = re.search(r"packets (\d+)", listed)
    assert found is not None, listed
    return int(found[1])


def send_all(cluster: Cluster, family: int) -> int:
    """Send every packet from pod b to pod a unchanged. Returns how many its kernel accepted."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    source, destination = (cluster.box.address(name, family) for name in ("x/b", "x/a"))
    sent = 0
    with cluster.box.inside("x/b", lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        for make in (V4 if family == 4 else V6).values():
            with suppress(OSError):
                raw.sendto(bytes(make(source, destination)), (destination, 0))
                sent += 1
    return sent


def wait_for_arrivals(cluster: Cluster) -> None:
    """Wait until no packet waits for a verdict. The kernel delivers an accepted packet within the call that gives the verdict."""
    agent = cluster.agent
    agent.wait_until("nothing waits", lambda: sum(queue.queue_total for queue in agent.queues()) == 0)


@pytest.mark.parametrize("family", [4, 6])
def test_no_denied_packet_arrives_and_every_packet_gets_a_verdict(world: Cluster, family: int) -> None:
    world.apply([ingress(FROM_C)])
    workers = [worker["pid"] for worker in world.agent.status()["workers"]]
    queued, before = world.agent.packets_queued(), arrived(world)
    sent = 0
    for _ in range(3):  # the kernel may answer repeated packets from the verdict cache
        sent = send_all(world, family)
        wait_for_arrivals(world)
    assert sent >= len(V4 if family == 4 else V6) - 3, "most of them must leave the pod to show anything"
    assert arrived(world) == before
    assert world.agent.packets_queued() - queued >= sent // 2, "they must reach the queue to show anything"
    assert [worker["pid"] for worker in world.agent.status()["workers"]] == workers
    assert "Traceback" not in world.agent.log.read_text()


@pytest.mark.parametrize("family", [4, 6])
def test_allowed_packets_arrive_even_if_malformed(world: Cluster, family: int) -> None:
    """So the test above shows the effect of the policy. Such packets arrive without it."""
    world.apply([ingress(FROM_B)])
    before = arrived(world)
    send_all(world, family)
    wait_for_arrivals(world)
    least = 10 if family == 4 else 6  # a kernel forwards few kinds of IPv6 packets that it would not send by itself
    world.agent.wait_until("enough arrive", lambda: arrived(world) - before >= least)


def forget_connections(cluster: Cluster) -> None:
    """Remove all connections: a packet of a connection that an earlier test had accepted would not be queued."""
    assert cluster.box.run(cluster.box.node.name, ["conntrack", "-F"]).returncode == 0


def malformed(cluster: Cluster) -> int:
    """Number of packets that the workers could not parse."""
    found = re.search(r"^netpolq_malformed_packets_total(?:{[^}]*})? (\d+)", cluster.agent.metrics(), re.MULTILINE)
    return int(found[1]) if found is not None else 0


@pytest.mark.parametrize("header", [135, 139, 140])
def test_bytes_behind_an_unknown_header_are_not_parsed_as_ports(world: Cluster, header: int) -> None:
    """The policy admits UDP. A parser that skips an unknown header like an extension header would find UDP behind it."""
    world.apply([ingress({**FROM_B, "ports": [{"protocol": "UDP", "port": 80}]})])
    forget_connections(world)
    source, destination = (world.box.address(name, 6) for name in ("x/b", "x/a"))
    disguised = IPv6(src=source, dst=destination, nh=header) / Raw(b"\x11\x00" + bytes(6) + bytes(UDP(sport=9, dport=80)))
    plain = IPv6(src=source, dst=destination) / UDP(sport=9, dport=80)
    before, queued = arrived(world), world.agent.packets_queued()
    with world.box.inside("x/b", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        for _ in range(3):
            raw.sendto(bytes(disguised), (destination, 0))
        world.agent.wait_until("they have been queued", lambda: world.agent.packets_queued() >= queued + 3)
        wait_for_arrivals(world)
        assert arrived(world) == before
        raw.sendto(bytes(plain), (destination, 0))
        world.agent.wait_until("what is admitted arrives", lambda: arrived(world) == before + 1)


def test_unreadable_packets_are_dropped_in_both_modes_even_if_all_traffic_is_admitted(world: Cluster) -> None:
    world.apply([ingress(FROM_B)])
    source, destination = (world.box.address(name, 6) for name in ("x/b", "x/a"))
    # To a port that no earlier packet used: the verdict cache reads as far as the kernel does, and may find the connection.
    unreadable = chain(IPv6(src=source, dst=destination), *LONG, *LONG, UDP(sport=6, dport=4444))
    before, unread, queued = arrived(world), malformed(world), world.agent.packets_queued()
    with world.box.inside("x/b", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        for _ in range(5):
            raw.sendto(bytes(unreadable), (destination, 0))
    world.agent.wait_until("they have been queued", lambda: world.agent.packets_queued() >= queued + 5)
    wait_for_arrivals(world)
    assert arrived(world) == before
    world.agent.wait_until("each is counted", lambda: malformed(world) >= unread + 5)
