"""The scripts of the load test between two namespaces, with exactly the privileges of their jobs in a cluster."""

import re
import subprocess

from collections.abc import Iterator

import pytest

from loadtest.testbed.box import CHECKOUT, Box, Host

NODE = Host(name="node", addresses=("10.77.0.1", "fd77::1"))
POD = Host(name="x/pod", addresses=("10.77.1.1", "fd77::1:1"))
CLIENT = Host(name="x/client", addresses=("10.77.2.1", "fd77::2:1"))
SCRIPTS = CHECKOUT / "loadtest/scripts"
UNPRIVILEGED = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs", "--bounding-set", "-all")
RAW_SOCKET = ("setpriv", "--no-new-privs", "--inh-caps", "-all", "--bounding-set", "-all,+net_raw")
TARGET = ("--target", POD.address(4))
OPEN, CLOSED = 8080, 8090
DENIED = 9000
DENY = f"table inet deny {{ chain incoming {{ type filter hook prerouting priority -300; tcp dport {DENIED}-9999 drop; }}; }}"


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """The servers of the server job: iperf3 twice, once only as a listener."""
    with Box(node=NODE, hosts=[CLIENT, POD]) as built:
        assert built.run(POD.name, ["nft", "-f", "-"], stdin=DENY).returncode == 0
        for port in (5201, OPEN):
            argv = [*UNPRIVILEGED, "iperf3", "--server", "--port", str(port), "--forceflush"]
            server = built.popen(POD.name, argv, log=built.directory / f"iperf3-{port}.log", pipe=True)
            assert server.stdout is not None
            assert any("listening" in line for line in iter(server.stdout.readline, ""))
        yield built


def run(box: Box, name: str, *words: str, privileges: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return box.run(CLIENT.name, [*privileges, str(SCRIPTS / name), *words])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_throughput_is_that_of_the_receiver(box: Box, family: int, protocol: str) -> None:
    words = ("--target", POD.address(family), "--protocol", protocol, "--seconds", "1", "--mbit-per-s", "10")
    done = run(box, "throughput.sh", *words, privileges=UNPRIVILEGED)
    assert (done.returncode, done.stderr) == (0, "")
    rate = re.search(r"([\d.]+) Mbits/sec .*receiver$", done.stdout, re.MULTILINE)
    assert rate is not None, done.stdout
    assert float(rate[1]) > (0 if protocol == "tcp" else 5)


def test_throughput_reports_why_there_is_none(box: Box) -> None:
    done = run(box, "throughput.sh", *TARGET, "--port", str(CLOSED), "--seconds", "1", privileges=UNPRIVILEGED)
    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize("family", [4, 6])
def test_latency_has_as_many_samples_as_asked_for(box: Box, family: int) -> None:
    words = ("--target", POD.address(family), "--port", str(OPEN), "--count", "50", "--pause-ms", "1")
    done = run(box, "connect-latency.sh", *words, privileges=UNPRIVILEGED)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"50 of 50 connections to {POD.address(family)}" in done.stdout
    found = re.search(r"p50 (\d+), p90 (\d+), p99 (\d+), max (\d+)", done.stdout)
    assert found is not None, done.stdout
    values = [int(value) for value in found.groups()]
    assert values[0] > 0
    assert values == sorted(values)


def test_a_refused_connection_has_no_latency(box: Box) -> None:
    done = run(box, "connect-latency.sh", *TARGET, "--port", str(CLOSED), "--count", "5", privileges=UNPRIVILEGED)
    assert done.returncode == 1
    assert "0 of 5 connections" in done.stdout
    assert "refused" in done.stderr


def test_new_connections_that_are_answered_are_counted(box: Box) -> None:
    words = ("--port", str(OPEN), "--count", "200", "--rate", "1000")
    done = run(box, "connection-rate.sh", *TARGET, *words, privileges=RAW_SOCKET)
    assert (done.returncode, done.stderr) == (0, "")
    assert "200 SYN to " in done.stdout
    assert re.search("accepted (199|200), refused 0, unanswered 0", done.stdout), (
        done.stdout
    )  # hping3 may not report the last one


@pytest.mark.parametrize(
    ("port", "found"), [(CLOSED, "accepted 0, refused (49|50), unanswered 0"), (DENIED, "accepted 0, refused 0, unanswered 50")]
)
def test_refused_and_denied_connections_are_distinguished(box: Box, port: int, found: str) -> None:
    words = ("--port", str(port), "--count", "50", "--rate", "1000")
    done = run(box, "connection-rate.sh", *TARGET, *words, privileges=RAW_SOCKET)
    assert done.returncode == 1
    assert re.search(found, done.stdout), done.stdout


@pytest.mark.parametrize("words", [(), ("--next-ports",)])
def test_a_flood_that_is_denied_is_not_answered(box: Box, words: tuple[str, ...]) -> None:
    words = (*words, "--port", str(DENIED), "--count", "100", "--rate", "1000")
    done = run(box, "denied-flood.sh", *TARGET, *words, privileges=RAW_SOCKET)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"100 SYN to {POD.address(4)}, port {DENIED}" in done.stdout
    assert "answered 0 (accepted 0, refused 0), answered by ICMP 0" in done.stdout


def test_a_flood_that_partly_reaches_the_pod_is_reported(box: Box) -> None:
    words = ("--next-ports", "--port", "9990", "--count", "20", "--rate", "1000")
    done = run(box, "denied-flood.sh", *TARGET, *words, privileges=RAW_SOCKET)
    assert done.returncode == 1
    assert re.search("answered (9|10) ", done.stdout), done.stdout  # hping3 may not report the last one


def test_an_accepted_flood_is_reported(box: Box) -> None:
    done = run(box, "denied-flood.sh", *TARGET, "--port", str(OPEN), "--count", "20", "--rate", "1000", privileges=RAW_SOCKET)
    assert done.returncode == 1
    assert "A packet was answered" in done.stdout


def test_each_packet_of_a_flood_has_a_source_port_of_its_own(box: Box) -> None:
    script = """table inet seen {
        set ports { type inet_service; size 65535; flags dynamic; }
        chain incoming { type filter hook prerouting priority -301; tcp dport 9500 add @ports { tcp sport }; }
    }"""
    assert box.run(POD.name, ["nft", "-f", "-"], stdin=script).returncode == 0
    run(box, "denied-flood.sh", *TARGET, "--port", "9500", "--count", "100", "--rate", "1000", privileges=RAW_SOCKET)
    listed = box.run(POD.name, ["nft", "list", "set", "inet", "seen", "ports"]).stdout
    elements = listed[listed.index("elements") :]
    assert len(set(re.findall(r"\d+", elements))) == 100


def test_without_the_capability_hping3_is_not_started(box: Box) -> None:
    done = run(box, "connection-rate.sh", *TARGET, "--port", str(OPEN), privileges=UNPRIVILEGED)
    assert (done.returncode, done.stdout) == (2, "")
    assert "NET_RAW" in done.stderr
