"""The scripts for operators, run for real between two pods of a box: what they find, and what they refuse."""

import subprocess

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.box import CHECKOUT, Box, Host

SCRIPTS = CHECKOUT / "loadtest/scripts"
NAMES = ("connect-latency.sh", "connection-rate.sh", "denied-flood.sh", "throughput.sh")
NODE = Host(name="node", addresses=("10.73.0.1", "fd73::1"))
CLIENT = Host(name="app/client", addresses=("10.73.1.1", "fd73:1::1"))
SERVER = Host(name="app/server", addresses=("10.73.1.2", "fd73:1::2"), serves=(("TCP", 80),))
DENIED = 81


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    """Port 81 of the server is dropped on the way, as an agent drops what is denied."""
    with Box(node=NODE, hosts=[CLIENT, SERVER]) as made:
        made.nft(
            f"table inet denied {{ chain forward {{ type filter hook forward priority 0; tcp dport {DENIED}-4999 drop; }}; }}"
        )
        yield made


def script(box: Box, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return box.run(CLIENT.name, [str(SCRIPTS / name), *words])


def test_they_have_nothing_that_shellcheck_would_mend() -> None:
    paths = sorted(SCRIPTS.glob("*.sh"))
    assert {path.name for path in paths} == {*NAMES, "common.sh"}
    done = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path", str(SCRIPTS), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(name: str) -> None:
    done = subprocess.run([str(SCRIPTS / name), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"usage: {name} --target ADDRESS" in done.stdout
    assert "How to read it" in done.stdout
    assert "exit codes: 0 " in done.stdout


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "--target ADDRESS must be given"),
        (("--target", "shop-db"), "not an IPv4 or IPv6 address"),
        (("--target", "224.0.0.1"), "not the address of a single host"),
        (("--target", "ff02::1"), "a multicast address"),
        (("--target", "10.73.1.300"), "not an IPv4 or IPv6 address"),
        (("--target",), "--target needs a value"),
        (("--target", "10.73.1.2", "--port", "0"), "not a whole number from 1 to 65535"),
        (("--all",), "--all: unknown"),
    ],
)
def test_nothing_is_sent_without_one_plain_address(name: str, words: tuple[str, ...], complaint: str) -> None:
    done = subprocess.run([str(SCRIPTS / name), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        ("connection-rate.sh", ("--count", "50001"), "not a whole number from 1 to 50000"),
        ("connection-rate.sh", ("--count", "50000", "--rate", "100"), "takes more than 60 seconds"),
        ("denied-flood.sh", ("--rate", "20001"), "not a whole number from 1 to 20000"),
        (
            "denied-flood.sh",
            ("--next-ports", "--count", "50000", "--rate", "20000", "--port", "60000"),
            "there are not 50000 ports",
        ),
        ("connect-latency.sh", ("--count", "10000", "--pause-ms", "1000"), "takes more than 60 seconds"),
        ("throughput.sh", ("--seconds", "61"), "not a whole number from 1 to 60"),
    ],
)
def test_loads_are_bounded(name: str, words: tuple[str, ...], complaint: str) -> None:
    given = ("--target", "10.73.1.2", *(() if name == "throughput.sh" else ("--port", "80")), *words)
    done = subprocess.run([str(SCRIPTS / name), *given], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr


def test_connections_at_a_rate_are_all_accepted(box: Box) -> None:
    done = script(box, "connection-rate.sh", "--target", SERVER.address(4), "--port", "80", "--count", "200", "--rate", "400")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "200 SYN to 10.73.1.2" in done.stdout
    assert "refused 0" in done.stdout


def test_connections_that_are_denied_are_missed(box: Box) -> None:
    done = script(
        box, "connection-rate.sh", "--target", SERVER.address(4), "--port", str(DENIED), "--count", "20", "--rate", "100"
    )
    assert done.returncode == 1
    assert "accepted 0, refused 0, unanswered 20" in done.stdout


@pytest.mark.parametrize("words", [(), ("--next-ports",)])
def test_a_denied_flood_sees_no_answer(box: Box, words: tuple[str, ...]) -> None:
    given = ("--target", SERVER.address(4), "--port", str(DENIED), "--count", "100", "--rate", "400", *words)
    done = script(box, "denied-flood.sh", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepted 0, refused 0, answered by ICMP 0" in done.stdout


@pytest.mark.parametrize("port", ["80", "5000"])
def test_a_flood_that_is_answered_is_told_as_not_denied(box: Box, port: str) -> None:
    """Accepted by who listens, or refused by the host: in either case it got there."""
    done = script(box, "denied-flood.sh", "--target", SERVER.address(4), "--port", port, "--count", "20", "--rate", "100")
    assert done.returncode == 1
    assert "Something was answered" in done.stdout


@pytest.mark.parametrize("family", [4, 6])
def test_connects_are_timed(box: Box, family: int) -> None:
    given = ("--target", SERVER.address(family), "--port", "80", "--count", "20", "--pause-ms", "1")
    done = script(box, "connect-latency.sh", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20" in done.stdout


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_throughput_is_that_of_the_receiver(box: Box, tmp_path: Path, family: int, protocol: str) -> None:
    server = box.popen(SERVER.name, ["iperf3", "--server", "--one-off"], log=tmp_path / "server.log")
    try:
        words = ("--target", SERVER.address(family), "--seconds", "1", "--protocol", protocol)
        done = script(box, "throughput.sh", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "receiver" in done.stdout
    finally:
        server.terminate()
        server.wait()


def test_a_server_that_is_not_there_is_said(box: Box) -> None:
    done = script(box, "throughput.sh", "--target", SERVER.address(4), "--seconds", "1")
    assert done.returncode == 1
    assert "no measurement from 10.73.1.2" in done.stderr
