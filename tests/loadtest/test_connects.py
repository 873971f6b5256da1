"""The client that times connect(): the number of its connections, their source ports, and that none stays in TIME_WAIT."""

import json
import subprocess

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loadtest.connects import Report
from loadtest.native.build import program
from loadtest.testbed.box import Box, Host

NODE = Host(name="node", addresses=("10.77.0.1", "fd77::1"))
POD = Host(name="x/pod", addresses=("10.77.1.1", "fd77::1:1"))
CLIENT = Host(name="x/client", addresses=("10.77.2.1", "fd77::2:1"))
PORT = 9090
COUNT = 200
SYN_REPEATED_S = 1.0


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(node=NODE, hosts=[CLIENT, POD]) as built:
        for family in (4, 6):
            argv = [str(program("connects")), "--serve", POD.address(family), "--port", str(PORT)]
            server = built.popen(POD.name, argv, log=built.directory / "server.log", pipe=True)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield built


def connect(box: Box, *words: str, family: int = 4, port: int = PORT) -> Report:
    argv = [str(program("connects")), "--from", CLIENT.address(family), "--to", POD.address(family), "--port", str(port), *words]
    done = box.run(CLIENT.name, argv)
    assert done.returncode == 0, done.stderr
    report: Report = json.loads(done.stdout)
    assert len(report["connect_ns"]) == report["connected"]
    return report


@contextmanager
def counted(box: Box, port: int, *, drop: bool = False) -> Iterator[None]:
    """Source ports of the SYN packets that reach the pod, in a set of nft."""
    rules = f"tcp dport {port} tcp flags & (syn|ack) == syn add @seen {{ tcp sport }}{' drop' if drop else ''}"
    script = f"""table inet seen {{
        set seen {{ type inet_service; size 65535; flags dynamic; }}
        chain incoming {{ type filter hook prerouting priority -300; {rules}; }}
    }}"""
    assert box.run(POD.name, ["nft", "-f", "-"], stdin=script).returncode == 0
    try:
        yield
    finally:
        box.run(POD.name, ["nft", "delete", "table", "inet", "seen"])


def seen(box: Box) -> list[int]:
    document = json.loads(box.run(POD.name, ["nft", "--json", "list", "set", "inet", "seen", "seen"]).stdout)
    (found,) = (entry["set"] for entry in document["nftables"] if "set" in entry)
    return sorted(found.get("elem", []))


@pytest.mark.parametrize("family", [4, 6])
def test_each_connection_has_the_next_port_and_none_stays_in_time_wait(box: Box, family: int) -> None:
    """After the last port it continues with 1024. Neither end has a connection in TIME_WAIT."""
    first = 65_536 - COUNT // 2
    with counted(box, PORT):
        report = connect(box, "--count", str(COUNT), "--first-port", str(first), family=family)
        ports = seen(box)
    assert (report["connected"], report["failed"]) == (COUNT, 0)
    assert report["next_port"] == 1024 + COUNT // 2
    assert ports == [*range(1024, 1024 + COUNT // 2), *range(first, 65_536)]
    assert all(sample > 0 for sample in report["connect_ns"])
    for host in (CLIENT, POD):
        assert box.run(host.name, ["ss", "--no-header", "--tcp", "--numeric", "state", "time-wait"]).stdout == ""


def test_a_port_may_be_used_again_at_once(box: Box) -> None:
    for _ in range(2):
        assert connect(box, "--count", "50", "--first-port", "30000")["connected"] == 50


def test_a_load_does_not_exceed_its_rate_and_ends_in_time(box: Box) -> None:
    report = connect(box, "--seconds", "0.3", "--rate", "500")
    assert 1 <= report["connected"] <= 150
    assert report["seconds"] >= 0.3


def test_a_refused_connection_has_failed_and_has_no_time(box: Box) -> None:
    report = connect(box, "--count", "5", port=PORT + 1)
    assert (report["connected"], report["failed"], report["connect_ns"]) == (0, 5, [])


def test_an_unanswered_connection_times_out_and_later_ones_are_timed_from_when_they_were_due(box: Box) -> None:
    """The first one is dropped, so the next ones are late and start at once."""
    with counted(box, PORT, drop=True):
        report = connect(box, "--count", "1", "--timeout-ms", "100")
        assert (report["connected"], report["failed"]) == (0, 1)
        assert 0.1 <= report["seconds"] < SYN_REPEATED_S, "it does not wait for the second SYN"
    once = "table inet once { chain incoming { type filter hook prerouting priority -300; tcp sport 40000 drop; }; }"
    assert box.run(POD.name, ["nft", "-f", "-"], stdin=once).returncode == 0
    report = connect(box, "--count", "20", "--rate", "1000", "--first-port", "40000", "--timeout-ms", "100")
    box.run(POD.name, ["nft", "delete", "table", "inet", "once"])
    assert (report["connected"], report["failed"], report["late"]) == (19, 1, 19)
    # The second was due a millisecond after the first and waited for its end; each later one waited a millisecond less.
    first, *_, last = report["connect_ns"]
    assert first > 90e6
    assert first > last > 70e6


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "--port and either --serve or both --from and --to"),
        (["--port", "0"], "--port 0"),
        (["--port", "80", "--serve", "10.0.0.300"], "--serve 10.0.0.300"),
        (["--port", "80", "--serve", "10.0.0.1", "--from", "10.0.0.1"], "--serve and --from"),
        (["--port", "80", "--from", "10.0.0.1", "--to", "10.0.0.2"], "--count or --seconds"),
        (["--port", "80", "--from", "10.0.0.1", "--to", "fd00::1", "--count", "1"], "different families"),
        (["--count", "3000000"], "--count 3000000"),
        (["--seconds", "601"], "--seconds 601"),
        (["--rate", "none"], "--rate none"),
        (["--first-port", "80"], "--first-port 80"),
        (["--timeout-ms", "0"], "--timeout-ms 0"),
        (["more"], "more: unexpected"),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], complaint: str) -> None:
    done = subprocess.run([program("connects"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr
