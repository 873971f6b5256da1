"""Decisions in the kernel never outlive the policies that they come from: real connections while policies change at random."""

import random
import select
import socket
import struct
import threading
import time

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import pytest

from loadtest.testbed import manifests, netns
from loadtest.testbed.manifests import Body
from tests.support.cluster import Cluster
from tests.support.cluster_policies import cluster_policy
from tests.support.four_pods import NODE, PODS, cluster_with, ingress, pod_peer
from tests.support.sizes import is_full, sized

CLIENTS = ("x/b", "x/c", "x/d")
PORTS = (9000, 9001)
FAMILIES = (4, 6)
KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}
CHANGES = max(sized(25, "caches"), 5)
REPETITIONS = 2 if is_full("caches") else 1
DWELL_S = 0.15
"""Long enough for a decision to be repeated, sent as a hint, and added to the verdict cache."""

MAX_IN_FLIGHT = 2 * 4096
"""Packets that both queues together can hold: when as many have come, those from before are gone."""

MIN_COMPARED = 40
"""Datagrams for each change, on average, that a test must have compared to prove something."""

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_RECEIVE_BUFFER_BYTES = 1 << 22
"""Seconds of datagrams. The default holds 0.1 s, and a receiver that is slower for a moment would lose what was admitted."""

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
        self.sent: list[tuple[Datagram, int]] = []
        """Datagrams, and when each had left its client: on a busy machine that may be long after `sent_ns`."""
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
                self.sent.append((datagram, time.monotonic_ns()))
            time.sleep(0.001)

    def _receive(self) -> None:
        netns.enter(self._box.namespaces["x/a"])
        with ExitStack() as stack:
            servers = []
            for port, family in product(PORTS, FAMILIES):
                server = stack.enter_context(socket.socket(KINDS[family], socket.SOCK_DGRAM))
                server.bind((self._box.address("x/a", family), port))
                server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
                servers.append(server)
            last_ns = 0
            while not self._stop.is_set() or time.monotonic_ns() < last_ns:
                if not self._stop.is_set():
                    last_ns = time.monotonic_ns() + 300_000_000  # packets in flight may still arrive
                for server in select.select(servers, [], [], 0.05)[0]:
                    client, port, family, sent_ns = PAYLOAD.unpack(server.recv(64))
                    self.arrived.add(Datagram(CLIENTS[client], PORTS[port], family, sent_ns))


FLAGS = ("--workers", "2", "--no-fanout", "--fail-open=false")


@pytest.fixture
def caching() -> Iterator[Cluster]:
    with cluster_with(*FLAGS, "--verdict-cache=on") as started:
        yield started


@pytest.fixture
def queueing() -> Iterator[Cluster]:
    """Every first packet goes to a worker, so that its flow cache decides alone."""
    with cluster_with(*FLAGS, "--verdict-cache=off") as started:
        yield started


World = tuple[list[Body], frozenset[tuple[str, int]]]
"""Manifests, and the clients and ports that they admit."""


class Rule(NamedTuple):
    """A rule about clients of one colour."""

    action: str
    colour: str
    ports: tuple[int, ...]


def random_world(rng: random.Random) -> World:
    """Labels of the clients and policies about labels, and what follows for each client and port."""
    labels = {name: rng.choice("rg") for name in CLIENTS}
    grants = [Rule("Accept", rng.choice("rg"), tuple(rng.sample(PORTS, rng.randrange(1, 3)))) for _ in range(rng.randrange(3))]
    isolated = rng.random() < 0.9
    policies = [ingress(*map(grant_body, grants))] if isolated else []
    admitted = {
        (name, port)
        for name, port in product(CLIENTS, PORTS)
        if not isolated or any(labels[name] == grant.colour and port in grant.ports for grant in grants)
    }
    return [*coloured_pods(labels), *policies], frozenset(admitted)


def coloured_pods(labels: Mapping[str, str]) -> list[Body]:
    """The namespace and its pods, some with a colour."""
    colours = {host.name: {"colour": labels[host.name]} if host.name in labels else {} for host in PODS}
    return [manifests.namespace("x"), *(manifests.pod(host, NODE, pod=host.name[-1], **colours[host.name]) for host in PODS)]


def random_tiers(rng: random.Random) -> World:
    """Labels of the clients, rules of the Admin and the Baseline tier, and a NetworkPolicy between them in half of all worlds."""
    labels = {name: rng.choice("rg") for name in CLIENTS}
    admin, baseline = ([random_rule(rng) for _ in range(rng.randrange(5))] for _ in range(2))
    grants = [Rule("Accept", rng.choice("rg"), (rng.choice(PORTS),)) for _ in range(rng.randrange(3))]
    isolated = rng.random() < 0.5
    policies: list[Body] = [
        cluster_policy(
            f"{tier}-{priority}".lower(), subject=pod_peer("a"), tier=tier, priority=priority, ingress=[rule_body(rule)]
        )
        for tier, rules in (("Admin", admin), ("Baseline", baseline))
        for priority, rule in enumerate(rules)
    ]
    if isolated:
        policies.append(ingress(*map(grant_body, grants)))
    end = [Rule("Deny", colour, PORTS) for colour in "rg"]
    tiers = [admin, [*grants, *end] if isolated else [], baseline]
    admitted = {(name, port) for name, port in product(CLIENTS, PORTS) if is_admitted(tiers, labels[name], port)}
    return [*coloured_pods(labels), *policies], frozenset(admitted)


def random_rule(rng: random.Random) -> Rule:
    return Rule(rng.choice(("Accept", "Deny", "Pass")), rng.choice("rg"), tuple(rng.sample(PORTS, rng.randrange(1, 3))))


def grant_body(rule: Rule) -> Body:
    """A rule of a NetworkPolicy."""
    return {
        "from": [{"podSelector": {"matchLabels": {"colour": rule.colour}}}],
        "ports": [{"protocol": "UDP", "port": port} for port in rule.ports],
    }


def rule_body(rule: Rule) -> Body:
    """A rule of a cluster-wide policy."""
    return {
        "action": rule.action,
        "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"colour": rule.colour}}}}],
        "protocols": [{"udp": {"destinationPort": {"number": port}}} for port in rule.ports],
    }


def is_admitted(tiers: list[list[Rule]], colour: str, port: int) -> bool:
    """Whether the tiers, in order, admit a client: the first rule of a tier that matches decides, or passes to the next tier."""
    for rules in tiers:
        action = next((rule.action for rule in rules if rule.colour == colour and port in rule.ports), "Pass")
        if action != "Pass":
            return action == "Accept"
    return True


def wait_until_decided(cluster: Cluster) -> None:
    """Wait until each datagram that was sent before has its verdict. On a busy machine it may wait, and would meet the next policies."""
    sent = cluster.agent.packets_queued()
    while any(queue.queue_total for queue in cluster.agent.queues()) and cluster.agent.packets_queued() - sent < MAX_IN_FLIGHT:
        time.sleep(0.001)


def evaluated_by_what_is_in_force(cluster: Cluster, worlds: Iterable[World], rng: random.Random) -> int:
    """Apply worlds one after the other while clients send. Returns how many datagrams were compared with the world of their time."""
    traffic = Traffic(cluster)
    periods = []
    with traffic.running():
        for bodies, admitted in worlds:
            cluster.replace(bodies)
            began_ns = time.monotonic_ns()
            time.sleep(rng.uniform(0, 2 * DWELL_S))
            periods.append(Period(admitted=admitted, began_ns=began_ns, ended_ns=time.monotonic_ns()))
            wait_until_decided(cluster)
    evaluated = 0
    for period in periods:
        for datagram, left_ns in traffic.sent:
            if period.began_ns < datagram.sent_ns and left_ns < period.ended_ns:
                evaluated += 1
                expected = (datagram.client, datagram.port) in period.admitted
                assert (datagram in traffic.arrived) is expected, f"{datagram} in {period}"
    assert evaluated > MIN_COMPARED * len(periods)
    return evaluated


WORLDS = pytest.mark.parametrize("world", [random_world, random_tiers])


@WORLDS
def test_no_connection_is_evaluated_by_a_policy_that_is_not_in_force_any_more(
    caching: Cluster, world: Callable[[random.Random], World]
) -> None:
    rng = random.Random(1)
    evaluated = evaluated_by_what_is_in_force(caching, (world(rng) for _ in range(CHANGES)), rng)
    assert caching.agent.status()["verdict_cache"]["hits"] > evaluated / 10, "a cache that is not used proves nothing"
    assert "netpolq_kernel_verdict_cache_refused_hints_total" in caching.agent.metrics()


def test_the_flow_cache_of_a_worker_holds_no_decision_of_tiers_that_are_not_in_force_any_more(queueing: Cluster) -> None:
    rng = random.Random(3)
    evaluated_by_what_is_in_force(queueing, (random_tiers(rng) for _ in range(CHANGES)), rng)


@pytest.mark.parametrize("tier", ["Admin", "Baseline"])
def test_a_rule_that_passes_and_then_denies_is_obeyed_by_both_caches(caching: Cluster, queueing: Cluster, tier: str) -> None:
    """Nothing else changes, so that the caches are all that could remember the rule."""
    labels = dict.fromkeys(CLIENTS, "r")
    rules = [Rule(action, "r", PORTS) for action in ("Pass", "Deny", "Pass", "Accept", "Deny")]
    worlds = [
        (
            [*coloured_pods(labels), cluster_policy("only", subject=pod_peer("a"), tier=tier, ingress=[rule_body(rule)])],
            frozenset() if rule.action == "Deny" else frozenset(product(CLIENTS, PORTS)),
        )
        for rule in rules
    ]
    for cluster in (caching, queueing):
        evaluated_by_what_is_in_force(cluster, worlds * REPETITIONS, random.Random(4))
