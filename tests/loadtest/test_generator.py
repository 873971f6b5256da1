"""The packets of the generator: their checksums, flows, number and rate."""

import json
import socket
import subprocess

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

from loadtest.native.build import program
from loadtest.testbed.box import Box, Host

NODE = Host(name="node", addresses=("10.77.0.1", "fd77::1"))
POD = Host(name="x/pod", addresses=("10.77.1.1", "fd77::1:1"))
SENDER = Host(name="sender", addresses=("10.77.2.1", "fd77::2:1"))
ALL_FRAMES = 3  # ETH_P_ALL, linux/if_ether.h
COUNT = 300


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[SENDER, POD]) as built:
        yield built


@contextmanager
def listening(box: Box) -> Iterator[socket.socket]:
    """Every frame that reaches the pod."""
    kind = lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))  # noqa: E731
    with box.inside(POD.name, kind) as receiver:
        receiver.bind(("eth0", ALL_FRAMES))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.settimeout(2.0)
        yield receiver


def generate(box: Box, *words: str) -> dict[str, float]:
    to_mac = box.run(NODE.name, ["cat", "/sys/class/net/pod0/address"]).stdout.strip()
    done = box.run(SENDER.name, [str(program("flows")), "--interface", "eth0", "--to-mac", to_mac, *words])
    assert done.returncode == 0, done.stderr
    report: dict[str, float] = json.loads(done.stdout)
    return report


def received(receiver: socket.socket, count: int, kind: type[UDP] | type[TCP]) -> list[Ether]:
    found: list[Ether] = []
    while len(found) < count:
        frame = Ether(receiver.recv(2048))
        if kind in frame and frame[kind].dport != 0 and frame.payload.src not in {*POD.addresses}:
            found.append(frame)
    return found


@pytest.mark.parametrize(
    ("family", "sources", "destination"),
    [(4, "10.88.0.250-10.88.1.9", "10.77.1.1"), (6, "fd88::fff0-fd88::1:f", "fd77::1:1")],
)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("order", ["ports", "random"])
def test_checksums_are_correct_and_every_packet_has_a_new_flow(
    box: Box, family: int, sources: str, destination: str, protocol: str, order: str
) -> None:
    """Seven bytes of payload: checksums treat an odd number differently."""
    kind = UDP if protocol == "udp" else TCP
    words = ("--source", sources, "--destination", destination, "--protocol", protocol, "--order", order, "--payload", "7")
    ports = (
        ("--source-ports", "2000-2019", "--destination-ports", "9000-9001")
        if order == "ports"
        else ("--destination-ports", "1-65535")
    )
    with listening(box) as receiver:
        report = generate(box, *words, *ports, "--count", str(COUNT))
        frames = received(receiver, COUNT, kind)
    assert (report["sent"], report["refused"]) == (COUNT, 0)
    for frame in frames:
        rebuilt = frame.copy()
        for layer in (rebuilt.payload, rebuilt[kind]):
            if hasattr(layer, "chksum"):
                del layer.chksum
        assert bytes(rebuilt) == bytes(frame)
    flows = {(frame.payload.src, frame.payload.dst, frame[kind].sport, frame[kind].dport) for frame in frames}
    assert len(flows) == COUNT
    if order == "ports":
        assert len({source for source, *_ in flows}) == COUNT // 20
    assert {frame.payload.dst for frame in frames} == {destination}


def test_a_later_part_continues_where_the_first_one_ended(box: Box) -> None:
    words = ("--source", "10.88.0.1-10.88.0.9", "--destination", "10.77.1.1", "--source-ports", "2000-2019")
    with listening(box) as receiver:
        generate(box, *words, "--count", "30")
        generate(box, *words, "--first", "30", "--count", "30")
        frames = received(receiver, 60, UDP)
    assert len({(frame.payload.src, frame[UDP].sport) for frame in frames}) == 60


def test_a_load_does_not_exceed_its_rate_and_ends_in_time(box: Box) -> None:
    words = ("--source", "10.88.0.1", "--destination", "10.77.1.1", "--rate", "1000")
    report = generate(box, *words, "--seconds", "0.3")
    assert 1 <= report["sent"] <= 301 + 1_000 * (report["seconds"] - 0.3)
    assert report["seconds"] >= 0.3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--interface, --to-mac, --source and --destination"),
        (["--to-mac", "1:2:3"], "--to-mac 1:2:3"),
        (["--source", "10.0.0.300"], "--source 10.0.0.300"),
        (["--source", "10.0.0.9-10.0.0.1"], "--source 10.0.0.9-10.0.0.1"),
        (["--source", "10.0.0.1/8"], "--source 10.0.0.1/8"),
        (["--source", "10.0.0.1", "--source", "fd00::1"], "another family"),
        (["--source-ports", "0-5"], "--source-ports 0-5"),
        (["--destination-ports", "70000"], "--destination-ports 70000"),
        (["--protocol", "icmp"], "--protocol icmp"),
        (["--order", "none"], "--order none"),
        (["--count", "none"], "--count none"),
        (["--rate", "-1"], "--rate -1"),
        (["more"], "more: unexpected"),
        (
            ["--interface", "e", "--to-mac", "0:0:0:0:0:1", "--source", "10.0.0.1", "--destination", "10.0.0.2"],
            "--count or --seconds",
        ),
        (
            ["--interface", "e", "--to-mac", "0:0:0:0:0:1", "--source", "10.0.0.1", "--destination", "fd00::2"],
            "different families",
        ),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], complaint: str) -> None:
    done = subprocess.run([program("flows"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
