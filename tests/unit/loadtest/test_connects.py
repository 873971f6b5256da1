"""Quantiles of latency, allowed connections in the clusters of the load test, and the names in targets."""

import json

from ipaddress import ip_address
from pathlib import Path

import pytest

from loadtest.clusters import CLIENTS, PORT, SERVER, write
from loadtest.connect_load import client_cluster
from loadtest.connects import Connects, Load, quantile_of
from loadtest.ipset_chain import render
from loadtest.parameters import Parameters
from loadtest.shapes import SHAPES
from loadtest.syn_flood import MANY_TUPLES, ONE_TUPLE
from netpolq.cli import main

NEW = ("connect-latency", "repeated-decisions", "denied-flood", "established")


@pytest.mark.parametrize(
    ("quantile", "count", "expected"),
    [
        (0.5, 1, 1),
        (0.5, 4, 2),
        (0.5, 5, 3),
        (0.99, 100, 99),
        (0.999, 1000, 999),
        (0.999, 1001, 1000),
        (1.0, 10, 10),
        (0.0, 10, 1),
    ],
)
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(quantile: float, count: int, expected: int) -> None:
    """Values from 1 to count: each is its own rank."""
    assert quantile_of(range(1, count + 1), quantile) == expected


def test_the_distribution_never_falls_and_contains_what_targets_are_about() -> None:
    found = Connects(
        connected=7, failed=0, late=0, seconds=2.0, cpu_s=0.1, ordered_ns=[1000, 2000, 3000, 4000, 5000, 9000, 70_000]
    )
    curve = found.distribution_us()
    assert list(curve.values()) == sorted(curve.values())
    assert (curve[0.5], curve[0.99], found.per_s) == (4.0, 70.0, 3.5)


def test_a_load_is_bounded_by_count_or_by_time() -> None:
    assert Load(count=5).argv() == ["--count", "5"]
    assert Load(seconds=2.0, rate_per_s=100.0).argv() == ["--seconds", "2.0", "--rate", "100.0"]


@pytest.mark.parametrize("policies", [1, 20])
@pytest.mark.parametrize("family", [4, 6])
def test_clients_reach_the_server_at_its_port_and_nowhere_else(
    policies: int, family: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So the connects of every shape are accepted, and what is flooded is denied, also for a client."""
    write(tmp_path / "cluster", client_cluster(policies).bodies())
    closed = [int(kind.destination_ports.split("-")[0]) for kind in (ONE_TUPLE, MANY_TUPLES)]
    for port, expected in ((PORT, "accept"), *((port, "drop") for port in closed)):
        for client in CLIENTS:
            argv = ["explain", "--manifests", str(tmp_path / "cluster"), "--output", "json", "--src", client.address(family)]
            main([*argv, "--dst", SERVER.address(family), "--protocol", "TCP", "--port", str(port)])
            assert json.loads(capsys.readouterr().out)["verdict"].lower() == expected


def test_the_floods_leave_out_the_port_that_is_allowed() -> None:
    for kind in (ONE_TUPLE, MANY_TUPLES):
        first, _, last = kind.destination_ports.partition("-")
        assert not int(first) <= PORT <= int(last or first)


def test_the_chain_lets_a_client_in_by_the_rule_in_the_middle() -> None:
    sets, rules = render(client_cluster(20).bodies())
    chain = [line for line in rules.splitlines() if "--match-set" in line]
    client = ip_address(CLIENTS[0].address(4))
    holders = {line.split()[1] for line in sets.splitlines() if line.startswith("add src-") and line.endswith(f" {client}")}
    positions = [number for number, line in enumerate(chain) if line.split("--match-set ")[1].split()[0] in holders]
    assert positions == [10]
    assert f"-p tcp --dport {PORT} -j ACCEPT" in chain[10]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NEW)
def test_targets_are_about_variants_of_the_shape(name: str, quick: bool) -> None:
    shape = SHAPES[name](Parameters(quick=quick))
    names = {variant.name for variant in shape.variants()}
    assert len(names) == len(shape.variants())
    for target in shape.targets():
        assert {target.subject, target.reference or target.subject} <= names
        assert (target.at_least is None) != (target.at_most is None)
