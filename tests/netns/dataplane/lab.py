"""A node and two pods as network namespaces. The test process enters them, so that it can open sockets in each of them."""

import ctypes
import ipaddress
import os
import re
import select
import socket
import subprocess
import time

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from netfilterqueue import COPY_PACKET, NetfilterQueue, Packet

from netpolq.addresses import parse_address
from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.nft_program import DEADLINE_S as DEFAULT_NFT_DEADLINE_S
from netpolq.dataplane.ruleset import IsolatedSets, RulesetConfig
from netpolq.enums import Dataplane, NodeEgress, PacketMark, Verdict
from netpolq.netlink import queue_table
from netpolq_worker.worker.nfqueue import PacketHandler, Queue

DEADLINE_S = 20.0
NFT_DEADLINE_S = float(os.environ.get("NETPOLQ_TEST_NFT_DEADLINE_S", DEFAULT_NFT_DEADLINE_S))
"""An emulated machine needs more time for nft than the agent's default deadline."""

SILENCE_S = 0.2
"""How long a test waits for a packet that must not arrive. A packet crosses the lab within the call that sends it."""

MARK_MASK = 0x00070000
MARK_SHIFT = 16
CT_LABEL = 40

NODE, A, B, OUTSIDE = "node", "a", "b", "outside"
_NAMESPACES = (NODE, A, B, OUTSIDE)
ADDRESS = {
    (A, 4): "10.77.1.2",
    (B, 4): "10.77.2.2",
    (OUTSIDE, 4): "10.77.3.2",
    (NODE, 4): "10.77.1.1",
    (A, 6): "fd77:1::2",
    (B, 6): "fd77:2::2",
    (OUTSIDE, 6): "fd77:3::2",
    (NODE, 6): "fd77:1::1",
}

FAMILIES = pytest.mark.parametrize("family", [4, 6])
NOT_ISOLATED = IsolatedSets(ingress=frozenset(), egress=frozenset())
A_EGRESS = IsolatedSets(ingress=frozenset(), egress=frozenset(parse_address(ADDRESS[A, family]) for family in (4, 6)))
LOCAL = frozenset(parse_address(ADDRESS[pod, family]) for pod in (A, B) for family in (4, 6))
B_INGRESS = IsolatedSets(ingress=frozenset(parse_address(ADDRESS[B, family]) for family in (4, 6)), egress=frozenset())

POD_RANGES = tuple(map(ipaddress.ip_network, ("10.77.1.0/24", "10.77.2.0/24", "fd77:1::/64", "fd77:2::/64")))
"""Those of pods a and b, where each is on a pair of its own."""

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*command: str, given: str | None = None) -> str:
    finished = subprocess.run(command, check=False, capture_output=True, text=True, input=given, timeout=60)
    assert finished.returncode == 0, f"{' '.join(command)}: {finished.stderr}"
    return finished.stdout


Layout = Literal["veth", "ptp", "bridge", "stacked"]
"""How pods are connected to a node: by pairs with a subnet each, by pairs with routes to single addresses, or all by one bridge.

"stacked": on a bridge without addresses, to which the node is connected by a pair whose other end is a port.
"""

_BITS = {4: 32, 6: 128}
_WITH_PORTS = {socket.IPPROTO_TCP, socket.IPPROTO_UDP}


class Lab:
    """Pods a and b and a host outside, each on its own veth pair to the node, in both families. `node` routes between them."""

    def __init__(self, layout: Layout = "veth") -> None:
        self.layout = layout
        self._prefix = f"npqd-{os.getpid()}-"

    def build(self) -> None:
        for namespace in _NAMESPACES:
            run("ip", "netns", "add", self._prefix + namespace)
            self._in(namespace, "ip", "link", "set", "lo", "up")
        self._in(NODE, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        if self.layout in {"bridge", "stacked"}:
            self._in(NODE, "ip", "link", "add", "pods", "type", "bridge")
            self._in(NODE, "ip", "link", "set", "pods", "up")
        if self.layout == "stacked":
            self._in(NODE, "ip", "link", "add", "gateway", "type", "veth", "peer", "pods-port")
            self._in(NODE, "ip", "link", "set", "pods-port", "master", "pods", "up")
            self._in(NODE, "ip", "link", "set", "gateway", "up")
        for number, pod in enumerate((A, B, OUTSIDE), start=1):
            self._in(NODE, "ip", "link", "add", f"pod-{pod}", "type", "veth", "peer", "eth0", "netns", self._prefix + pod)
            if self._is_bridged(pod):
                self._in(NODE, "ip", "link", "set", f"pod-{pod}", "master", "pods")
            self._in(NODE, "ip", "link", "set", f"pod-{pod}", "up")
            self._in(pod, "ip", "link", "set", "eth0", "up")
            for family, near, far in (
                (4, f"10.77.{number}.1", f"10.77.{number}.2"),
                (6, f"fd77:{number}::1", f"fd77:{number}::2"),
            ):
                self._address(pod, family, near, far)

    def _is_bridged(self, pod: str) -> bool:
        return self.layout in {"bridge", "stacked"} and pod != OUTSIDE

    def _address(self, pod: str, family: int, near: str, far: str) -> None:
        nodad = ["nodad"] if family == 6 else []
        if self._is_bridged(pod):
            device, length = "gateway" if self.layout == "stacked" else "pods", 16
        else:
            device, length = f"pod-{pod}", 24 if family == 4 else 64
        if self.layout == "ptp":
            length = _BITS[family]
            self._in(pod, "ip", "route", "add", f"{near}/{length}", "dev", "eth0")
        self._in(NODE, "ip", "address", "add", f"{near}/{length}", "dev", device, *nodad)
        if self.layout == "ptp":
            self._in(NODE, "ip", "route", "add", f"{far}/{length}", "dev", device)
        self._in(pod, "ip", "address", "add", f"{far}/{length}", "dev", "eth0", *nodad)
        self._in(pod, "ip", "route", "add", "default", "via", near)

    def link_local(self, namespace: str, device: str = "eth0") -> str:
        """The link-local address of an interface, after duplicate address detection."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            shown = run("ip", "-n", self._prefix + namespace, "-6", "address", "show", "dev", device, "scope", "link")
            found = re.search(r"inet6 (fe80::\S+)/64", shown)
            if found and "tentative" not in shown:
                return found[1]
            time.sleep(0.05)
        raise AssertionError(f"{namespace} {device} has no link-local address")

    def hardware_address(self, namespace: str, device: str = "eth0") -> str:
        with self.inside(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((device, 0))
            return ":".join(f"{byte:02x}" for byte in wire.getsockname()[4])

    def send_frame(self, namespace: str, frame: bytes) -> None:
        """Send a frame from the interface of a pod."""
        with self.inside(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("eth0", 0))
            wire.send(frame)

    def sysctl(self, namespace: str, *settings: str) -> None:
        self._in(namespace, "sysctl", "-qw", *settings)

    def remove(self) -> None:
        for namespace in _NAMESPACES:
            with suppress(AssertionError):
                run("ip", "netns", "delete", self._prefix + namespace)

    def forget_neighbours(self) -> None:
        for namespace in _NAMESPACES:
            self._in(namespace, "ip", "neighbour", "flush", "all")

    def _in(self, namespace: str, *command: str) -> None:
        run("ip", "netns", "exec", self._prefix + namespace, *command)

    @contextmanager
    def inside(self, namespace: str) -> Iterator[None]:
        """This thread, and what it creates, in a namespace."""
        with ExitStack() as files:
            before = files.enter_context(Path("/proc/thread-self/ns/net").open())
            there = files.enter_context(Path(f"/run/netns/{self._prefix}{namespace}").open())
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def udp(self, namespace: str, family: int, port: int = 0) -> socket.socket:
        """A bound UDP socket; receiving waits at most for the deadline."""
        with self.inside(namespace):
            made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0" if family == 4 else "::", port))  # noqa: S104  # a namespace of our own
        made.settimeout(DEADLINE_S)
        return made

    @contextmanager
    def udp_flow(self, client: str, server: str, family: int = 4, *, port: int = 0) -> Iterator["UdpFlow"]:
        with self.udp(client, family) as near, self.udp(server, family, port) as far:
            yield UdpFlow(near, far, (ADDRESS[server, family], far.getsockname()[1]))


@contextmanager
def built(layout: Layout = "veth") -> Iterator[Lab]:
    """A lab, removed at the end."""
    made = Lab(layout)
    try:
        made.build()
        yield made
    finally:
        made.remove()


class UdpFlow:
    """A UDP flow between a client and a server."""

    def __init__(self, client: socket.socket, server: socket.socket, target: tuple[str, int] | tuple[str, int, int, int]) -> None:
        self._client, self._server, self._target = client, server, target
        self._peer: tuple[str, int] | None = None

    def close(self) -> None:
        self._client.close()
        self._server.close()

    def send(self, text: bytes = b"hello") -> None:
        self._client.sendto(text, self._target)

    def receive(self) -> bytes:
        """The next datagram at the server."""
        data, self._peer = self._server.recvfrom(100)
        return data

    def answer(self) -> None:
        assert self._peer is not None
        self._server.sendto(b"answer", self._peer)

    def answered(self) -> bytes:
        """The next datagram at the client."""
        return self._client.recv(100)

    def server_receives_nothing(self) -> bool:
        return not select.select([self._server], [], [], SILENCE_S)[0]

    def client_receives_nothing(self) -> bool:
        return not select.select([self._client], [], [], SILENCE_S)[0]


def both_ways(flow: UdpFlow) -> bool:
    """A datagram and its answer, which must arrive."""
    flow.send()
    flow.receive()
    flow.answer()
    return flow.answered() == b"answer"


class QueueListener:
    """A listener on queue 100 that holds packets until the test sets their verdict."""

    def __init__(self) -> None:
        self.waiting: list[Packet] = []
        self._queue = NetfilterQueue()
        self._queue.bind(100, self._keep, mode=COPY_PACKET, range=128)

    def _keep(self, packet: Packet) -> None:
        packet.retain()
        self.waiting.append(packet)

    def receive(self, count: int = 1) -> None:
        """Wait until this many packets are held."""
        self.listen_until(lambda: len(self.waiting) >= count)
        assert len(self.waiting) == count

    def listen_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not reached():
            assert time.monotonic() < deadline, f"{len(self.waiting)} packets are waiting"
            select.select([self._queue.get_fd()], [], [], 0.05)
            self._queue.run(block=False)

    def states(self) -> list[PacketMark]:
        """The state in the mark of each held packet."""
        return [PacketMark((packet.get_mark() & MARK_MASK) >> MARK_SHIFT) for packet in self.waiting]

    def accept(self) -> None:
        """Accept all held packets, as a worker does."""
        for packet in self.waiting:
            packet.set_mark((packet.get_mark() & ~MARK_MASK) | PacketMark.ACCEPTED << MARK_SHIFT)
            packet.accept()
        self.waiting.clear()

    def drop(self) -> None:
        for packet in self.waiting:
            packet.drop()
        self.waiting.clear()

    def close(self) -> None:
        self.drop()
        self._queue.unbind()


class Held(NamedTuple):
    """A packet that waits in a queue. `hook`: number of the netfilter hook; `mark`: the whole mark."""

    packet_id: int
    mark: int
    hook: int

    def with_state(self, state: PacketMark) -> int:
        """The mark with another state in the agent's bits."""
        return self.mark & ~MARK_MASK | state << MARK_SHIFT


class MovingListener:
    """A listener on any queue, which can also move packets to another queue. `seen`: number of packets so far.

    Only TCP and UDP count: kernels report their multicast groups at any time.
    """

    def __init__(self, queue_num: int) -> None:
        self.waiting: list[Held] = []
        self.seen = 0
        handler = self._keep()
        next(handler)
        self._queue = Queue(queue_num, handler, fail_open=False)

    def _keep(self) -> PacketHandler:
        while True:
            packet = yield None
            if packet is None:
                continue
            payload = packet.get_payload()
            if (payload[9] if payload[0] >> 4 == 4 else payload[6]) not in _WITH_PORTS:
                self._queue.verdict(packet.id, Verdict.DROP)
                continue
            self.seen += 1
            self.waiting.append(Held(packet.id, packet.get_mark(), packet.hook))

    def receive(self, count: int = 1) -> None:
        """Wait until this many packets are held."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.waiting) < count:
            assert time.monotonic() < deadline, f"{len(self.waiting)} packets are waiting"
            self.poll()
        assert len(self.waiting) == count

    def poll(self, limit_s: float = 0.05) -> None:
        """Read what is there, or arrives within the limit."""
        select.select([self._queue], [], [], limit_s)
        self._queue.receive()

    def states(self) -> list[PacketMark]:
        """The state in the mark of each held packet."""
        return [PacketMark((packet.mark & MARK_MASK) >> MARK_SHIFT) for packet in self.waiting]

    def move(self, queue_num: int, state: PacketMark) -> None:
        """Move all held packets to another queue, with this state."""
        for packet in self.waiting:
            self._queue.requeue(packet.packet_id, queue_num, packet.with_state(state))
        self.waiting.clear()

    def answer_at_once(self, dropped: Collection[int]) -> None:
        """Drop the held packets with these indexes and accept the other ones, as a worker does at the end of a batch."""
        last = self.waiting[-1]
        ids = [self.waiting[index].packet_id for index in dropped]
        self._queue.answer(ids, last.packet_id, last.with_state(PacketMark.ACCEPTED))
        self.waiting.clear()

    def accept(self, state: PacketMark = PacketMark.ACCEPTED) -> None:
        """Let all held packets pass the queue, with this state."""
        for packet in self.waiting:
            self._queue.accept(packet.packet_id, packet.with_state(state))
        self.waiting.clear()

    def drop(self) -> None:
        for packet in self.waiting:
            self._queue.verdict(packet.packet_id, Verdict.DROP)
        self.waiting.clear()

    def close(self) -> None:
        self.drop()
        self._queue.close()


def fail_closed(form: Dataplane, *, dns_in_prerouting: bool) -> RulesetConfig:
    """The configuration of a fail-closed agent with queue 100, with defaults otherwise."""
    return RulesetConfig(
        queue_first=100,
        queue_count=1,
        fanout=True,
        fail_open=False,
        mark_mask=MARK_MASK,
        ct_label=CT_LABEL,
        node_egress=NodeEgress.JUDGE,
        dns_in_prerouting=dns_in_prerouting,
        form=form,
    )


def nft(script: str) -> None:
    run("nft", "-f", "-", given=script)


def listing() -> str:
    return run("nft", "-a", "list", "ruleset")


def base_chain_handles() -> dict[str, str]:
    return dict(re.findall(r"chain (\S+) \{ # handle (\d+)\n\s*type filter", listing()))


def elements(name: str) -> set[str]:
    found = re.search(r"elements = \{ ([^}]*) \}", run("nft", "list", "set", "inet", "netpolq", name))
    return {one.strip() for one in found[1].split(",")} if found else set()


def counted(counter: str, family: int = 4) -> int:
    """Packets of a counter of the table `probe` of a family."""
    found = re.search(r"packets (\d+)", run("nft", "list", "counter", "ip" if family == 4 else "ip6", "probe", counter))
    assert found is not None
    return int(found[1])


async def without_verdict(ruleset: Ruleset) -> int:
    return (await ruleset.counters())["unjudged"]


def queued() -> int:
    """The number of packets that the kernel has queued in the only queue."""
    return queue_table.read()[0].id_sequence


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
