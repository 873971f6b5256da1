"""The scripts of the load test reject invalid arguments before they send a packet, and pass shellcheck."""

import os
import re
import shutil
import subprocess

from pathlib import Path

import pytest

from loadtest.testbed.box import CHECKOUT
from tests.support.deployment import LOADTEST, tool

SCRIPTS = CHECKOUT / "loadtest/scripts"
NAMES = ("connect-latency.sh", "connection-rate.sh", "denied-flood.sh", "throughput.sh")
WITH_PORT = ("connect-latency.sh", "connection-rate.sh", "denied-flood.sh")
WITH_HPING = ("connection-rate.sh", "denied-flood.sh")
TARGET = ("--target", "192.0.2.1")  # RFC 5737: no host has it


def run(name: str, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`path`: the only folder in which programs are found."""
    environment = dict(os.environ) if path is None else {"PATH": str(path)}
    argv = ["/bin/bash", str(SCRIPTS / name), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20, env=environment)


def refused(name: str, *words: str, path: Path | None = None) -> str:
    """Return the error message of a script. It prints nothing else, and its exit code means that nothing was sent."""
    done = run(name, *words, path=path)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith(f"{name}: ")
    return done.stderr


def test_shellcheck_finds_nothing() -> None:
    shellcheck = tool("shellcheck", "Debian's package of the same name")
    scripts = [*SCRIPTS.glob("*.sh"), *LOADTEST.glob("*.sh")]
    assert len(scripts) == len(NAMES) + 2
    argv = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *map(str, scripts)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=CHECKOUT, timeout=60)
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_flag_and_exit_code(name: str) -> None:
    done = run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    flags = set(re.findall(r"(?m)^    (--[a-z-]+)\)", (SCRIPTS / name).read_text(encoding="utf-8"))) - {"--help"}
    assert flags
    assert {flag for flag in flags if f"  {flag}" not in done.stdout} == set()
    assert re.search(r"exit codes: 0 .*1 .*2 ", done.stdout, re.DOTALL)
    assert "Interpretation: " in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_without_an_explicit_address_nothing_runs(name: str) -> None:
    assert "--target ADDRESS is required" in refused(name, *(("--port", "80") if name in WITH_PORT else ()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "target",
    [
        "server.example",
        "10.0.0",
        "10.0.0.256",
        "10.0.0.0/8",
        "224.0.0.1",
        "255.255.255.255",
        "0.0.0.1",
        "ff02::1",
        "fd00:1",
        "-c",
    ],
)
def test_what_is_not_the_address_of_one_host_is_refused(name: str, target: str) -> None:
    assert f"--target {target}: " in refused(name, "--target", target, *(("--port", "80") if name in WITH_PORT else ()))


@pytest.mark.parametrize("name", WITH_PORT)
def test_without_a_port_nothing_runs(name: str) -> None:
    assert "--port N is required" in refused(name, *TARGET)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, ("--count", "50001")) for name in WITH_HPING),
        *((name, ("--rate", "20001")) for name in WITH_HPING),
        *((name, ("--count", "0")) for name in WITH_PORT),
        *((name, ("--port", "65536")) for name in NAMES),
        *((name, ("--port", "1; id")) for name in NAMES),
        ("connect-latency.sh", ("--count", "10001")),
        ("connect-latency.sh", ("--pause-ms", "1001")),
        ("throughput.sh", ("--seconds", "61")),
        ("throughput.sh", ("--mbit-per-s", "40001")),
        ("throughput.sh", ("--protocol", "sctp")),
    ],
)
def test_limits_are_hard_and_named(name: str, words: tuple[str, str]) -> None:
    assert " ".join(words) in refused(name, *TARGET, *words)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_flag_and_one_without_a_value_are_named(name: str) -> None:
    assert "--fast: unknown" in refused(name, *TARGET, "--fast")
    assert "--port needs a value" in refused(name, *TARGET, "--port")


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        *((name, ("--count", "6001", "--rate", "100"), "more than 60 seconds") for name in WITH_HPING),
        ("connect-latency.sh", ("--count", "601", "--pause-ms", "100"), "more than 60 seconds"),
        (
            "denied-flood.sh",
            ("--next-ports", "--port", "65000", "--count", "1000"),
            "there are fewer than 1000 ports from 65000 on",
        ),
    ],
)
def test_runs_that_are_too_long_or_need_too_many_ports_are_rejected(name: str, words: tuple[str, ...], complaint: str) -> None:
    assert complaint in refused(name, *TARGET, "--port", "80", *words)


@pytest.mark.parametrize("name", WITH_HPING)
def test_hping3_has_no_ipv6(name: str) -> None:
    assert "hping3 supports only IPv4" in refused(name, "--target", "fd00::1", "--port", "80")


@pytest.mark.parametrize(("name", "program"), [*((name, "hping3") for name in WITH_HPING), ("throughput.sh", "iperf3")])
def test_a_missing_program_is_named_with_its_package(name: str, program: str, tmp_path: Path) -> None:
    for needed in ("dirname", "readlink"):
        (tmp_path / needed).symlink_to(str(shutil.which(needed)))
    message = refused(name, *TARGET, *(("--port", "80") if name in WITH_PORT else ()), path=tmp_path)
    assert f"the program {program} is missing" in message
    assert "package" in message


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "one of server, client and syn"),
        (("server", "syn"), "only one of"),
        (("server",), "--image IMAGE is required"),
        (("server", "--image", "a b"), "'a b'"),
        (("server", "--image", "a|b"), "'a|b'"),
        (("client", "--image", "a"), "--target ADDRESS is required"),
        (("server", "--image", "a", "--target", "10.0.0.1"), "--target is only for client and syn"),
        (("agent",), "agent: unknown"),
    ],
)
def test_render_names_an_invalid_argument(words: tuple[str, ...], complaint: str) -> None:
    done = subprocess.run([LOADTEST / "render.sh", *words], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
