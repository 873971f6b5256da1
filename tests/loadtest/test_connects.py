"""The client that times connects does what it claims: real connections between two pods of a box, answered, refused and unanswered."""

import json
import socket
import subprocess
import time

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest.native.build import program
from tests.support.box import Box, Host

NODE = Host(name="node", addresses=("10.74.0.1", "fd74::1"))
CLIENT = Host(name="x/client", addresses=("10.74.1.1", "fd74:1::1"))
SERVER = Host(name="x/server", addresses=("10.74.1.2", "fd74:1::2"))
PORT, CLOSED, SILENT = 80, 81, 82
COUNT = 200
WAYS = ((), ("--offered",))


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """One port of the server is dropped on the way."""
    with Box(node=NODE, hosts=[CLIENT, SERVER]) as built:
        built.nft(f"table inet silent {{ chain forward {{ type filter hook forward priority 0; tcp dport {SILENT} drop; }}; }}")
        yield built


@contextmanager
def listening(box: Box, family: int) -> Iterator[socket.socket]:
    """On the server, with room for every connection of a test."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with box.inside(SERVER.name, lambda: socket.socket(kind, socket.SOCK_STREAM)) as listener:
        listener.bind((SERVER.address(family), PORT))
        listener.listen(2 * COUNT)
        listener.settimeout(2.0)
        yield listener


def connects(box: Box, *words: str, port: int = PORT, family: int = 4, count: int = COUNT) -> dict[str, object]:
    ends = (CLIENT.address(family), SERVER.address(family))
    done = box.run(CLIENT.name, [str(program("connects")), *words, *ends, str(port), str(count), "2000"])
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


def timed(report: dict[str, object]) -> list[int]:
    found = report["connect_ns"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("words", WAYS)
def test_every_connection_is_timed_and_comes_from_a_port_of_its_own(box: Box, words: tuple[str, ...], family: int) -> None:
    with listening(box, family) as listener:
        report = connects(box, *words, family=family)
        ports = set()
        for _ in range(COUNT):
            accepted, peer = listener.accept()
            accepted.close()
            ports.add(peer[1])
    assert report["failed"] == 0
    assert len(timed(report)) == COUNT
    assert all(nanoseconds > 0 for nanoseconds in timed(report))
    assert len(ports) == COUNT


@pytest.mark.parametrize("words", WAYS)
def test_nothing_lingers_at_the_client(box: Box, words: tuple[str, ...]) -> None:
    with listening(box, 4):
        connects(box, *words)
    assert box.run(CLIENT.name, ["ss", "--no-header", "--tcp", "--all"]).stdout == ""


@pytest.mark.parametrize("words", WAYS)
def test_a_refusal_is_a_failure_at_once(box: Box, words: tuple[str, ...]) -> None:
    began_s = time.monotonic()
    report = connects(box, *words, port=CLOSED)
    assert (report["failed"], timed(report)) == (COUNT, [])
    assert time.monotonic() - began_s < 3.0


def test_offered_connections_do_not_wait_for_those_that_nobody_answers(box: Box) -> None:
    """Each waits for three seconds: one after the other, twenty would take a minute."""
    began_s = time.monotonic()
    report = connects(box, "--offered", port=SILENT, count=20)
    assert (report["failed"], timed(report)) == (20, [])
    assert 3.0 <= time.monotonic() - began_s < 15.0


def test_waiting_in_vain_does_not_count_as_time_in_which_connections_were_opened(box: Box) -> None:
    seconds = connects(box, "--offered", port=SILENT, count=20)["seconds"]
    assert isinstance(seconds, float)
    assert seconds < 3.0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "SOURCE, DESTINATION, PORT, COUNT and RATE"),
        (("--offered", "10.0.0.1", "10.0.0.2", "80", "1"), "SOURCE, DESTINATION, PORT, COUNT and RATE"),
        (("x", "10.0.0.2", "80", "1", "1"), "'x' is not an IP address"),
        (("10.0.0.1", "fd00::1", "80", "1", "1"), "different families"),
        (("10.0.0.1", "10.0.0.2", "0", "1", "1"), "PORT: '0'"),
        (("10.0.0.1", "10.0.0.2", "80", "-1", "1"), "COUNT: '-1'"),
        (("10.0.0.1", "10.0.0.2", "80", "1", "fast"), "RATE: 'fast'"),
    ],
)
def test_a_wrong_argument_is_named(words: tuple[str, ...], complaint: str) -> None:
    done = subprocess.run([program("connects"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
