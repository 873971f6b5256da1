"""Decisions in the kernel never outlive the policies that they come from: real connections while policies change at random."""

import random
import select
import socket
import struct
import threading
import time

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import pytest

from loadtest.testbed import manifests, netns
from loadtest.testbed.manifests import Body, policy
from tests.support.cluster import Cluster
from tests.support.four_pods import NODE, PODS, cluster_with

CLIENTS = ("x/b", "x/c", "x/d")
PORTS = (9000, 9001)
FAMILIES = (4, 6)
KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
CHANGES = 25
DWELL_S = 0.15
"""Long enough for a decision to be repeated, sent as a hint, and added to the verdict cache."""

PAYLOAD = struct.Struct("=BBBQ")


class Datagram(NamedTuple):
    """A datagram, the only one of its connection."""

    client: str
    port: int
    family: int
    sent_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The peers that may reach each port of pod a, while nothing changes."""

    admitted: frozenset[tuple[str, int]]
    began_ns: int
    ended_ns: int


class Traffic:
    """Clients that open connections to pod a one after the other, and the datagrams that arrive there."""

    def __init__(self, cluster: Cluster) -> None:
        self._box = cluster.box
        self._stop = threading.Event()
        self.sent: list[Datagram] = []
        self.arrived: set[Datagram] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._receive),
            *(threading.Thread(target=self._send, args=(name,)) for name in CLIENTS),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send(self, name: str) -> None:
        netns.enter(self._box.namespaces[name])
        # A source port that is used again would belong to an established connection, which policies do not cut here.
        for source_port in range(1024, 65536):
            if self._stop.is_set():
                return
            for port, family in product(PORTS, FAMILIES):
                with socket.socket(KINDS[family], socket.SOCK_DGRAM) as connection:
                    connection.bind(("", source_port))
                    datagram = Datagram(name, port, family, time.monotonic_ns())
                    connection.sendto(
                        PAYLOAD.pack(CLIENTS.index(name), PORTS.index(port), family, datagram.sent_ns),
                        (self._box.address("x/a", family), port),
                    )
                self.sent.append(datagram)
            time.sleep(0.001)

    def _receive(self) -> None:
        netns.enter(self._box.namespaces["x/a"])
        with ExitStack() as stack:
            servers = []
            for port, family in product(PORTS, FAMILIES):
                server = stack.enter_context(socket.socket(KINDS[family], socket.SOCK_DGRAM))
                server.bind((self._box.address("x/a", family), port))
                servers.append(server)
            last_ns = 0
            while not self._stop.is_set() or time.monotonic_ns() < last_ns:
                if not self._stop.is_set():
                    last_ns = time.monotonic_ns() + 300_000_000  # packets in flight may still arrive
                for server in select.select(servers, [], [], 0.05)[0]:
                    client, port, family, sent_ns = PAYLOAD.unpack(server.recv(64))
                    self.arrived.add(Datagram(CLIENTS[client], PORTS[port], family, sent_ns))


@pytest.fixture
def caching() -> Iterator[Cluster]:
    with cluster_with("--workers", "2", "--no-fanout", "--fail-open=false", "--verdict-cache=on") as started:
        yield started


def random_world(rng: random.Random) -> tuple[list[Body], frozenset[tuple[str, int]]]:
    """Labels of the clients and policies about labels, and what follows for each client and port."""
    labels = {name: rng.choice("rg") for name in CLIENTS}
    grants = [(rng.choice("rg"), rng.sample(PORTS, rng.randrange(1, 3))) for _ in range(rng.randrange(3))]
    rules: list[Body] = [
        {
            "from": [{"podSelector": {"matchLabels": {"colour": colour}}}],
            "ports": [{"protocol": "UDP", "port": port} for port in ports],
        }
        for colour, ports in grants
    ]
    isolated = rng.random() < 0.9
    policies = (
        [policy("x/a", podSelector={"matchLabels": {"pod": "a"}}, policyTypes=["Ingress"], ingress=rules)] if isolated else []
    )
    pods = [
        manifests.pod(host, NODE, pod=host.name[-1], **({"colour": labels[host.name]} if host.name in labels else {}))
        for host in PODS
    ]
    admitted = {
        (name, port)
        for name, port in product(CLIENTS, PORTS)
        if not isolated or any(labels[name] == colour and port in ports for colour, ports in grants)
    }
    return [manifests.namespace("x"), *pods, *policies], frozenset(admitted)


@pytest.mark.parametrize("seed", range(2))
def test_no_connection_is_evaluated_by_a_policy_that_is_not_in_force_any_more(caching: Cluster, seed: int) -> None:
    rng = random.Random(seed)
    traffic = Traffic(caching)
    periods = []
    with traffic.running():
        for _ in range(CHANGES):
            bodies, admitted = random_world(rng)
            caching.replace(bodies)
            began_ns = time.monotonic_ns()
            time.sleep(rng.uniform(0, 2 * DWELL_S))
            periods.append(Period(admitted=admitted, began_ns=began_ns, ended_ns=time.monotonic_ns()))
        status = caching.agent.status()
        metrics = caching.agent.metrics()
    evaluated = 0
    for period in periods:
        # A datagram sent just before the end may meet the next policies; the end is taken before these are written.
        for datagram in traffic.sent:
            if period.began_ns < datagram.sent_ns < period.ended_ns - 5_000_000:
                evaluated += 1
                expected = (datagram.client, datagram.port) in period.admitted
                assert (datagram in traffic.arrived) is expected, f"{datagram} in {period}"
    assert evaluated > 1000
    assert status["verdict_cache"]["hits"] > evaluated / 10, "a cache that is not used proves nothing"
    assert "netpolq_kernel_verdict_cache_refused_hints_total" in metrics
